"""Effects over HTTP: listed, shown, and resolved by people."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


async def begun(one: Any, *names: str) -> tuple[int, int]:
    """Let an attempt begin effects. Returns incarnation and fence."""
    incarnation = await one.register()
    await one.submit({"id": "t", "command": ["true"]})
    answer = await one.poll(incarnation=incarnation, seq=1, wait_ms=5_000)
    fence = answer.json["assign"][0]["fence"]
    calls = [
        {"call": "effect_begin", "fence": fence, "begin": number, "name": name, "occurrence": 1, "function": "f"}
        for number, name in enumerate(names, 1)
    ]
    told = await ask(one, incarnation, *calls)
    assert [each["status"] for each in told] == ["begun"] * len(names)
    return incarnation, fence


async def ask(one: Any, incarnation: int, *calls: Any) -> Any:
    answer = await one.post("/v1/agents/a1/calls", {"incarnation": incarnation, "calls": list(calls)})
    assert answer.status == 200, answer.body
    return answer.json["answers"]


async def end(one: Any, attempt: tuple[int, int], name: str, begin: int, outcome: str) -> None:
    incarnation, fence = attempt
    call = {"call": "effect_end", "fence": fence, "begin": begin, "name": name, "occurrence": 1, "outcome": outcome}
    assert (await ask(one, incarnation, call))[0]["answer"] == "effect_ended"


async def test_effects_come_in_pages(one: Any) -> None:
    attempt = await begun(one, "a", "b", "c")
    await end(one, attempt, "b", 2, "done")
    first = (await one.get("/v1/effects?limit=1")).json
    assert [each["name"] for each in first["effects"]] == ["a"]
    rest = (await one.get(f"/v1/effects?limit=1&cursor={first['next']}")).json
    assert [(each["name"], "next" in rest) for each in rest["effects"]] == [("c", False)]
    every = (await one.get("/v1/effects?show=all")).json["effects"]
    assert [(each["name"], each["state"]) for each in every] == [("a", "begun"), ("b", "done"), ("c", "begun")]
    assert (await one.get("/v1/effects?workflow=none")).json == {"effects": []}
    assert len((await one.get(f"/v1/effects?workflow={every[0]['workflow']}")).json["effects"]) == 2
    for wrong in ("cursor=x", "show=some"):
        assert (await one.get(f"/v1/effects?{wrong}")).status == 400


async def test_a_person_resolves_an_effect_once(one: Any) -> None:
    attempt = await begun(one, "a")
    early = await one.post("/v1/effects/1", {"resolution": "retry"})
    assert (early.status, early.word) == (409, "conflict") and "holds effect 1" in early.json["detail"]
    await end(one, attempt, "a", 1, "uncertain")
    assert (await one.get("/v1/effects/1")).json["state"] == "uncertain"
    bodies = [{"resolution": "done", "result": {"id": 7}, "detail": "asked the bank"}, {"resolution": "fail"}]
    answers = await asyncio.gather(*[one.post("/v1/effects/1", body) for body in bodies])
    first, second = sorted(answers, key=lambda answer: answer.status)
    assert (first.status, first.json["resolved_by"]) == (200, "client:api")
    assert second.status == 409 and f"effect 1 is {first.json['state']} by client:api since" in second.json["detail"]


async def test_a_repeated_decision_has_the_first_answer(one: Any) -> None:
    attempt = await begun(one, "a")
    await end(one, attempt, "a", 1, "uncertain")
    body, headers = {"resolution": "done", "result": [1]}, {"Idempotency-Key": "decide-1"}
    first = await one.call("POST", "/v1/effects/1", body, headers=headers)
    again = await one.call("POST", "/v1/effects/1", body, headers=headers)
    assert (first.status, again.status) == (200, 200) and first.json == again.json


@pytest.mark.parametrize("number", ["7", "x", "-1", "9" * 30])
async def test_an_effect_that_is_not_there(one: Any, number: str) -> None:
    assert (await one.get(f"/v1/effects/{number}")).word == "not-found"
    assert (await one.post(f"/v1/effects/{number}", {"resolution": "retry"})).word == "not-found"


@pytest.mark.parametrize(
    "body",
    [{}, {"resolution": "no"}, {"resolution": "fail", "more": 1}, {"resolution": "fail", "detail": "x" * 1_001}],
)
async def test_what_is_no_decision_is_refused(one: Any, body: Any) -> None:
    refused = await one.post("/v1/effects/1", body)
    assert (refused.status, refused.word) == (400, "invalid-document")
