# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of the log: its journal, votes, snapshots and reads."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.log import Rejected, Unknown
from raftflow.replication.members.births import Births
from raftflow.replication.members.introducer import Introducer
from raftflow.replication.members.introductions import Introduction, IntroductionReply
from raftflow.replication.members.starts import StartHistory
from raftflow.replication.messages import envelope
from raftflow.replication.raft.guard import GuardedTransport
from raftflow.replication.raft.reads import ReadRounds
from raftflow.replication.raft.snapshot_port import SnapshotPort
from raftflow.replication.snapshot.compaction import SnapshotWriter
from raftflow.replication.storage import segments, snapshot_file
from raftflow.replication.storage.journal import Journal
from raftflow.replication.storage.writer import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from raftflow.simulation.mutation.patches.common import Patch


def sync_with(sync: Callable[[SegmentWriter], Awaitable[None]]) -> Patch:
    """Let every sync of the journal be this one."""
    return patch.multiple(SegmentWriter, sync=sync, sync_if_quick=lambda _self: False)


def never_sync() -> Patch:
    async def sync_nothing(self: SegmentWriter) -> None:
        """Claim to have synced."""
        self._durable_offset = self._offset

    return sync_with(sync_nothing)


def forget_votes() -> Patch:
    write = Journal._write  # noqa: SLF001

    def without_vote(self: Journal) -> None:
        vote, self._vote = self._vote, None
        write(self)
        self._vote = vote

    return patch.object(Journal, "_write", without_vote)


def cut_at_holes() -> Patch:
    def judge(path: Path, _number: int, data: bytes, end: int) -> str | None:
        """Take every bad record for a write that was cut short."""
        return f"{path}: cut off" if data[end:].strip(b"\0") else None

    return patch.object(segments, "_judge_end", judge)


def finish_unsynced(self: Any) -> None:
    """Write the trailer and do not sync."""
    body = snapshot_file._TRAILER_BODY.pack(0, self._blocks, self._bytes, self._digest.digest())  # noqa: SLF001
    self._append(body + snapshot_file._U32.pack(snapshot_file.seeded_crc(body, self._offset)))  # noqa: SLF001


def trim_early() -> Patch:
    write = SnapshotWriter._write  # noqa: SLF001

    async def trimmed_first(self: SnapshotWriter, info: Any, pieces: Any, driver: Any) -> None:
        self._port.finish_write(durable=True)
        driver.request_turn()
        await write(self, info, pieces, driver)

    return patch.object(SnapshotWriter, "_write", trimmed_first)


def ignore_failed_sync() -> Patch:
    sync = SegmentWriter.sync

    async def hopeful(self: SegmentWriter) -> None:
        with contextlib.suppress(OSError):
            await sync(self)

    return sync_with(hopeful)


def submit_anywhere() -> Patch:
    submit = PySyncObjLog.submit

    async def careless(self: PySyncObjLog, entry: bytes, timeout_s: float) -> Any:
        """Give the library a command though this replica follows: it forwards it to the leader."""
        if self._raft.is_leader or self._stopped:
            return await submit(self, entry, timeout_s)
        submission = self._pending_entries.admit(len(entry), self.parts.position)
        if submission is None:
            return Rejected("queue_full")
        self._raft.submit(envelope.seal(entry), submission.on_result)
        self._driver.request_turn()
        asyncio.get_running_loop().call_later(timeout_s, submission.resolve, Unknown("timeout"))
        return await submission.future

    return patch.object(PySyncObjLog, "submit", careless)


def vote_always() -> Patch:
    return patch.object(
        GuardedTransport, "votes", property(lambda _self: True, lambda _self, _votes: None), create=True
    )


@contextlib.contextmanager
def vote_from_old_copies() -> Iterator[None]:
    """Let nobody notice that a disk was put back."""
    with (
        patch.object(StartHistory, "find_rollback", lambda *_, **__: ""),
        patch.object(StartHistory, "is_older", lambda *_: False),
    ):
        yield


@contextlib.contextmanager
def believe_the_emptied() -> Iterator[None]:
    """Take a replica in whatever disk it comes with."""

    def judge_disk(self: Introducer, peer: str, told: Introduction) -> IntroductionReply:
        self.remember_disks({peer: told.disk})
        return IntroductionReply(accepted=True)

    with (
        patch.object(Introducer, "judge_disk", judge_disk),
        patch.object(Births, "_check_emptied", lambda _self: None),
    ):
        yield


def swallow_failed_load() -> Patch:
    def deserialize(self: SnapshotPort) -> Any:
        """Load, and forget that it failed, as the library does by itself."""
        self.failure = None
        last, previous = self._load()
        return None, last, previous, ()

    return patch.object(SnapshotPort, "deserialize", deserialize)


def read_alone(self: ReadRounds, future: asyncio.Future[None]) -> None:
    """Confirm a leadership without asking anybody."""
    del self
    future.set_result(None)
