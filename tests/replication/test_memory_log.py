from __future__ import annotations

import asyncio

import pytest

from raftflow.replication.errors import LogFailedError, NoQuorumError
from raftflow.replication.log import Applied, Rejected, Role, Unknown
from raftflow.replication.memory import MemoryLog


class Words:
    def __init__(self) -> None:
        self.words: list[tuple[int, int, bytes]] = []

    def apply(self, index: int, term: int, entry: bytes) -> int:
        if entry == b"poison":
            raise KeyError(entry)
        self.words.append((index, term, entry))
        return len(self.words)

    def snapshot(self) -> object:
        return iter([repr(self.words).encode()])

    def prepare(self, pieces: object) -> object:
        assert b"".join(pieces) == repr(self.words).encode()
        return lambda: None


async def started(**settings: object) -> tuple[MemoryLog, Words, list[tuple[Role, int]]]:
    machine, roles = Words(), []
    log = MemoryLog(machine, **settings)
    log.on_role_change(lambda role, term: roles.append((role, term)))
    await log.start()
    return log, machine, roles


async def test_entries_are_applied_in_order_outside_the_call() -> None:
    log, machine, roles = await started()
    first = asyncio.ensure_future(log.submit(b"a", 1.0))
    second = asyncio.ensure_future(log.submit(b"b", 1.0))
    assert machine.words == []
    assert await first == Applied(3, 1, 1)
    assert await second == Applied(4, 1, 2)
    assert machine.words == [(3, 1, b"a"), (4, 1, b"b")]
    assert await log.read_index(1.0) == 4
    assert roles == [(Role.LEADER, 1)]
    log.request_snapshot()
    assert log.status().snapshot_index == log.status().applied_index == 4
    assert log.status().ready


async def test_limits_and_ends() -> None:
    log, _, _ = await started(entry_bytes_max=3, queue_entries_max=2)
    assert await log.submit(b"long", 1.0) == Rejected("too_large")
    outcomes = await asyncio.gather(*(log.submit(b"x", 1.0) for _ in range(3)))
    assert outcomes[2] == Rejected("queue_full")
    waiting = asyncio.ensure_future(log.submit(b"x", 1.0))
    await asyncio.sleep(0)
    await log.close()
    assert await waiting in (Unknown("closed"), Applied(5, 1, 3))
    assert await log.submit(b"x", 1.0) == Rejected("closed")
    with pytest.raises(NoQuorumError):
        await log.read_index(1.0)


async def test_lost_leadership_leaves_the_outcome_open() -> None:
    log, machine, roles = await started()
    waiting = asyncio.ensure_future(log.submit(b"x", 1.0))
    await asyncio.sleep(0)
    log.lose_leadership()
    assert await waiting == Unknown("leader_changed")
    assert len(machine.words) == 1
    assert await log.submit(b"x", 1.0) == Rejected("no_leader")
    with pytest.raises(NoQuorumError):
        await log.read_index(1.0)
    assert not await log.transfer_leadership(None, 1.0)
    log.gain_leadership()
    assert roles == [(Role.LEADER, 1), (Role.FOLLOWER, 1), (Role.LEADER, 2)]
    assert isinstance(await log.submit(b"x", 1.0), Applied)


async def test_apply_that_raises_stops_the_log() -> None:
    log, _, roles = await started()
    assert await log.submit(b"poison", 1.0) == Unknown("closed")
    error = await log.wait_failed()
    assert isinstance(error, LogFailedError)
    assert "KeyError" in str(error)
    assert roles[-1] == (Role.FOLLOWER, 1)
    assert await log.submit(b"x", 1.0) == Rejected("closed")
