"""The door for what attempts ask: answers by the log, on the fast path and through the framework alike."""

from __future__ import annotations

from typing import Any

import pytest

OTHER_WAY = {"Accept-Language": "en"}
"""A header that is not plain sends a request through the framework."""


def record(fence: int, name: str = "a", result: Any = 1, **more: Any) -> dict[str, Any]:
    return {
        "call": "record",
        "fence": fence,
        "name": name,
        "occurrence": 1,
        "function": "f",
        "result": result,
        **more,
    }


def find(fence: int, name: str = "a") -> dict[str, Any]:
    return {"call": "find", "fence": fence, "name": name, "occurrence": 1}


async def running(one: Any, **task: Any) -> tuple[int, int]:
    """Return incarnation and fence of an attempt that runs."""
    incarnation = await one.register()
    await one.submit({"id": "t", "command": ["true"], **task})
    polled = await one.poll(incarnation=incarnation, seq=1, wait_ms=5_000)
    return incarnation, polled.json["assign"][0]["fence"]


async def ask(one: Any, incarnation: int, *calls: Any, **options: Any) -> Any:
    """Send calls and return their answers."""
    answered = await one.post("/v1/agents/a1/calls", {"incarnation": incarnation, "calls": list(calls)}, **options)
    assert answered.status == 200, answered.body
    assert answered.json["now_ms"] > 0
    return answered.json["answers"]


async def test_a_step_is_recorded_and_found(one: Any) -> None:
    incarnation, fence = await running(one)
    answers = await ask(one, incarnation, record(fence), find(fence), record(fence, "b", {"x": None}))
    assert [each["answer"] for each in answers][::2] == ["recorded"] * 2
    (found,) = await ask(one, incarnation, find(fence))
    assert [(each["name"], each["function"], each.get("result")) for each in found["steps"]] == [
        ("a", "f", 1),
        ("b", "f", {"x": None}),
    ]
    assert await ask(one, incarnation, find(fence, "none")) == [{"answer": "known"}]
    (again,) = await ask(one, incarnation, record(fence, result=9), headers=OTHER_WAY)
    assert [each["result"] for each in again["steps"]] == [1]
    assert one.server.fast_path.taken >= 3


async def test_refusals_are_of_single_calls(one: Any) -> None:
    incarnation, fence = await running(one)
    answers = await ask(
        one,
        incarnation,
        record(fence),
        record(99),
        record(fence, "large", "x" * 70_000),
        record(fence, function="other"),
        find(98),
    )
    assert [each.get("type") for each in answers] == [None, "stale", "invalid", "mismatch", "stale"]
    assert "is now run by other" in answers[3]["detail"]
    answers = await ask(one, incarnation + 5, record(fence), find(fence))
    assert [each["type"] for each in answers] == ["stale", "stale"]
    assert "record nothing" in answers[0]["detail"]


async def test_attempts_beside_each_other_are_told_of_no_step_ahead(one: Any) -> None:
    incarnation, fence = await running(one, backup=True)
    await ask(one, incarnation, record(fence), record(fence, "b"))
    (found,) = await ask(one, incarnation, find(fence))
    assert [each["name"] for each in found["steps"]] == ["a"]


@pytest.mark.parametrize("body", [b"{", b'{"incarnation":1}', b'{"incarnation":1,"calls":[{"call":"none"}]}'])
async def test_what_is_no_request_is_refused(one: Any, body: bytes) -> None:
    await one.register()
    for headers in ({}, OTHER_WAY):
        answered = await one.post("/v1/agents/a1/calls", raw=body, headers=headers)
        assert (answered.status, answered.word) == (400, "invalid-document")


async def test_a_follower_says_where_the_leader_is(trio: Any) -> None:
    cluster = await trio()
    await cluster.leader()
    answered = await cluster.followers()[0].post("/v1/agents/a1/calls", {"incarnation": 1, "calls": []})
    assert answered.status == 307
    assert answered.headers["location"].endswith("/v1/agents/a1/calls")
