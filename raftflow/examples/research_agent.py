"""A research agent: it asks a model what to do next, uses tools, sends sub-agents, and stops at its budget.

    python -m raftflow.examples.research_agent "How do replicas agree?"

In each round the model names the next searches. A sub-agent reads each source that was found: a child task with calls
of the model of its own. Every call of the model is a durable step, so one that was paid for is not repeated after a
crash, and its tokens count in the budget of the workflow. In the end a person approves the report. It is published
once.

The model here is a stand-in that computes its answers. `examples/README.md` shows what to change for a real one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import raftflow

SOURCES = {
    "raft": "Replicas elect a leader. The leader appends entries to a replicated log. A majority commits an entry.",
    "log": "A replicated log orders commands. Each replica applies the log. Snapshots bound the log.",
    "majority": "Two majorities share a member. So a committed entry survives the loss of a minority.",
    "leader": "A leader holds a term. A new term fences the old leader. Clients follow the leader.",
    "snapshots": "Snapshots keep the state at one entry. A new replica installs snapshots before the log.",
    "lease": "A lease ends by itself. A silent agent loses its lease, and its tasks run elsewhere.",
}
"""The sources that a sub-agent can read."""
ROUNDS = 3


class Completion(NamedTuple):
    """The answer of a model, and what it cost."""

    text: str
    tokens: int


class LanguageModel(Protocol):
    """What the agent needs of a model."""

    def complete(self, prompt: str) -> Completion:
        """Answer a prompt."""
        ...


class StandIn:
    """A model without a model: each kind of prompt has a rule. The same prompt always has the same answer."""

    def complete(self, prompt: str) -> Completion:
        """Answer a prompt of this module. Its first line names the kind."""
        kind, _, rest = prompt.partition("\n")
        if kind == "next searches":
            known, text = rest.partition("\n")[::2]
            words = (word.strip(".,?").lower() for word in text.split())
            found = [word for word in dict.fromkeys(words) if word in SOURCES and word not in known.split()]
            answer = " ".join(found[:2])
        elif kind == "summarise":
            answer = rest.partition(". ")[0].rstrip(".") + "."
        else:
            answer = "\n".join(sorted(dict.fromkeys(rest.splitlines())))
        return Completion(answer, len(prompt.split()) + len(answer.split()))


MODEL: LanguageModel = StandIn()
USD_PER_1000_TOKENS = 0.01


def ask(prompt: str) -> str:
    """Ask the model. What it cost is counted with the step that this runs in."""
    answer = MODEL.complete(prompt)
    raftflow.current().spend(tokens=answer.tokens, usd=round(answer.tokens * USD_PER_1000_TOKENS / 1000, 6))
    return answer.text


@raftflow.task(retries=3, kind="reader")
def read(ctx: raftflow.Context, source: str) -> str:
    """Be a sub-agent: read a source, and return what the model makes of it."""
    return ctx.step("summarise", ask, f"summarise\n{SOURCES[source]}")


def publish(folder: str, report: str, idempotency_key: str) -> str:
    """Publish a report: one that comes again under the same key changes nothing. Returns where it is."""
    path = Path(folder) / f"{idempotency_key.replace('/', '_')}.txt"
    path.write_text(report, encoding="utf-8")
    return path.name


@raftflow.task(retries=3, budgets={"tokens": 10_000, "usd": 1.0})
def main(ctx: raftflow.Context, question: str, folder: str) -> dict[str, Any]:
    """Answer a question in a report."""
    known: list[str] = []
    notes: list[str] = [question]
    for _ in range(ROUNDS):
        searches = ctx.step("plan", ask, "next searches\n" + " ".join(known) + "\n" + " ".join(notes)).split()
        if not searches:
            break
        notes += ctx.map(read, searches, key=f"read-{len(known)}")
        known += searches
    report = ctx.step("write", ask, "write a report\n" + "\n".join(notes[1:]))
    decision = ctx.approval("Publish the report", details=report, timeout="3d", on_timeout="deny")
    if decision == "approve":
        report = decision.payload or report
        ctx.effect("publish", publish, folder, report, idempotent=True)
    return {"sources": known, "report": report, "published": decision == "approve"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("question", nargs="?", default="How does the leader of raft use the log?")
    parser.add_argument("--folder", default=".")
    options = parser.parse_args()
    with raftflow.Client() as client:
        run = client.start(main, options.question, str(Path(options.folder).resolve()))
        print(f"workflow {run.id}: see `raftflow approval list`, and approve")
        print(json.dumps(run.result(), indent=2))
