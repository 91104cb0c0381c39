"""A workflow from submission to its end, over HTTP, on one replica."""

from __future__ import annotations

import json
from typing import Any

from raftflow.domain.commands import RemoveAgent

SLEEP = {"command": ["true"]}


async def test_a_workflow_runs_to_its_end(one: Any) -> None:
    workflow = await one.submit({"id": "a", **SLEEP}, {"id": "b", "needs": ["a"], **SLEEP})
    incarnation = await one.register()
    first = (await one.poll(incarnation=incarnation, seq=1, wait_ms=1000)).json
    assert [item["task_id"] for item in first["assign"]] == ["a"]
    fence = first["assign"][0]["fence"]
    end = {
        "fence": fence,
        "workflow_id": workflow,
        "task_id": "a",
        "outcome": "succeeded",
        "exit_code": 0,
        "result": {"n": 1},
    }
    second = (await one.poll(incarnation=incarnation, seq=2, seen=fence, ends=[end])).json
    assert second["verdicts"] == [{"fence": fence, "verdict": "accepted"}]
    assert [(item["task_id"], item["inputs"]) for item in second["assign"]] == [("b", {"a": {"n": 1}})]
    fence = second["assign"][0]["fence"]
    end = {"fence": fence, "workflow_id": workflow, "task_id": "b", "outcome": "succeeded"}
    await one.poll(incarnation=incarnation, seq=3, seen=fence, ends=[end])
    shown = (await one.get(f"/v1/workflows/{workflow}")).json
    assert shown["state"] == "succeeded"
    assert shown["tasks"]["succeeded"] == 2
    tasks = (await one.get(f"/v1/workflows/{workflow}/tasks")).json["tasks"]
    assert [(task["id"], task["state"], task["result"]) for task in tasks] == [
        ("a", "succeeded", {"n": 1}),
        ("b", "succeeded", None),
    ]
    assert (await one.get("/v1/ledger/verify")).json["ok"]
    assert (await one.get("/v1/audit/verify")).json["problems"] == []


async def test_a_running_task_shows_its_usage(one: Any) -> None:
    workflow = await one.submit({"id": "a", **SLEEP})
    path = f"/v1/workflows/{workflow}/tasks/a"
    incarnation = await one.register()
    fence = (await one.poll(incarnation=incarnation, seq=1, wait_ms=1000)).json["assign"][0]["fence"]
    assert (await one.get(path)).json["usage"] is None
    usage = {"fence": fence, "cpu_ms": 1200, "memory_mib": 10, "peak_mib": 20, "progress": 0.25}
    await one.poll(incarnation=incarnation, seq=2, seen=fence, running=[fence], usage=[usage])
    shown = (await one.get(path)).json
    age_s = shown["usage"].pop("age_s")
    assert 0 <= age_s < 5
    assert shown["usage"] == {"cpu_ms": 1200, "memory_mib": 10, "peak_mib": 20, "progress": 0.25}
    assert shown["history"][0]["usage"]["peak_mib"] == 20
    end = {
        "fence": fence,
        "workflow_id": workflow,
        "task_id": "a",
        "outcome": "succeeded",
        "cpu_ms": 5,
        "peak_mib": 6,
    }
    await one.poll(incarnation=incarnation, seq=3, seen=fence, ends=[end])
    shown = (await one.get(path)).json
    assert (shown["usage"], shown["history"][0]["usage"]) == (None, None)


async def test_impossible_usage_is_refused(one: Any) -> None:
    incarnation = await one.register()
    for wrong in ({"cpu_ms": -1}, {"progress": 1.01}, {"memory_mib": 2**60}, {"fence": 2**64}, {"nice": 1}):
        answer = await one.poll(incarnation=incarnation, seq=1, usage=[{"fence": 1, **wrong}])
        assert answer.status in (400, 422), wrong


async def test_a_lost_agent_brings_its_result_back_over_http(one: Any) -> None:
    workflow = await one.submit({"id": "a", **SLEEP})
    incarnation = await one.register()
    fence = (await one.poll(incarnation=incarnation, seq=1, wait_ms=1000)).json["assign"][0]["fence"]
    await one.replica.propose(
        RemoveAgent(
            at_ms=one.replica.clock.now_ms(), actor="leader:n1", name="a1", incarnation=incarnation, reason="lost"
        )
    )
    offer = {"fence": fence, "workflow_id": workflow, "task_id": "a", "outcome": "succeeded", "result": [1]}
    body = {"name": "a1", "instance": "i" * 8, "resources": {"cpu": 1}}
    assert (await one.post("/v1/agents", {**body, "offers": [{**offer, "fence": 2**64}]})).status in (400, 422)
    deep = "[" * 100 + "]" * 100
    assert (await one.post("/v1/agents", {**body, "offers": [{**offer, "result": json.loads(deep)}]})).status == 400
    answer = await one.post("/v1/agents", {**body, "offers": [offer]})
    assert answer.json["verdicts"] == [{"fence": fence, "verdict": "accepted"}]
    shown = (await one.get(f"/v1/workflows/{workflow}/tasks/a")).json
    assert (shown["state"], shown["result"], shown["attempt"]) == ("succeeded", [1], 1)
