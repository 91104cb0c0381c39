"""`PySyncObjLog`: the replicated log on PySyncObj.

This module has the operations of the interface. The rest of a replica is in the room `replica/`:

    replica/data.py        what it has on its disk
    replica/parts.py       its parts, how they are connected, and who hears of an applied entry in which order
    replica/turns.py       what belongs to a turn, before and after the library's tick
    replica/traffic.py     messages from and to the other members
    replica/lifecycle.py   start, close, failure
    replica/status.py      what it shows of itself

Everything happens in the event loop's thread. Only syncs and other blocking file work leave it, through the
`FileSystem`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.replication.errors import NoQuorumError
from raftflow.replication.log import (
    LogStatus,
    OpenSnapshot,
    Outcome,
    Rejected,
    SnapshotNotTakenError,
    Stamp,
    Unknown,
)
from raftflow.replication.members.membership import NotReadyError
from raftflow.replication.messages import envelope
from raftflow.replication.raft.roles import RoleTracker
from raftflow.replication.raft.rules import NO_RULES, Rule
from raftflow.replication.replica.lifecycle import Lifecycle
from raftflow.replication.replica.parts import ReplicaParts
from raftflow.replication.replica.status import current_status, status_before_start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.replication.config import LogConfig
    from raftflow.replication.errors import LogFailedError
    from raftflow.replication.files import FileSystem
    from raftflow.replication.log import Role, StateMachine
    from raftflow.replication.members.births import IntroducedPeers
    from raftflow.replication.members.membership import MemberInfo, Membership, MembershipVersion
    from raftflow.replication.net.links import Links
    from raftflow.replication.replica.data import ReplicaData
    from raftflow.replication.storage.snapshot_store import SnapshotStore

_NOTHING_APPLIED: Final = 2
"""A new cluster has applied its first no-ops at this index. The library makes no snapshot of these."""


class PySyncObjLog:
    """A `ReplicatedLog` on PySyncObj.

    Args:
        config: the settings of this replica.
        machine: the state machine to drive.
        links: connections to the other members; started and closed by the log.
        fs: the disk; stays open when the log is closed.
        before_compaction: awaited after a snapshot is durable and before the log behind it is dropped. It makes
            durable what has to outlive those entries. An `OSError` keeps the log untrimmed for now.
        disabled_rules: for tests and simulation only: rules that are not applied.
        on_members: called with the membership at the start and whenever it changes or becomes certain, so that links
            can be made.
        neighbours: the replicas with which a cluster is born (births.py); None in tests of other parts, where births
            are not looked at.
    """

    def __init__(
        self,
        config: LogConfig,
        machine: StateMachine,
        links: Links,
        fs: FileSystem,
        *,
        before_compaction: Callable[[], Awaitable[None]] | None = None,
        disabled_rules: frozenset[Rule] = NO_RULES,
        on_members: Callable[[MembershipVersion], None] | None = None,
        introduced_peers: IntroducedPeers | None = None,
    ) -> None:
        self._config = config
        self._fs = fs
        self._roles = RoleTracker(config.name, config.election_max_s, election_min_s=config.election_min_s)

        def build(data: ReplicaData, on_failure: Callable[[Exception], None]) -> ReplicaParts:
            parts = ReplicaParts(
                config,
                machine,
                links,
                fs,
                data=data,
                roles=self._roles,
                loop=asyncio.get_running_loop(),
                on_failure=on_failure,
                before_compaction=before_compaction,
                disabled_rules=disabled_rules,
                on_members=on_members,
                introduced_peers=introduced_peers,
            )
            self._use(parts)
            return parts

        self._life = Lifecycle(config, links, fs, self._roles, introduced_peers=introduced_peers, build=build)

    def _use(self, parts: ReplicaParts) -> None:
        """Keep the parts that the operations below use."""
        self._parts = parts
        self._loop = parts.loop
        self._raft = parts.raft
        self._driver = parts.driver
        self._reads = parts.reads
        self._handover = parts.handover
        self._pending_entries = parts.pending_entries

    # Start and stop.

    async def start(self) -> None:
        """Open files, restore the newest snapshot, apply what is known to be committed, start the links.

        Raises `LogFailedError`.
        """
        await self._life.start()

    async def close(self) -> None:
        """Stop; submissions in flight end as `Unknown("closed")`."""
        await self._life.close()

    def abandon(self) -> None:
        """For simulation: stop as a killed process does. Nothing is written, synced, sent or closed any more."""
        self._life.abandon()

    async def wait_failed(self) -> LogFailedError:
        """Return when the log has stopped for ever, with the reason."""
        return await self._life.wait_failed()

    @property
    def _stopped(self) -> bool:
        return self._life.stopped

    # Entries.

    async def submit(self, entry: bytes, timeout_s: float) -> Outcome:
        """Append one entry and wait until it is applied here."""
        if self._stopped:
            return Rejected("closed")
        if len(entry) > self._config.entry_bytes_max:
            return Rejected("too_large")
        if not self._raft.is_leader or self._handover.active:
            return Rejected(self._refusal())
        pending = self._pending_entries.admit(len(entry), self._parts.position)
        if pending is None:
            return Rejected("queue_full")
        self._raft.submit(envelope.seal(entry), pending.on_result)
        self._driver.request_turn()
        timer = self._loop.call_later(timeout_s, pending.resolve, Unknown("timeout"))
        try:
            return await pending.future
        finally:
            timer.cancel()

    def _refusal(self) -> str:
        return "no_leader" if self._roles.leader(self._raft) is None else "not_leader"

    # Reads.

    async def read_index(self, timeout_s: float) -> int:
        """Confirm leadership with a majority and wait until everything committed before the call is applied."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_leading()
                index = self._raft.commit_index
                confirmed = self._loop.create_future()
                self._reads.begin(confirmed)
                await confirmed
                while self._raft.applied_index < index:  # a tick applies what it commits, so this is for safety only
                    await self._roles.next_change()
        except TimeoutError:
            raise NoQuorumError("timeout") from None
        return self._raft.applied_index

    async def _until_leading(self) -> None:
        """Wait while this replica is a leader that has not committed an entry of its term yet."""
        while True:
            if self._stopped:
                raise NoQuorumError("closed")
            if self._roles.leads(self._raft):
                return
            if not self._raft.is_leader:
                raise NoQuorumError(self._refusal())
            await self._roles.next_change()

    # Leadership.

    async def transfer_leadership(self, target: str | None, timeout_s: float) -> bool:
        """Hand leadership to `target`, or to the most caught-up follower; submissions are refused meanwhile."""
        if self._stopped:
            return False
        return await self._handover.run(target, timeout_s, lambda: self._stopped)

    def on_role_change(self, callback: Callable[[Role, int], None]) -> None:
        """Call `callback(role, term)` on each change; an exception from it stops the replica."""
        self._roles.callbacks.append(callback)

    def on_leader_change(self, callback: Callable[[], None]) -> None:
        """Call `callback()` when this replica hears the leader of another term, or is announced as the leader."""
        self._roles.leader_callbacks.append(callback)

    # Members.

    async def add_member(self, member: MemberInfo, timeout_s: float) -> Membership:
        """Send entries to a new replica until it has caught up, then make it a voter. Safe to repeat.

        Raises `ChangeRefusedError`, which says why, and `NotReadyError` if this replica does not lead, or time is up.
        """
        self._check_running()
        return await self._parts.member_changes.add(member, timeout_s)

    async def remove_member(self, name: str, timeout_s: float) -> Membership:
        """Take a voter or learner out of the cluster for ever. The leader has to hand over first.

        Raises as `add_member` does.
        """
        self._check_running()
        return await self._parts.member_changes.remove(name, timeout_s)

    def _check_running(self) -> None:
        if self._stopped:
            raise NotReadyError("the replica has stopped")

    # Snapshots.

    def request_snapshot(self) -> None:
        """Start writing a snapshot; the log behind it is dropped when it is durable."""
        if not self._stopped:
            self._parts.writer.request()
            self._driver.request_turn()

    async def open_snapshot(self, timeout_s: float) -> OpenSnapshot:
        """Write a snapshot of everything that is applied here by now, and open its file. The log is trimmed after it.

        Raises `SnapshotNotTakenError` if nothing is applied yet, the disk fails, or time is up.
        """
        if self._life.parts is None or self._raft.applied_index <= _NOTHING_APPLIED:
            raise SnapshotNotTakenError("this replica has applied no entry yet: there is nothing to save")
        writer, store, index = self._parts.writer, self._parts.data.store, self._raft.applied_index
        try:
            async with asyncio.timeout(timeout_s):
                while writer.snapshot_index < index:
                    if self._stopped:
                        raise SnapshotNotTakenError("the replica has stopped")
                    self.request_snapshot()
                    await writer.next_end()
        except TimeoutError:
            raise SnapshotNotTakenError(f"no snapshot was written within {timeout_s:g} s") from None
        except OSError as error:
            raise SnapshotNotTakenError(f"the snapshot cannot be written: {error}") from error
        return await self._fs.off_loop(lambda: _open_newest(store))

    # View.

    @property
    def parts(self) -> ReplicaParts:
        """The parts of a replica that was started: tests and the simulation look inside."""
        return self._parts

    @property
    def is_running(self) -> bool:
        """True from the end of the restoration at the start on, also when the replica has stopped."""
        return self._life.parts is not None

    @property
    def failure(self) -> LogFailedError | None:
        """Why the log has stopped by itself."""
        return self._life.failure

    @property
    def repairing(self) -> bool:
        """Whether this replica repairs itself and does not vote yet (repair.py)."""
        parts = self._life.parts
        return parts is not None and parts.peer_memory.repairing

    @property
    def founding_levels(self) -> dict[str, int]:
        """Return the feature level at which the cluster begins, by founder; empty where that is not known."""
        parts = self._life.parts
        return {} if parts is None else parts.births.founding_levels

    def status(self) -> LogStatus:
        """Return the present view; before the start, one of a replica that knows nothing."""
        parts = self._life.parts
        return status_before_start(self._config) if parts is None else current_status(parts, stopped=self._stopped)

    def stamp(self) -> Stamp:
        """Return the part of the status that every answer carries."""
        if self._life.parts is None:
            return Stamp(0, 0, None)
        raft = self._raft
        return Stamp(raft.applied_index, raft.term, self._roles.leader(raft), raft.members.current)


def _open_newest(store: SnapshotStore) -> OpenSnapshot:
    """Open the newest snapshot. Blocking."""
    info = store.newest()
    if info is None:
        raise SnapshotNotTakenError("this replica has no snapshot that can be read")
    return OpenSnapshot(info, store.open_file(info))
