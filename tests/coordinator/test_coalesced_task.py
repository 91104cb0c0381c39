"""Work of the leader that runs once at a time."""

from __future__ import annotations

import asyncio

import pytest

from raftflow.coordinator.commit.coalesced_task import CoalescedTask
from raftflow.coordinator.commit.submitter import NoLeaderError


async def test_a_coalesced_task_runs_once_for_many_kicks_and_again_if_kicked_meanwhile() -> None:
    runs: list[int] = []
    gate = asyncio.Event()

    async def work() -> None:
        runs.append(len(runs))
        await gate.wait()

    coalesced = CoalescedTask("test", work, lambda error: pytest.fail(str(error)))
    coalesced.kick()
    await asyncio.sleep(0)
    assert runs == [], "not started"
    coalesced.start()
    settled = asyncio.Event()
    assert not coalesced.when_settled(settled.set), "nothing was asked for"
    for _ in range(3):
        coalesced.kick()
    assert coalesced.when_settled(settled.set)
    await asyncio.sleep(0)
    coalesced.kick()
    later = asyncio.Event()
    assert coalesced.when_settled(later.set)
    gate.set()
    await settled.wait()
    await later.wait()
    assert runs == [0, 1]


async def test_a_coalesced_task_that_found_no_leader_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftflow.coordinator.commit.coalesced_task.RETRY_S", 0.01)
    runs: list[int] = []
    done = asyncio.Event()

    async def work() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise NoLeaderError("none")
        done.set()

    coalesced = CoalescedTask("test", work, lambda error: pytest.fail(str(error)))
    coalesced.start()
    coalesced.kick()
    await asyncio.wait_for(done.wait(), 5)
    assert len(runs) == 3


async def test_a_bug_in_a_coalesced_task_is_told() -> None:
    told: list[BaseException] = []

    async def work() -> None:
        raise KeyError("bug")

    coalesced = CoalescedTask("test", work, told.append)
    coalesced.start()
    coalesced.kick()
    await asyncio.sleep(0.01)
    assert [type(error) for error in told] == [KeyError]


async def test_stopping_a_coalesced_task_releases_its_waiters() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    coalesced = CoalescedTask("test", work, lambda error: pytest.fail(str(error)))
    coalesced.start()
    coalesced.kick()
    released = asyncio.Event()
    assert coalesced.when_settled(released.set)
    await asyncio.sleep(0)
    coalesced.stop()
    assert released.is_set()
