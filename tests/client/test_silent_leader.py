"""A replica whose machine is silent: other replicas say who leads, and the request is sent there."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from raftflow.client import AsyncClient, Unreachable
from raftflow.client.http.calls import ApiCall
from raftflow.client.http.hedge import HEDGE_S

DOCUMENT = {"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}
CREATED = {"id": "wf-1"}
SOON_S = HEDGE_S + 1.5
LEADER = ("GET", "/v1/leader")
SUBMIT = ("POST", "/v1/workflows")


def urls(replicas: list[Any]) -> list[str]:
    return [replica.url for replica in replicas]


def notice(replica: Any, term: int) -> dict[str, Any]:
    return {"leader": "n", "url": replica.url, "term": term}


def submissions(replica: Any) -> list[Any]:
    return [seen for seen in replica.seen if (seen.method, seen.path) == SUBMIT]


async def test_a_write_goes_to_the_leader_that_others_name(replicas: list[Any], make: Any) -> None:
    silent, second, third = replicas
    silent.script = [make.hang]
    second.routes[LEADER] = third.routes[LEADER] = notice(third, 2)
    third.routes[SUBMIT] = CREATED
    began = time.monotonic()
    async with AsyncClient(urls(replicas)) as client:
        assert (await client.submit(DOCUMENT)).id == "wf-1"
        assert time.monotonic() - began < SOON_S
        assert (await client.submit(DOCUMENT)).id == "wf-1"
    (first,), (again, _) = submissions(silent), submissions(third)
    assert first.headers["Idempotency-Key"] == again.headers["Idempotency-Key"]
    assert not submissions(second)


async def test_a_slow_leader_is_waited_for(replicas: list[Any], make: Any) -> None:
    """Others keep the question while it leads, and are asked no more often than that takes."""
    slow, *others = replicas

    async def late(_request: Any) -> Any:
        await asyncio.sleep(HEDGE_S + 0.4)
        return make.answer(CREATED, 201)

    async def held(_request: Any) -> Any:
        await asyncio.sleep(60)
        raise AssertionError

    slow.script = [late]
    for other in others:
        other.script = [make.answer(notice(slow, 4)), held]
    async with AsyncClient(urls(replicas)) as client:
        assert (await client.submit(DOCUMENT)).id == "wf-1"
    assert len(submissions(slow)) == 1
    for other in others:
        assert [seen.query["term"] for seen in other.seen] == ["0", "4"]


async def test_a_held_read_moves_when_leadership_does(replicas: list[Any], make: Any) -> None:
    silent, second, third = replicas
    view = {"id": "wf-1", "name": "w", "state": "succeeded", "priority": 1, "submitted_at": "x", "finished_at": "y"}
    elected = asyncio.Event()

    async def moved(_request: Any) -> Any:
        await elected.wait()
        return make.answer(notice(second, 5))

    silent.script = [make.hang]
    second.script = third.script = [make.answer(notice(silent, 4)), moved, make.problem("no-leader", 503)]
    second.routes["GET", "/v1/workflows/wf-1"] = third.routes["GET", "/v1/workflows/wf-1"] = view
    async with AsyncClient(urls(replicas)) as client:
        call = ApiCall("GET", "/v1/workflows/wf-1", params={"wait_ms": "9000"})
        waiting = asyncio.ensure_future(client._transport.call_raw(call))
        await asyncio.sleep(HEDGE_S + 0.2)
        assert not waiting.done()
        elected.set()
        async with asyncio.timeout(SOON_S):
            assert b"wf-1" in await waiting


@pytest.mark.parametrize("answer", [None, {"leader": None, "url": None, "term": 3}, {"odd": 1}])
async def test_who_knows_of_no_leader_changes_nothing(replicas: list[Any], make: Any, answer: Any) -> None:
    """So it is with replicas of an older version, which do not know the question."""
    silent, *others = replicas
    silent.script = [make.hang]
    for other in others:
        if answer is not None:
            other.routes[LEADER] = answer
        other.routes[SUBMIT] = lambda _request: make.problem("no-leader", 503)
    async with AsyncClient(urls(replicas), timeout_s=1.0) as client:
        with pytest.raises(Exception, match="carried out"):
            await client.submit(DOCUMENT)
    for other in others:
        assert 1 <= len(other.seen) < 30


async def test_one_replica_alone_is_asked_no_such_question(replicas: list[Any], make: Any) -> None:
    silent, other, _ = replicas
    silent.script = [make.hang]
    async with AsyncClient([silent.url], timeout_s=0.6) as client:
        with pytest.raises(Unreachable):
            await client.agents()
    silent.script = [make.hang]
    async with AsyncClient(urls(replicas), timeout_s=0.6) as client:
        with pytest.raises(Unreachable):
            await client._transport.call_raw(ApiCall("GET", "/v1/agents", replica=silent.url))
    assert not other.seen
