"""Long answers, made in slices: the loop turns meanwhile, and the answer is what it would have been at once."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from raftflow.api.http import slices
from raftflow.domain.contract.views import AgentList, LedgerView
from raftflow.machine.read import queries


async def test_the_loop_turns_between_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.ensure_future(count())
    await asyncio.sleep(0)
    assert await slices.in_slices(range(100), lambda item: item * 2) == [item * 2 for item in range(100)]
    counting.cancel()
    assert turns >= 100 // 16


async def test_listings_are_whole(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "SLICE_S", 0.0)
    for number in range(40):
        await one.register(f"a{number}", instance=f"instance{number}")
    await one.submit({"id": "t", "command": ["true"]})
    await one.poll("a1", incarnation=2, seq=1)
    listed = msgspec.json.decode((await one.get("/v1/agents")).body, type=AgentList)
    assert [agent.id for agent in listed.agents] == sorted(f"a{number}" for number in range(40))
    assert all(agent.last_seen_s is not None for agent in listed.agents)
    ledger = msgspec.json.decode((await one.get("/v1/ledger")).body, type=LedgerView)
    assert ledger == queries.ledger_view(one.replica.machine)
    assert sum(line.allocated["cpu"] for line in ledger.agents) == 1


async def test_an_empty_cluster_has_empty_listings(one: Any) -> None:
    assert (await one.get("/v1/agents")).json == {"agents": []}
    assert (await one.get("/v1/ledger")).json["agents"] == []
    assert (await one.get("/v1/ledger")).headers["Content-Type"] == "application/json"
