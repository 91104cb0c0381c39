"""A workflow from submission to its end, over HTTP, on one replica."""

from __future__ import annotations

from typing import Any

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
