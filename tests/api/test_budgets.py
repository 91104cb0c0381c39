"""Budgets over HTTP: shown, raised, and what an attempt is told when one is used up."""

from __future__ import annotations

from typing import Any

BUDGETS = {"usd": 20.0, "tokens": {"hard": 1000, "soft": 500}}


async def submitted(one: Any, budgets: Any = BUDGETS) -> str:
    document = {"name": "w", "budgets": budgets, "tasks": [{"id": "t", "command": ["true"]}]}
    answered = await one.post("/v1/workflows", document)
    assert answered.status == 201, answered.body
    return str(answered.json["id"])


async def test_a_budget_is_spent_shown_and_raised(one: Any) -> None:
    incarnation = await one.register()
    workflow = await submitted(one)
    fence = (await one.poll(incarnation=incarnation, seq=1, wait_ms=5_000)).json["assign"][0]["fence"]

    async def record(name: str, **spent: int) -> Any:
        call = {"call": "record", "fence": fence, "name": name, "occurrence": 1, "result": 1, "spent": spent}
        answered = await one.post("/v1/agents/a1/calls", {"incarnation": incarnation, "calls": [call]})
        return answered.json["answers"][0]

    async def find() -> Any:
        call = {"call": "find", "fence": fence, "name": "none", "occurrence": 1}
        answered = await one.post("/v1/agents/a1/calls", {"incarnation": incarnation, "calls": [call]})
        return answered.json["answers"][0]

    assert await record("a", usd=12_500_000, words=3_000_000) == {"answer": "recorded"}
    assert await record("b", usd=12_500_000) == {"answer": "recorded", "used_up": True}
    assert (await record("b", usd=1))["used_up"] is True
    assert await find() == {"answer": "known", "used_up": True}
    shown = (await one.get(f"/v1/workflows/{workflow}/budget")).json
    assert shown == {
        "id": workflow,
        "state": "paused",
        "pause_reason": "budget used up: 25.00 usd of 20.00 usd",
        "budgets": [
            {"name": "usd", "used": 25, "limit": 20, "soft": 16},
            {"name": "tokens", "used": 0, "limit": 1000, "soft": 500},
            {"name": "words", "used": 3, "limit": None, "soft": None},
        ],
        "tasks": [{"id": "t", "spent": {"usd": 25, "words": 3}}],
        "more_tasks": 0,
    }
    refused = await one.post(f"/v1/workflows/{workflow}/resume")
    assert (refused.status, refused.word) == (409, "conflict") and "budget raise" in refused.json["detail"]
    key = {"Idempotency-Key": "raise-1"}
    for _ in range(2):
        raised = await one.post(f"/v1/workflows/{workflow}/budget", {"add": {"usd": "10.5"}}, headers=key)
        assert (raised.json["budgets"][0]["limit"], raised.json["state"]) == (30.5, "running")
    assert await find() == {"answer": "known"}
    assert (await one.post(f"/v1/workflows/{workflow}/budget", {"limits": {"usd": 30}})).word == "conflict"
    for body in ({}, {"limits": {"usd": 0.1 + 0.2}}, {"limits": {"usd": "x"}}, {"add": {"usd": -1}}):
        assert (await one.post(f"/v1/workflows/{workflow}/budget", body)).word == "invalid-document"
    assert (await one.get("/v1/workflows/none/budget")).status == 404
    assert (await one.post("/v1/workflows/none/budget", {"add": {"usd": 1}})).status == 404


async def test_budgets_of_a_document_are_checked(one: Any) -> None:
    for budgets in (5, {"usd": 0}, {"usd": {"soft": 1}}, {"usd": {"hard": 1, "soft": 2}}, {"a b": 1}, {"usd": 1e-7}):
        document = {"name": "w", "budgets": budgets, "tasks": [{"id": "t", "command": ["true"]}]}
        assert (await one.post("/v1/workflows", document)).word == "invalid-document"
    large = [{"id": f"t{number}", "command": ["true", "x" * 900]} for number in range(60)]
    answered = await one.post("/v1/workflows", {"name": "w", "budgets": BUDGETS, "tasks": large})
    shown = (await one.get(f"/v1/workflows/{answered.json['id']}/budget")).json
    assert [line["limit"] for line in shown["budgets"]] == [20, 1000], "a large workflow comes in pieces"
