// A signal and an approval in Node: the task parks while it waits, and this program runs again from its beginning.
import { writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { createInterface } from "node:readline";

const agent = createConnection(process.env.RAFTFLOW_SOCKET);
const answers = createInterface({ input: agent })[Symbol.asyncIterator]();

async function ask(request) {
  agent.write(JSON.stringify(request) + "\n");
  const { ok, error } = JSON.parse((await answers.next()).value);
  if (error) throw new Error(`${error.type}: ${error.detail}`);
  return ok;
}

// The record of a wait. Without one, park for it and end: the task runs again when the answer is there.
async function answerTo(request) {
  const { wait, record } = await ask(request);
  if (record) return record;
  await ask({ call: "park", waits: [wait] });
  process.exit(0);
}

const review = await answerTo({ call: "wait", name: "review", timeout: "1h", schema: { type: "object" } });
const asked = { title: "publish", details: { from: "node" }, timeout: "3d", on_timeout: "deny" };
const decision = await answerTo({ call: "approval", ...asked });
writeFileSync(process.env.RAFTFLOW_RESULT, JSON.stringify(`${decision.choice} with ${review.payload.stars} stars`));
process.exit(0);
