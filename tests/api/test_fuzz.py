"""Whatever a client sends, the replica goes on, and its invariants hold."""

from __future__ import annotations

import random
from typing import Any

import msgspec

ODD: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 1.5, 1e308, "", "a", "a1", "t0", "\x00",
    "é" * 300, "x" * 5000, [], {}, [[]], {"a": {}}, ["a", 1], {"": ""}, [None], "wf-1", "../..", "512MiB", "\u2028",
]  # fmt: skip

KEYS = {
    "workflow": ["name", "priority", "on_failure", "defaults", "tasks", "surprise"],
    "task": ["id", "needs", "command", "python", "args", "kwargs", "resources", "retries", "timeout", "env", "cwd",
             "expected", "constraints", "retry_delay", "retry_delay_max", "grace"],
    "agent": ["name", "instance", "resources", "labels", "prefetch", "pid", "version"],
    "poll": ["incarnation", "seq", "seen", "running", "queued", "ends", "logs", "load", "wait_ms", "leaving",
             "goodbye"],
    "end": ["fence", "workflow_id", "task_id", "outcome", "exit_code", "error", "result", "duration_ms"],
}  # fmt: skip


class Fuzz:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def spoil(self, kind: str, good: dict[str, Any]) -> dict[str, Any]:
        made = dict(good)
        for _ in range(self.rng.choice([0, 0, 1, 1, 2, 4])):
            made[self.rng.choice(KEYS[kind])] = self.rng.choice(ODD)
        if made and self.rng.random() < 0.1:
            del made[self.rng.choice(list(made))]
        return made

    def request(self, workflow: str, incarnation: int, fence: int, seq: int) -> tuple[str, str, Any]:
        rng = self.rng
        kind = rng.randrange(6)
        if kind == 0:
            tasks = [self.spoil("task", {"id": f"t{n}", "command": ["true"]}) for n in range(rng.randrange(4))]
            return "POST", "/v1/workflows", self.spoil("workflow", {"name": "w", "tasks": tasks})
        if kind == 1:
            good = {"name": "a1", "instance": "i" * 8, "resources": {"cpu": 2}}
            return "POST", "/v1/agents", self.spoil("agent", good)
        if kind in {2, 3}:
            end = {"fence": rng.choice([fence, fence + 1, 0]), "workflow_id": workflow, "task_id": "a"}
            ends = [self.spoil("end", {**end, "outcome": rng.choice(["succeeded", "failed", "released"])})]
            good = {"incarnation": incarnation, "seq": seq, "seen": fence, "ends": ends[: rng.randrange(2)]}
            return "POST", f"/v1/agents/{rng.choice(['a1', 'a2', '%00', 'a%2Fb'])}/poll", self.spoil("poll", good)
        action = rng.choice(
            ["cancel", "pause", "resume", "retry", "tasks", "tasks/a", "tasks/a/explain", "tasks/%ff"]
        )
        path = f"/v1/workflows/{rng.choice([workflow, 'x', '%F0%9F', '..', 'wf-'])}/{action}"
        query = rng.choice(["", "?stale", "?limit=5", "?limit=-5", "?cursor=%00", "?stale=1&limit=1"])
        return rng.choice(["GET", "POST"]), path + query, None


async def test_fuzzed_requests_do_not_stop_the_replica(one: Any) -> None:
    fuzz = Fuzz(7)
    workflow = await one.submit({"id": "a", "command": ["true"]})
    statuses: dict[int, int] = {}
    for seq in range(1, 1500):
        agent = one.replica.machine.state.agents.get("a1")
        incarnation = agent.incarnation if agent else 1
        method, path, body = fuzz.request(workflow, incarnation, one.replica.machine.state.fence, seq)
        if isinstance(body, dict):
            body.pop("wait_ms", None)
        answer = await one.call(method, path, raw=None if body is None else encode(body))
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        assert answer.status < 500, (method, path, body, answer.body)
        if answer.status >= 400:
            assert answer.word
    assert statuses.keys() >= {200, 201, 400, 404, 405, 409}, statuses
    assert (await one.get("/v1/ledger/verify")).json["problems"] == []
    assert (await one.get("/v1/audit/verify")).json["problems"] == []
    assert (await one.get("/readyz")).status == 200


def encode(body: Any) -> bytes:
    import json

    return json.dumps(body).encode()


async def test_random_bytes_do_not_stop_the_replica(one: Any) -> None:
    import asyncio

    rng = random.Random(3)
    good = msgspec.json.encode({"name": "w", "tasks": [{"id": "a", "command": ["true"]}]})
    for _ in range(200):
        spoiled = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        answer = await one.post("/v1/workflows", raw=bytes(spoiled))
        assert answer.status in {201, 400}, answer.body
    for _ in range(100):
        _, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
        writer.write(rng.choice([b"", b"POST /v1/workflows HTTP/1.1\r\n", b"GET / HTTP/9\r\n"]) + rng.randbytes(200))
        writer.write(b"\r\n\r\n")
        writer.close()
    assert (await one.get("/readyz")).status == 200
