"""Customer service: a small model sorts requests, rules answer them, and a person decides where the model is unsure.

    python -m raftflow.examples.customer_service --requests 12

Every request is a workflow of its own, and urgent ones have a higher priority. A naive Bayes classifier, trained on a
few sentences, sorts a request. If it is sure, a rule answers. If it is not, or money is asked for, a person decides:
the workflow waits for an approval and holds no slot meanwhile. Nobody has to come: after a deadline the request gets
the answer of its sort. The answer is sent once, whatever dies on the way.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import raftflow

EXAMPLES = {
    "refund": (
        "i want my money back",
        "please refund my last order",
        "you charged me twice return the money",
        "the refund for my order did not come",
    ),
    "delivery": (
        "where is my parcel",
        "my order has not arrived",
        "the delivery is late",
        "when does the parcel come",
    ),
    "account": (
        "i cannot log in",
        "reset my password please",
        "my account is locked",
        "how do i change my email",
    ),
}
ANSWERS = {
    "refund": "Your refund is on its way.",
    "delivery": "Your parcel arrives within two days.",
    "account": "We sent you a link to get into your account.",
}
VAGUE = ("it does not work", "hello are you there", "this is about my last call")
SURE = 0.75
"""From this probability on the model decides alone."""
DEADLINE = "3s"
"""How long a person has. In a real service: hours."""


def make_requests(count: int, seed: int) -> list[dict[str, Any]]:
    """Return requests with a number, a text, and whether they are urgent."""
    draw = random.Random(seed)
    texts = [text for examples in EXAMPLES.values() for text in examples] + list(VAGUE)
    return [{"number": number, "text": draw.choice(texts), "urgent": draw.random() < 0.3} for number in range(count)]


def classify(text: str) -> dict[str, Any]:
    """Return the sort of a request, and how probable it is: naive Bayes over the words of `EXAMPLES`."""
    words = {sort: Counter(" ".join(texts).split()) for sort, texts in EXAMPLES.items()}
    known = {word for counts in words.values() for word in counts}
    scores = {
        sort: sum(
            math.log((counts[word] + 0.1) / (counts.total() + 0.1 * len(known)))
            for word in text.split()
            if word in known
        )
        for sort, counts in words.items()
    }
    most = max(scores.values())
    weights = {sort: math.exp(score - most) for sort, score in scores.items()}
    sort = max(weights, key=weights.__getitem__)
    return {"sort": sort, "probability": round(weights[sort] / sum(weights.values()), 6)}


def send(outbox: str, number: int, text: str) -> str:
    """Send an answer: append it to a file. Returns what was sent."""
    with Path(outbox).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"number": number, "text": text}) + "\n")
    return text


def was_sent(outbox: str, number: int, text: str) -> bool:
    """Tell whether an answer to a request has left already."""
    path = Path(outbox)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return any(json.loads(line) == {"number": number, "text": text} for line in lines)


@raftflow.task(retries=3, kind="request")
def answer(ctx: raftflow.Context, request: dict[str, Any], outbox: str) -> dict[str, Any]:
    """Answer one request."""
    found = ctx.step("classify", classify, request["text"])
    text, by = ANSWERS[found["sort"]], "rule"
    if found["probability"] < SURE or found["sort"] == "refund":
        decision = ctx.approval(
            f"Answer request {request['number']}",
            details={"request": request["text"], "answer": text, **found},
            timeout=DEADLINE,
            on_timeout="approve",
        )
        by = "person" if decision.by else "deadline"
        if decision == "deny":
            text = decision.comment or "A colleague will call you."
    ctx.effect("send", send, outbox, request["number"], text, verify=was_sent)
    return {"number": request["number"], "sort": found["sort"], "by": by, "text": text}


def serve(client: raftflow.Client, requests: list[dict[str, Any]], outbox: str) -> list[raftflow.WorkflowRun]:
    """Start a workflow for every request, urgent ones with a higher priority."""
    runs = []
    for request in requests:
        with raftflow.Workflow(f"request-{request['number']}", priority=90 if request["urgent"] else 50) as flow:
            answer(request, outbox)
        runs.append(client.submit(flow, idempotency_key=f"{outbox}/{request['number']}"))
    return runs


def expected(requests: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Return the number and the sort of every request, computed in this process."""
    return [(request["number"], classify(request["text"])["sort"]) for request in requests]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=12)
    parser.add_argument("--outbox", default="outbox.jsonl")
    options = parser.parse_args()
    with raftflow.Client() as client:
        for run in serve(client, make_requests(options.requests, 1), str(Path(options.outbox).resolve())):
            print(json.dumps(run.results()["answer"]))
