"""Rate limits over HTTP: set, listed, removed, and taken from by running attempts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

LIMIT = {"name": "llm", "rate": "60/min", "burst": 2}


async def test_a_limit_is_set_listed_changed_and_removed(one: Any) -> None:
    made = await one.post("/v1/limits/llm", {"rate": "60/min", "burst": 2})
    assert (made.status, made.json) == (200, {**LIMIT, "available": 2, "full_in_s": 0.0})
    assert (await one.get("/v1/limits")).json == {"limits": [made.json]}
    changed = await one.post("/v1/limits/llm", {"rate": "5/s"})
    assert changed.json == {
        **LIMIT,
        "rate": "5/s",
        "burst": 5,
        "available": 2,
        "full_in_s": changed.json["full_in_s"],
    }
    assert (await one.call("DELETE", "/v1/limits/llm")).json == {"name": "llm"}
    again = await one.call("DELETE", "/v1/limits/llm")
    assert (again.status, again.word) == (404, "not-found")
    assert (await one.get("/v1/limits")).json == {"limits": []}


@pytest.mark.parametrize("body", [{}, {"rate": "1"}, {"rate": "0/s"}, {"rate": "1/s", "burst": 0}, {"rate": 5}])
async def test_what_is_no_limit_is_refused(one: Any, body: Any) -> None:
    refused = await one.post("/v1/limits/llm", body)
    assert (refused.status, refused.word) == (400, "invalid-document")
    wrong = await one.post("/v1/limits/a%20b", {"rate": "1/s"})
    assert (wrong.status, wrong.word) == (400, "invalid-document")


async def test_attempts_take_in_order_and_once(one: Any) -> None:
    incarnation = await one.register()
    await one.submit({"id": "t", "command": ["true"]})
    await one.post("/v1/limits/llm", {"rate": "20/s", "burst": 2})
    fence = (await one.poll(incarnation=incarnation, seq=1, wait_ms=5_000)).json["assign"][0]["fence"]

    def take(occurrence: int, count: int = 2, **more: Any) -> dict[str, Any]:
        key = {"name": "r", "occurrence": occurrence, "limit": "llm", "count": count}
        return {"call": "rate", "fence": fence, **key, **more}

    async def ask(*calls: Any, incarnation: int = incarnation) -> Any:
        answered = await one.post("/v1/agents/a1/calls", {"incarnation": incarnation, "calls": list(calls)})
        assert answered.status == 200, answered.body
        return answered.json["answers"]

    assert await ask(take(1)) == [{"answer": "taken"}]
    first, second = await ask(take(2), take(3, 1))
    assert (first["answer"], second["answer"]) == ("wait", "wait") and second["wait_ms"] > first["wait_ms"]
    assert await ask(take(1)) == [{"answer": "taken"}], "it was taken before, and waits for nobody"
    answer = first
    while answer["answer"] == "wait":
        await asyncio.sleep(answer["wait_ms"] / 1000)
        (answer,) = await ask(take(2))
    assert answer == {"answer": "taken"}
    while second["answer"] == "wait":
        await asyncio.sleep(second["wait_ms"] / 1000)
        (second,) = await ask(take(3, 1))
    refused = await ask(take(4, 3), take(5, limit="none"), take(6, fence=99), take(7, count=3))
    assert [each["type"] for each in refused] == ["invalid", "invalid", "stale", "invalid"]
    assert "raftflow limit set none" in refused[1]["detail"]
    assert [each["type"] for each in await ask(take(8), incarnation=incarnation + 1)] == ["stale"]
