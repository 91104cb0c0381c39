"""A replica that was cut off and comes back does not stop writes for longer than an election."""

from __future__ import annotations

import asyncio

import pytest
from virtual_cluster import run_virtual, running

from raftflow.replication.log import Applied

ELECTION_S = 1.5
"""Twice the longest election timeout, and some messages."""


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("from_all", [True, False])
def test_writes_go_on_within_an_election(seed: int, *, from_all: bool) -> None:
    run_virtual(_returns(seed, from_all=from_all), seed)


async def _returns(seed: int, *, from_all: bool) -> None:
    """Cut off from both others, or from the leader alone: then it asks the other one again and again meanwhile."""
    async with running(seed=seed) as cluster:
        loop = asyncio.get_running_loop()
        leader = await cluster.elect()
        away, _other = [name for name in cluster.names if name != leader]
        for name in cluster.names:
            if name != away and (from_all or name == leader):
                cluster.network.cut(away, name)
        await asyncio.sleep(4)
        cluster.network.heal_all()
        healed = loop.time()

        async def written() -> bool:
            now = cluster.leader()
            return now is not None and isinstance(await cluster.put(now, timeout_s=0.2), Applied)

        last_gap_s, last_ok = 0.0, healed
        while loop.time() < healed + 5:
            if await written():
                last_gap_s, last_ok = max(last_gap_s, loop.time() - last_ok), loop.time()
            await asyncio.sleep(0.01)
        assert last_gap_s < ELECTION_S
        assert loop.time() - last_ok < 0.5
        assert await cluster.settle()
