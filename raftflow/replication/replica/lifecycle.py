"""The life of one replica: start, close, and the end that a failure brings."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from raftflow.replication.errors import LogFailedError
from raftflow.replication.log import Role, Unknown
from raftflow.replication.raft.library import loop_clock, use_clock
from raftflow.replication.replica.data import ReplicaData
from raftflow.replication.replica.failure import as_log_failure, log_failure
from raftflow.replication.replica.parts import ReplicaParts
from raftflow.replication.snapshot.restore import last_entries

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.config import LogConfig
    from raftflow.replication.files import FileSystem
    from raftflow.replication.members.births import IntroducedPeers
    from raftflow.replication.net.links import Links
    from raftflow.replication.raft.roles import RoleTracker

PRESENCE_CHECK_S: Final = 1.0
"""How often a replica checks that its data directory is still the one that it opened."""

_log = logging.getLogger(__name__)


class Lifecycle:
    """Starts and ends one replica. It is started once; after `close` or a failure it never runs again.

    Args:
        config: the settings of this replica.
        links: connections to the other members.
        fs: the disk.
        roles: told when the replica ends.
        neighbours: the other founders; None where births are not looked at.
        build: makes the parts from open data; the function given to it is called with what ends the replica.
    """

    def __init__(
        self,
        config: LogConfig,
        links: Links,
        fs: FileSystem,
        roles: RoleTracker,
        *,
        introduced_peers: IntroducedPeers | None,
        build: Callable[[ReplicaData, Callable[[Exception], None]], ReplicaParts],
    ) -> None:
        self._config = config
        self._links = links
        self._fs = fs
        self._roles = roles
        self._introduced_peers = introduced_peers
        self._build = build
        self._data: ReplicaData | None = None
        self._started = False
        self._failed = asyncio.Event()
        self.parts: ReplicaParts | None = None
        """Set when the replica runs; kept when it has ended."""
        self.closed = False
        self.failure: LogFailedError | None = None
        """Why the replica ended by itself."""

    @property
    def stopped(self) -> bool:
        """True before the start and after the end."""
        return self.closed or self.failure is not None or not self._started

    async def start(self) -> ReplicaParts:
        """Open the data, restore the state, start the links. Raises `LogFailedError`."""
        if self._started:
            raise RuntimeError("a log is started once")
        self._started = True
        loop = asyncio.get_running_loop()
        use_clock(loop_clock)
        try:
            self._data = data = ReplicaData(self._config, self._fs, loop.time)
            parts = self._build(data, self._end)
            _restore(parts)
            if self.failure is not None:
                raise self.failure  # noqa: TRY301 - reported below like every other failure of a start
            self.parts = parts
            self._wait_for_peers(parts)
            if self._introduced_peers is not None:
                self._introduced_peers.introducer.attach(parts.on_emptied, parts.births)
            await self._links.start()
            parts.births.start()
            self._check_presence(parts)
        except Exception as error:
            failure = as_log_failure(error, self._config.name)
            self._set_failure(failure)
            if self.parts is not None:
                self.parts.driver.stop()
                await self._shut_down(self.parts)
            self._release_data()
            if failure is error:
                raise
            raise failure from error
        parts.driver.request_turn()
        return parts

    def _wait_for_peers(self, parts: ReplicaParts) -> None:
        """Vote for nobody at first unless all peers are linked: one may know that this disk was put back."""
        if self._introduced_peers is None:
            return
        guard = parts.guard

        def end_wait() -> None:
            guard.waits = False

        guard.waits = True
        parts.loop.call_later(self._config.election_min_s, end_wait)

    def _check_presence(self, parts: ReplicaParts) -> None:
        """Stop soon after somebody took the data directory away."""
        parts.driver.guarded(parts.data.check_present)
        if not parts.driver.stopped:
            parts.loop.call_later(PRESENCE_CHECK_S, self._check_presence, parts)

    # The end.

    async def close(self) -> None:
        """Stop; submissions in flight end as `Unknown("closed")`. Safe to call twice."""
        if self.closed or not self._started:
            self.closed = True
            return
        self.closed = True
        if self.parts is not None:
            self.parts.driver.stop()
            _end_waiting(self.parts)
            await self._shut_down(self.parts)
        self._release_data()
        self._roles.wake()

    def abandon(self) -> None:
        """For simulation: stop as a killed process does. Nothing is written, synced, sent or closed any more."""
        self.closed = True
        parts = self.parts
        if parts is not None:
            parts.driver.stop()
            parts.driver.cancel()
            parts.writer.cancel()
            parts.sender.cancel_all()
            parts.incoming_snapshot.abandon()
            parts.peer_memory.cancel()
            _end_waiting(parts)

    def _end(self, error: Exception) -> None:
        """A running replica failed: from here on it sends and applies nothing."""
        failure = as_log_failure(error, self._config.name)
        log_failure(failure, error)
        parts = self.parts
        if parts is None:  # it is being restored: `start` raises this
            self._set_failure(failure)
            return
        for peer in parts.guard.connected():
            parts.gate.forget(peer)
        _end_waiting(parts)
        self._set_failure(failure)
        if self._roles.role is not Role.FOLLOWER:
            try:
                self._roles.announce(Role.FOLLOWER, self._roles.term)
            except Exception:  # noqa: BLE001 - the replica stops either way
                _log.exception("a callback of a role change failed while the replica stopped")
        self._shutdown = parts.loop.create_task(self._shut_down(parts))

    def _set_failure(self, failure: LogFailedError) -> None:
        if self.failure is None:
            self.failure = failure
            self._failed.set()
            self._roles.wake()

    async def wait_failed(self) -> LogFailedError:
        """Return when the replica has ended by itself, with the reason."""
        await self._failed.wait()
        if self.failure is None:
            raise RuntimeError("failed without a reason")
        return self.failure

    async def _shut_down(self, parts: ReplicaParts) -> None:
        """Stop everything that runs beside the turns. Safe to call twice."""
        await parts.writer.stop()
        await parts.sender.stop()
        await parts.incoming_snapshot.stop()
        await parts.driver.drain()
        if parts.introducer is not None and parts.data.is_present:
            await parts.peer_memory.stop(parts.introducer)
        await self._links.close()

    def _release_data(self) -> None:
        data, self._data = self._data, None
        if data is not None:
            data.close()


def _restore(parts: ReplicaParts) -> None:
    """Put the newest snapshot and all that is known to be committed into the state machine; make the disk agree."""
    raft, newest = parts.raft, parts.data.newest_snapshot
    if newest is not None:
        replace_state = parts.restorer.read(newest)
        if raft.entries(raft.first_index, 2) != list(last_entries(newest)):
            # The library would clear the log. Nothing was changed yet, so nothing is lost by stopping.
            raise LogFailedError(f"bug: the log does not begin with the snapshot of entry {newest.index}")
        parts.restorer.restore(newest, replace_state, raft.load_snapshot)
    raft.tick()
    parts.journal.sync_now()
    parts.postpone_election()
    parts.membership_changed()


def _end_waiting(parts: ReplicaParts) -> None:
    parts.pending_entries.end_all(Unknown("closed"))
    parts.reads.stop("closed")
