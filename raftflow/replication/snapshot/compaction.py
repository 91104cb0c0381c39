"""When snapshots are written, and in which order data becomes durable before the log is trimmed.

The library asks for a snapshot inside a tick, after it has applied everything committed. The state machine freezes
its state at once. The write continues in the background. The library drops the entries only after the file is durable
and `before_compaction` has made durable what the coordinator keeps beside the log.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raftflow.replication.members import membership
from raftflow.replication.storage.snapshot_file import SnapshotInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from raftflow.replication.config import LogConfig
    from raftflow.replication.log import StateMachine
    from raftflow.replication.members.membership import Membership
    from raftflow.replication.raft.driver import Driver
    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Entry
    from raftflow.replication.raft.snapshot_port import SnapshotPort
    from raftflow.replication.storage.snapshot_store import SnapshotStore

_log = logging.getLogger(__name__)


class SnapshotWriter:
    """Writes snapshots of the machine and counts what was applied since the last one."""

    def __init__(
        self,
        config: LogConfig,
        machine: StateMachine,
        store: SnapshotStore,
        port: SnapshotPort,
        before_compaction: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._config = config
        self._machine = machine
        self._store = store
        self._port = port
        self._before_compaction = before_compaction
        self._task: asyncio.Task[None] | None = None
        self._bytes = 0
        self._retry_at = float("-inf")
        self._wanted = False
        self._waiting: list[asyncio.Future[OSError | None]] = []
        self.snapshot_index = 0
        """Last entry of the newest snapshot; 0 without one."""

    def note_applied(self, entry_bytes: int) -> None:
        """Count an applied entry."""
        self._bytes += entry_bytes

    def note_installed(self, index: int) -> None:
        """A snapshot that ends with entry `index` was loaded."""
        self.snapshot_index = max(self.snapshot_index, index)
        self._bytes = 0
        self._wake(None)

    async def next_end(self) -> None:
        """Wait until the next write has ended, or a snapshot was installed. Raises `OSError` if the write failed."""
        future: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        error = await future
        if error is not None:
            raise error

    def _wake(self, error: OSError | None) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(error)

    def request(self) -> None:
        """Write a snapshot soon, without regard to the thresholds. No effect while one is being written."""
        if not self._port.writing:
            self._wanted = True

    def is_due(self, raft: Raft) -> bool:
        """Return True if the next tick should start a snapshot."""
        if self._port.writing:
            return False
        if raft.applied_index <= max(self.snapshot_index, 2):
            self._wanted = False  # there is nothing new to write
            return False
        if self._wanted:
            return True
        share = self._config.stagger
        due = (
            raft.applied_index - self.snapshot_index >= self._config.snapshot_entries * share
            or self._bytes >= self._config.snapshot_bytes * share
        )
        return due and asyncio.get_running_loop().time() >= self._retry_at

    def begin(self, last: Entry, previous: Entry, driver: Driver, members: Membership) -> None:
        """Freeze the machine as of entry `last` and start writing. `members` is the membership as of that entry."""
        self._wanted = False
        info = SnapshotInfo(
            index=last[1],
            term=last[2],
            prev_index=previous[1],
            prev_term=previous[2],
            last_command=last[0],
            prev_command=previous[0],
            members=tuple(sorted(members.voter_names)),
            # A replica that joins begins with an empty list. Until it has applied another one it knows only that
            # nothing has changed: a receiver of its snapshot keeps the list of its own first start.
            membership=membership.encode(members) if members.voters else b"",
        )
        self._bytes = 0
        self._task = asyncio.get_running_loop().create_task(self._write(info, self._machine.snapshot(), driver))

    async def _write(self, info: SnapshotInfo, pieces: Iterator[bytes], driver: Driver) -> None:
        durable = False
        failure: OSError | None = None
        try:
            await self._store.write(info, pieces)
            if self._before_compaction is not None:
                await self._before_compaction()
            durable = True
            self.snapshot_index = max(self.snapshot_index, info.index)
        except OSError as error:
            failure = error
            self._retry_at = asyncio.get_running_loop().time() + self._config.snapshot_retry_s
            _log.error("cannot write the snapshot of entry %d, the log is not trimmed: %s", info.index, error)
        except Exception as error:  # noqa: BLE001 - a machine that cannot be frozen or an audit that broke: stop
            driver.fail(error)
        finally:
            self._port.finish_write(durable=durable)
            self._task = None
            self._wake(failure)
            driver.request_turn()

    async def stop(self) -> None:
        """Cancel the write that is under way and wait until its file is removed."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def cancel(self) -> None:
        """Cancel the write that is under way."""
        if self._task is not None:
            self._task.cancel()
