// Durable steps in Node: `step(name, run)` runs the function once over all attempts of the task.
import { appendFileSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { createInterface } from "node:readline";

const agent = createConnection(process.env.RAFTFLOW_SOCKET);
const waiting = new Map();
let number = 0;
createInterface({ input: agent }).on("line", (line) => {
  const { id, ok, error } = JSON.parse(line);
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(`${error.type}: ${error.detail}`));
  else resolve(ok);
});

function ask(request) {
  return new Promise((resolve, reject) => {
    number += 1;
    waiting.set(number, { resolve, reject });
    agent.write(JSON.stringify({ id: number, ...request }) + "\n");
  });
}

async function step(name, run) {
  const begun = await ask({ call: "step", name, function: run.name });
  if (begun.known) return begun.result;
  let result;
  try {
    result = await run();
  } catch (error) {
    await ask({ call: "fail", name, occurrence: begun.occurrence });
    throw error;
  }
  await ask({ call: "record", name, occurrence: begun.occurrence, function: run.name, result });
  return result;
}

const file = process.argv[2];
const note = (text) => async function note() {
  appendFileSync(file, text + "\n");
  return { text };
};
const many = await Promise.all(["a", "b", "c"].map((name) => step(name, note(name))));
const { result: now } = await ask({ call: "now" });
appendFileSync(file, `${now}\n`);
await ask({ call: "sleep", seconds: 0.01 });
if (process.env.RAFTFLOW_ATTEMPT === "1") process.exit(1); // it dies between two steps
const last = await step("last", note("last"));
writeFileSync(process.env.RAFTFLOW_RESULT, JSON.stringify([...many, last]));
agent.end();
