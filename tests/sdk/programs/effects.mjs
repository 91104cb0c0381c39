// An effect in Node: the intent is in the log before the mail is sent, and a later attempt looks whether it was.
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { createInterface } from "node:readline";

const agent = createConnection(process.env.RAFTFLOW_SOCKET);
const waiting = [];
createInterface({ input: agent }).on("line", (line) => {
  const { ok, error } = JSON.parse(line);
  const { resolve, reject } = waiting.shift();
  if (error) reject(new Error(`${error.type}: ${error.detail}`));
  else resolve(ok);
});

function ask(request) {
  return new Promise((resolve, reject) => {
    waiting.push({ resolve, reject });
    agent.write(JSON.stringify(request) + "\n");
  });
}

async function effect(name, call, verify) {
  const begun = await ask({ call: "effect_begin", name, function: call.name });
  const { state, occurrence, idempotency_key: key } = begun;
  if (state === "done") return begun.result;
  if (state === "failed") throw new Error(begun.error);
  const result = (state === "open" && verify(key)) || call(key);
  await ask({ call: "effect_end", name, occurrence, outcome: "done", result });
  return result;
}

const file = process.argv[2];
const sent = (key) => readFileSync(file, "utf8").split("\n").includes(key) && key;
function send(key) {
  appendFileSync(file, key + "\n");
  if (process.env.RAFTFLOW_ATTEMPT === "1") process.exit(1); // it dies between the call and its outcome
  return key;
}
writeFileSync(process.env.RAFTFLOW_RESULT, JSON.stringify([await effect("mail", send, sent)]));
agent.end();
