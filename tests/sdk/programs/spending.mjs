// Budgets and rates in Node: what a step spends is counted with its record, and a budget that is used up parks.
import { writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { createInterface } from "node:readline";

const agent = createConnection(process.env.RAFTFLOW_SOCKET);
const answers = createInterface({ input: agent })[Symbol.asyncIterator]();

async function ask(request) {
  agent.write(JSON.stringify(request) + "\n");
  const { ok, error } = JSON.parse((await answers.next()).value);
  if (error?.type === "parked") process.exit(0); // a budget is used up: the task runs again when it is raised
  if (error) throw new Error(`${error.type}: ${error.detail}`);
  return ok;
}

async function paidStep(name, usd) {
  const begun = await ask({ call: "step", name });
  if (!begun.known) await ask({ call: "record", name, occurrence: begun.occurrence, spent: { usd } });
}

await ask({ call: "rate", limit: "llm", count: 2 });
await ask({ call: "spend", amounts: { usd: 0.5 } });
await paidStep("first", 1);
await paidStep("second", 0.25);
writeFileSync(process.env.RAFTFLOW_RESULT, '"done"');
process.exit(0);
