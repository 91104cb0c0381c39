"""Three real replicas in one process: forwarding, redirection, a leader that goes."""

from __future__ import annotations

import asyncio
from typing import Any

from raftflow.coordinator.config.replica_config import Limits

WORK = {"id": "a", "command": ["true"]}


async def test_followers_forward_and_redirect(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    workflow = await follower.submit(WORK)
    shown = await follower.get(f"/v1/workflows/{workflow}")
    assert shown.status == 200
    assert shown.json["id"] == workflow
    assert shown.headers["X-Raftflow-Leader"] == leader.config.name
    assert shown.headers["X-Raftflow-Leader-Url"] == leader.url
    assert "X-Raftflow-Leader-Url" not in (await leader.get(f"/v1/workflows/{workflow}")).headers
    incarnation = await follower.register()
    answer = await follower.poll(incarnation=incarnation, seq=1)
    assert answer.status == 307
    assert answer.headers["Location"] == f"{leader.url}/v1/agents/a1/poll"
    answer = await leader.poll(incarnation=incarnation, seq=1, wait_ms=1000)
    assert [item["task_id"] for item in answer.json["assign"]] == ["a"]


async def test_a_held_poll_is_sent_to_the_new_leader(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    incarnation = await leader.register()
    polling = asyncio.ensure_future(leader.poll(incarnation=incarnation, seq=1, wait_ms=1000))
    await leader.until(lambda: leader.replica.poll_service.held > 0)
    assert await leader.replica.hand_over()
    answer = await polling
    successor = await cluster.leader(other_than=leader.config.name)
    assert answer.status == 307
    assert answer.headers["Location"].startswith(successor.url)
    assert (await leader.get("/v1/agents/a1")).json["state"] == "up"


async def test_a_held_read_is_answered_when_leadership_moves(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    path = f"/v1/workflows/{await leader.submit(WORK)}"
    reading = asyncio.ensure_future(leader.get(f"{path}?wait_ms=10000"))
    await leader.until(lambda: leader.replica.awaited.count > 0)
    assert await leader.replica.hand_over()
    async with asyncio.timeout(5):
        assert (await reading).json["state"] == "pending"
    # A follower holds what asks for its own view.
    reading = asyncio.ensure_future(leader.get(f"{path}?stale&wait_ms=10000"))
    await leader.until(lambda: leader.replica.awaited.count > 0)
    successor = await cluster.leader(other_than=leader.config.name)
    await successor.post(f"{path}/cancel")
    assert (await reading).json["state"] == "cancelled"


async def test_the_leader_stops_and_the_others_continue(trio: Any) -> None:
    cluster = await trio()
    first = await cluster.leader()
    workflow = await first.submit(WORK)
    await cluster.stop(first.config.name)
    second = await cluster.leader()
    incarnation = await second.register()
    answer = await second.poll(incarnation=incarnation, seq=1, wait_ms=1000)
    fence = answer.json["assign"][0]["fence"]
    end = {"fence": fence, "workflow_id": workflow, "task_id": "a", "outcome": "succeeded"}
    await second.poll(incarnation=incarnation, seq=2, seen=fence, ends=[end])
    await cluster.start(first.config.name)
    await cluster.leader()
    for served in cluster.live.values():
        machine = served.replica.machine
        await served.until(lambda m=machine: m.applied_index >= second.replica.machine.applied_index)
        assert (await served.get(f"/v1/workflows/{workflow}?stale")).json["state"] == "succeeded"
        check = (await served.get("/v1/audit/verify")).json
        assert check["problems"] == []
        assert check["chain"] == second.replica.machine.chain.hex()


async def test_without_a_majority_nothing_is_promised(trio: Any) -> None:
    cluster = await trio(submit_timeout_ms=500, read_timeout_ms=300)
    leader = await cluster.leader()
    workflow = await leader.submit(WORK)
    for served in cluster.followers():
        await cluster.stop(served.config.name)
    await leader.until(lambda: not leader.replica.status().ready and not leader.replica.leader.leading)
    ready = await leader.get("/readyz")
    assert (ready.status, ready.word) == (503, "no-leader")
    assert (await leader.get("/healthz")).status == 200
    write = await leader.post("/v1/workflows", {"name": "x", "tasks": [WORK]})
    assert (write.status, write.word, write.headers["Retry-After"]) == (503, "no-leader", "1")
    assert (await leader.get(f"/v1/workflows/{workflow}")).word == "no-leader"
    assert (await leader.get(f"/v1/workflows/{workflow}?stale")).status == 200


async def test_the_token_travels_with_a_forwarded_request(trio: Any) -> None:
    cluster = await trio(token="t" * 20)
    await cluster.leader()
    follower = cluster.followers()[0]
    allowed = {"Authorization": "Bearer " + "t" * 20}
    assert (await follower.get("/v1/workflows", headers=allowed)).status == 200
    assert (await follower.get("/v1/workflows")).status == 401
    body = {"name": "w", "tasks": [WORK]}
    keyed = {**allowed, "Idempotency-Key": "k1", "X-Request-Id": "r1"}
    first = await follower.post("/v1/workflows", body, headers=keyed)
    again = await cluster.followers()[1].post("/v1/workflows", body, headers=keyed)
    assert (first.status, first.headers["X-Request-Id"]) == (201, "r1")
    assert first.json == again.json
    assert first.headers["Location"] == f"/v1/workflows/{first.json['id']}"
    missing = await follower.get("/v1/workflows/none", headers=allowed)
    assert (missing.status, missing.word) == (404, "not-found")


async def test_a_forwarded_request_is_not_forwarded_again(trio: Any) -> None:
    cluster = await trio()
    await cluster.leader()
    follower = cluster.followers()[0]
    answer = await follower.get("/v1/workflows", headers={"X-Raftflow-Forwarded": "1"})
    assert (answer.status, answer.word) == (503, "no-leader")


async def test_writes_and_reads_go_on_through_a_change_of_leader(trio: Any) -> None:
    """What was acknowledged is seen by every later read, through whichever replica."""
    cluster = await trio()
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    acknowledged: list[str] = []
    stop = asyncio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = {"Idempotency-Key": f"k{number}"}
            body = {"name": f"w{number}", "tasks": [WORK]}
            answer = await follower.post("/v1/workflows", body, headers=key)
            while answer.status == 503:
                await asyncio.sleep(0.01)
                answer = await follower.post("/v1/workflows", body, headers=key)
            assert answer.status == 201, answer.body
            acknowledged.append(answer.json["id"])
            seen = await follower.get(f"/v1/workflows/{acknowledged[-1]}")
            assert seen.status in {200, 503}, seen.body

    writing = asyncio.ensure_future(write())
    await leader.until(lambda: len(acknowledged) > 20)
    await cluster.stop(leader.config.name)
    count = len(acknowledged)
    await follower.until(lambda: len(acknowledged) > count + 20, 20)
    stop.set()
    await writing
    page = (await follower.get("/v1/workflows?limit=10000")).json
    assert [view["id"] for view in reversed(page["workflows"])] == acknowledged


async def test_a_replica_that_fell_behind_gets_a_snapshot_and_its_audit_a_gap(trio: Any) -> None:
    cluster = await trio(limits=Limits(snapshot_entries=100))
    leader = await cluster.leader()
    behind = cluster.followers()[0]
    await leader.submit(WORK)
    await behind.until(lambda: behind.replica.machine.applied_index > 0)
    name, known = behind.config.name, behind.replica.machine.applied_index
    await cluster.stop(name)
    for number in range(500):
        await leader.submit(WORK, name=f"w{number}")
    await leader.until(lambda: leader.replica.status().snapshot_index > known + 50)
    for _ in range(2):
        await cluster.start(name)
        behind = cluster.live[name]
        await behind.until(lambda one=behind: one.replica.machine.chain == leader.replica.machine.chain)
        check = (await behind.get("/v1/audit/verify")).json
        assert (check["problems"], len(check["gaps"])) == ([], 1)
        assert check["gaps"][0][0] <= known + 1
        assert (await behind.get("/v1/ledger/verify")).json["problems"] == []
        await leader.submit(WORK)
        await behind.until(lambda one=behind: one.replica.machine.chain == leader.replica.machine.chain)
        await cluster.stop(name)
    await cluster.stop(leader.config.name)
    await cluster.start(leader.config.name)
    again = cluster.live[leader.config.name]
    await cluster.leader()
    assert len((await again.get("/v1/workflows?limit=10000")).json["workflows"]) == 503
    check = (await again.get("/v1/audit/verify")).json
    assert (check["problems"], check["gaps"]) == ([], [])
