"""The route on which agents fetch large inputs: what it gives out, whoever is asked, and what it says otherwise."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.domain.commands import RetireWorkflows
from raftflow.machine.read import inputs as machine_inputs

BIG = "x" * 30_000
TRUE = {"command": ["true"]}


async def joined(leader: Any) -> tuple[str, int, int]:
    """Have `join` assigned to a1: it needs two large results and a null. Returns workflow, incarnation, fence."""
    parts = ("a", "b", "c")
    incarnation = await leader.register(cpu=4)
    workflow = await leader.submit(
        *({"id": part, **TRUE} for part in parts), {"id": "join", "needs": [*parts], **TRUE}
    )
    assigned: list[dict[str, Any]] = []
    seq = 0
    while len(assigned) < 3:
        seq += 1
        running = [each["fence"] for each in assigned]
        answer = await leader.poll(
            incarnation=incarnation, seq=seq, seen=max(running, default=0), running=running, fetches=True, wait_ms=500
        )
        assigned += answer.json.get("assign", [])
    ends = [
        {
            "fence": each["fence"],
            "workflow_id": workflow,
            "task_id": each["task_id"],
            "outcome": "succeeded",
            "result": None if each["task_id"] == "b" else BIG,
        }
        for each in assigned
    ]
    seen = max(each["fence"] for each in assigned)
    answer = await leader.poll(incarnation=incarnation, seq=seq + 1, seen=seen, ends=ends, fetches=True)
    found = answer.json.get("assign", [])
    while not found:
        seq += 1
        answer = await leader.poll(incarnation=incarnation, seq=seq + 1, seen=seen, fetches=True, wait_ms=500)
        found = answer.json.get("assign", [])
    (join,) = found
    assert (join["inputs_apart"], join.get("inputs", {})) == ({"count": 3, "size": 2 * (len(BIG) + 2)}, {})
    assert len(answer.body) < 2_000, "nothing large in the answer to a poll"
    return workflow, incarnation, join["fence"]


def path_of(fence: int | str, first: int | str | None = None, agent: str = "a1") -> str:
    return f"/v1/agents/{agent}/attempts/{fence}/inputs" + ("" if first is None else f"?first={first}")


async def test_pieces_follow_each_other_to_the_end(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, fence = await joined(one)
    whole = await one.get(path_of(fence))
    assert whole.json == {"inputs": {"a": BIG, "b": None, "c": BIG}, "next": None}
    assert whole.headers["Content-Type"].startswith("application/json")
    monkeypatch.setattr(machine_inputs, "INPUTS_PIECE_BYTES_MAX", len(BIG) + 10)
    first = (await one.get(path_of(fence, 0))).json
    assert first == {"inputs": {"a": BIG, "b": None}, "next": 2}
    assert (await one.get(path_of(fence, 2))).json == {"inputs": {"c": BIG}, "next": None}


async def test_an_agent_that_does_not_fetch_gets_all_with_the_assignment(one: Any) -> None:
    _, incarnation, fence = await joined(one)
    answer = (await one.poll(incarnation=incarnation, seq=99, seen=fence - 1)).json
    (join,) = answer["assign"]
    assert "inputs_apart" not in join
    assert join["inputs"] == {"a": BIG, "b": None, "c": BIG}


async def test_a_large_piece_waits_for_its_turn_among_heavy_calls(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another heavy call is at work a large piece waits, and a small one does not."""
    _, _, fence = await joined(one)
    monkeypatch.setattr("raftflow.api.routes.inputs.SMALL_BYTES", len(BIG) + 20)
    async with one.server.admission.shedder.heavy():
        waiting = asyncio.ensure_future(one.get(path_of(fence)))
        assert (await one.get(path_of(fence, 2))).status == 200
        await one.until(lambda: one.server.admission.shedder.waiting == 1)
        assert not waiting.done()
    assert len((await waiting).json["inputs"]) == 3


async def test_invalid_queries_are_refused(one: Any) -> None:
    workflow, incarnation, fence = await joined(one)
    await one.register("a2", instance="j" * 8)
    for path, status, word in (
        (path_of(fence, 3), 400, "invalid-document"),
        (path_of(fence, 10_000), 400, "invalid-document"),
        (path_of(fence, 10_001), 400, "invalid-document"),
        (path_of(fence, -1), 400, "invalid-document"),
        (path_of("x"), 400, "invalid-document"),
        (path_of(-1), 400, "invalid-document"),
        (path_of(2**63 - 1), 503, "behind"),
        (path_of(2**63), 400, "invalid-document"),
        (path_of("9" * 20), 400, "invalid-document"),
        (path_of(fence) + "?from=0", 400, "invalid-document"),
        (path_of(fence, agent="a2"), 409, "conflict"),
        (path_of(fence, agent="nobody"), 409, "conflict"),
        (path_of(1), 409, "conflict"),
        (path_of(fence + 1), 503, "behind"),
    ):
        answer = await one.get(path)
        assert (answer.status, answer.word) == (status, word), path
    behind = await one.get(path_of(fence + 1))
    assert behind.headers["Retry-After"] == "1"
    await one.post(f"/v1/workflows/{workflow}/cancel")
    assert (await one.get(path_of(fence))).status == 200, "the agent has not ended it yet"
    end = {"fence": fence, "workflow_id": workflow, "task_id": "join", "outcome": "cancelled"}
    await one.poll(incarnation=incarnation, seq=100, seen=fence, ends=[end])
    over = await one.get(path_of(fence))
    assert (over.status, over.word) == (409, "conflict")
    replica = one.replica
    await replica.propose(RetireWorkflows(at_ms=replica.clock.now_ms(), actor="test", before_ms=2**53))
    assert (await one.get(f"/v1/workflows/{workflow}")).status == 404
    assert (await one.get(path_of(fence))).status == 409


async def test_every_replica_gives_out_inputs_and_none_forwards_the_request(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    _, _, fence = await joined(leader)
    for follower in cluster.followers():
        await follower.until(lambda one=follower: one.replica.machine.state.fence >= fence)
        answer = await follower.get(path_of(fence))
        assert answer.json == {"inputs": {"a": BIG, "b": None, "c": BIG}, "next": None}
        assert "X-Raftflow-Leader-Url" not in answer.headers
        ahead = await follower.get(path_of(fence + 1), headers={"X-Raftflow-Forwarded": "10.0.0.9"})
        assert (ahead.status, ahead.word) == (503, "behind")


async def test_the_token_is_needed(serve: Any) -> None:
    served = await serve(token="t" * 32)
    assert (await served.get(path_of(1))).status == 401
