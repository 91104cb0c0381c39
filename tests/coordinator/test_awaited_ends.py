"""Reads that are held until a workflow has ended."""

from __future__ import annotations

import asyncio
from typing import Any

from raftflow.coordinator.sessions import awaited_ends
from raftflow.coordinator.sessions.awaited_ends import AwaitedEnds
from raftflow.domain.events import WorkflowChanged, WorkflowFinished
from raftflow.domain.tasks.states import WorkflowState

LONG_S = 60.0


async def hold(ends: AwaitedEnds, *names: str) -> list[asyncio.Task[None]]:
    """Begin reads that are held."""
    before = ends.count
    reads = [asyncio.ensure_future(ends.wait(name, LONG_S)) for name in names]
    async with asyncio.timeout(5):
        while ends.count < before + len(names):  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0)
    return reads


async def test_those_that_wait_for_it_go_on_and_no_others() -> None:
    ends = AwaitedEnds()
    first, second, other = await hold(ends, "wf-1", "wf-1", "wf-2")
    ends.on_applied([WorkflowChanged("wf-2"), WorkflowFinished("wf-1", WorkflowState.SUCCEEDED)])
    await asyncio.gather(first, second)
    assert not other.done()
    ends.wake_all()
    await other
    assert ends.count == 0
    assert ends._held == {}


async def test_nothing_is_left_of_those_that_waited_long_enough_or_went_away() -> None:
    ends = AwaitedEnds()
    await ends.wait("wf-1", 0.001)
    assert (ends.count, ends._held) == (0, {})
    gone, stays = await hold(ends, "wf-1", "wf-1")
    gone.cancel()
    await asyncio.wait([gone])
    assert ends.count == 1
    ends.on_applied([WorkflowFinished("wf-1", WorkflowState.FAILED)])
    await stays


async def test_there_is_a_bound_and_an_end(monkeypatch: Any) -> None:
    monkeypatch.setattr(awaited_ends, "HELD_MAX", 1)
    ends = AwaitedEnds()
    (held,) = await hold(ends, "wf-1")
    async with asyncio.timeout(5):
        await ends.wait("wf-2", LONG_S)
        ends.close()
        await held
        await ends.wait("wf-1", LONG_S)
