"""What each route answers when all is well."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

WORK = {"id": "a", "command": ["true"]}


async def test_workflows_are_listed_newest_first_in_pages(one: Any) -> None:
    ids = [await one.submit(WORK, name=f"w{number}") for number in range(5)]
    assert all(re.fullmatch(r"wf-[0-9a-hjkmnp-tv-z]{26}", workflow) for workflow in ids)
    page = (await one.get("/v1/workflows?limit=3")).json
    assert [view["id"] for view in page["workflows"]] == ids[:1:-1]
    page = (await one.get(f"/v1/workflows?limit=3&cursor={page['next']}")).json
    assert ([view["id"] for view in page["workflows"]], page["next"]) == (ids[1::-1], None)
    assert (await one.get("/v1/workflows?state=failed")).json["workflows"] == []
    await one.post(f"/v1/workflows/{ids[0]}/cancel")
    assert [view["id"] for view in (await one.get("/v1/workflows?state=cancelled")).json["workflows"]] == ids[:1]


async def test_a_workflow_is_paused_resumed_cancelled_and_retried(one: Any) -> None:
    answer = await one.post("/v1/workflows", {"name": "w", "tasks": [WORK]})
    assert answer.headers["Location"] == f"/v1/workflows/{answer.json['id']}"
    assert "no agent" in " ".join(answer.json["warnings"])
    path = answer.headers["Location"]
    for action, state in (("pause", "paused"), ("resume", "pending"), ("cancel", "cancelled"), ("retry", "pending")):
        answer = await one.post(f"{path}/{action}")
        assert (answer.status, answer.json["state"]) == (200, state)


async def test_the_priority_of_a_workflow_is_changed_until_it_ends(one: Any) -> None:
    path = (await one.post("/v1/workflows", {"name": "w", "priority": 10, "tasks": [WORK]})).headers["Location"]
    answer = await one.post(f"{path}/priority", {"priority": 90})
    assert (answer.status, answer.json["priority"]) == (200, 90)
    for body in ({"priority": 101}, {"priority": -1}, {"priority": "high"}, {"priority": 1.5}, {}):
        assert (await one.post(f"{path}/priority", body)).status == 400
    assert (await one.post("/v1/workflows/wf-none/priority", {"priority": 1})).status == 404
    await one.post(f"{path}/cancel")
    assert (await one.post(f"{path}/priority", {"priority": 1})).status == 409
    assert (await one.get(path)).json["priority"] == 90


async def held(one: Any, path: str) -> asyncio.Future[Any]:
    """Begin a read that is held."""
    reading = asyncio.ensure_future(one.get(path))
    await one.until(lambda: one.replica.awaited.count == 1)
    return reading


async def test_a_read_waits_for_the_end_of_a_workflow(one: Any) -> None:
    path = f"/v1/workflows/{await one.submit(WORK)}"
    reading = await held(one, f"{path}?wait_ms=10000")
    await one.post(f"{path}/pause")
    assert not reading.done(), "a pause is no end"
    await one.post(f"{path}/cancel")
    answer = await reading
    assert (answer.status, answer.json["state"]) == (200, "cancelled")
    assert int(answer.headers["X-Raftflow-Index"]) >= one.replica.machine.applied_index - 1
    assert (await one.get(f"{path}?wait_ms=10000")).json["state"] == "cancelled", "it has ended: there is no wait"


async def test_a_read_does_not_wait_for_longer_than_it_says(one: Any) -> None:
    path = f"/v1/workflows/{await one.submit(WORK)}"
    assert (await one.get(f"{path}?wait_ms=20")).json["state"] == "pending"
    refused = await one.get(f"{path}?wait_ms=10001")
    assert (refused.status, refused.word) == (400, "invalid-document")
    assert (await one.get("/v1/workflows/wf-none?wait_ms=10000")).status == 404


async def test_a_forwarded_read_is_not_held(one: Any) -> None:
    path = f"/v1/workflows/{await one.submit(WORK)}"
    async with asyncio.timeout(5):
        answer = await one.get(f"{path}?wait_ms=10000", headers={"X-Raftflow-Forwarded": "127.0.0.1"})
    assert answer.json["state"] == "pending"


async def test_held_reads_are_answered_when_the_replica_stops(one: Any) -> None:
    path = f"/v1/workflows/{await one.submit(WORK)}"
    reading = await held(one, f"{path}?wait_ms=10000")
    one.replica.answer_held()
    assert (await reading).json["state"] == "pending"
    assert (await one.get(f"{path}?wait_ms=10000")).json["state"] == "pending"


async def test_tasks_are_shown_and_explained(one: Any) -> None:
    workflow = await one.submit(WORK, {**WORK, "id": "b", "needs": ["a"]})
    tasks = (await one.get(f"/v1/workflows/{workflow}/tasks?limit=1")).json
    assert ([task["id"] for task in tasks["tasks"]], tasks["next"]) == (["a"], "1")
    task = (await one.get(f"/v1/workflows/{workflow}/tasks/b")).json
    assert (task["state"], task["needs"], task["attempt"]) == ("waiting", ["a"], 0)
    explanation = (await one.get(f"/v1/workflows/{workflow}/tasks/b/explain")).json
    assert explanation["waits_for"] == ["a"]


async def test_agents_and_the_ledger_are_shown(one: Any) -> None:
    body = {"name": "a1", "instance": "i" * 8, "resources": {"cpu": 1.5, "memory": "1GiB", "gpu": 1}, "pid": 42}
    answer = await one.post("/v1/agents", {**body, "version": "0.1", "labels": {"zone": "x"}})
    assert answer.json == {
        "id": "a1",
        "incarnation": 1,
        "lease_ms": 5_000,
        "poll_wait_ms": 1_000,
        "result_bytes_max": 65_536,
        "feature_level": one.replica.machine.state.feature_level,
        "verdicts": [],
    }
    again = await one.post("/v1/agents", {**body, "version": "0.1", "labels": {"zone": "x"}})
    assert again.json["incarnation"] == 1
    await one.submit(WORK)
    await one.poll(incarnation=1, seq=1, wait_ms=500, load={"load_1m": 0.5, "cpu_count": 2})
    agent = (await one.get("/v1/agents/a1")).json
    assert (agent["state"], agent["pid"], agent["version"], agent["running"]) == ("up", 42, "0.1", 1)
    assert agent["load"]["cpu_count"] == 2
    assert agent["last_seen_s"] < 5
    assert (await one.get("/v1/agents")).json["agents"][0]["name"] == "a1"
    ledger = (await one.get("/v1/ledger")).json
    assert ledger["agents"] == [
        {
            "name": "a1",
            "capacity": {"cpu": 1.5, "gpu": 1, "memory": 1024},
            "allocated": {"cpu": 1, "gpu": 0, "memory": 0},
        }
    ]
    assert (await one.post("/v1/agents/a1/drain")).json["state"] == "draining"
    assert (await one.post("/v1/agents/a1/resume")).json["state"] == "up"


async def test_output_of_an_attempt_is_fetched_from_its_agent(one: Any) -> None:
    workflow = await one.submit(WORK)
    incarnation = await one.register()
    fence = (await one.poll(incarnation=incarnation, seq=1, wait_ms=500)).json["assign"][0]["fence"]
    path = f"/v1/workflows/{workflow}/tasks/a/logs?stream=stderr&offset=2&limit=100"
    asking = asyncio.ensure_future(one.get(path))
    held = {"incarnation": incarnation, "seen": fence, "running": [fence]}
    wanted = (await one.poll(**held, seq=2, wait_ms=1000)).json["logs"]
    assert [(item["fence"], item["stream"], item["offset"], item["bytes_max"]) for item in wanted] == [
        (fence, "stderr", 2, 100)
    ]
    piece = {"data": base64.b64encode(b"caf\xc3\xa9 \xff").decode(), "size": 9, "truncated": False, "complete": False}
    await one.poll(**held, seq=3, logs=[{"request": wanted[0]["request"], **piece}])
    assert (await asking).json == {
        "attempt": 1,
        "agent": "a1",
        "stream": "stderr",
        "offset": 2,
        "text": "café \ufffd",
        "data": piece["data"],
        "skipped": 0,
        "next": 9,
        "size": 9,
        "truncated": False,
        "complete": False,
    }


async def test_output_that_an_agent_cannot_give_is_refused(one: Any) -> None:
    workflow = await one.submit(WORK)
    incarnation = await one.register()
    await one.poll(incarnation=incarnation, seq=1, wait_ms=500)
    one.replica.poll_service.relay._timeout_s = 0.05
    answer = await one.get(f"/v1/workflows/{workflow}/tasks/a/logs")
    assert (answer.status, answer.word) == (503, "log-unavailable")


async def test_the_audit_is_listed_and_verified(one: Any) -> None:
    workflow = await one.submit(WORK)
    await one.register()
    await one.until(lambda: one.replica.machine.state.agents["a1"].live)
    page = (await one.get("/v1/audit?limit=2")).json
    assert [(line["command"], line["subject"]) for line in page["records"]] == [
        ("workflow.submit", workflow),
        ("agent.register", "a1"),
    ]
    assert page["replica"] == "n1"
    page = (await one.get(f"/v1/audit?from={page['next']}")).json
    assert [line["command"] for line in page["records"]] == ["placements.commit"]
    assert page["next"] is None
    assert page["records"][0]["transitions"][0][:3] == [workflow, "a", "ready"]
    check = (await one.get("/v1/audit/verify")).json
    assert (check["ok"], check["records"], check["chain"]) == (True, 3, page["records"][0]["chain"])
    ledger = (await one.get("/v1/ledger/verify")).json
    assert (ledger["ok"], ledger["problems"], ledger["replica"]) == (True, [], "n1")


async def test_status_health_and_metrics_are_answered(one: Any) -> None:
    await one.submit(WORK)
    status = (await one.get("/v1/status")).json
    assert (status["name"], status["role"], status["leader"], status["ready"]) == ("n1", "leader", "n1", True)
    assert status["digest"] == one.replica.machine.chain.hex()
    assert (await one.get("/healthz")).json["ok"]
    assert (await one.get("/readyz")).json["ok"]
    answer = await one.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in answer.body.decode().splitlines() if not line.startswith("#"))
    assert lines["raftflow_leader"] == "1"
    assert lines['raftflow_tasks{state="ready"}'] == "1"
    assert lines["raftflow_commit_seconds_count"] == lines['raftflow_commit_seconds_bucket{le="+Inf"}'] == "1"
    assert answer.headers["X-Raftflow-Index"] == str(one.replica.log.status().applied_index)


async def test_a_large_document_is_read_beside_the_loop(one: Any) -> None:
    tasks = [
        {"id": f"t{number}", "command": ["true"], "needs": [f"t{number - 1}"] if number else []}
        for number in range(5000)
    ]
    workflow = await one.submit(*tasks)
    shown = (await one.get(f"/v1/workflows/{workflow}")).json
    assert shown["tasks"] == {**shown["tasks"], "total": 5000, "ready": 1, "waiting": 4999}
    assert len((await one.get(f"/v1/workflows/{workflow}/tasks?limit=10000")).json["tasks"]) == 5000


async def test_a_large_ledger_is_verified_beside_the_loop(one: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("raftflow.api.routes.cluster._OFF_LOOP_TASKS", 0)
    await one.submit(WORK)
    assert (await one.get("/v1/ledger/verify")).json["ok"]

    def torn(machine: Any) -> list[str]:
        machine.applied_index += 1
        raise RuntimeError("dictionary changed size during iteration")

    real = __import__("raftflow.machine.read.invariants", fromlist=["check"]).check
    calls: list[int] = []

    def check(machine: Any) -> Any:
        calls.append(1)
        return torn(machine) if len(calls) < 4 else real(machine)

    monkeypatch.setattr("raftflow.machine.read.invariants.check", check)
    assert (await one.get("/v1/ledger/verify")).json["ok"]
    assert len(calls) == 4
    monkeypatch.setattr("raftflow.api.routes.cluster._CHECK_TRIES", 3)
    calls.clear()
    answer = await one.get("/v1/ledger/verify")
    assert (answer.status, answer.word) == (429, "queue-full")

    def broken(_machine: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr("raftflow.machine.read.invariants.check", broken)
    assert (await one.get("/v1/ledger/verify")).status == 500
