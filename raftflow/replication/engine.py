"""`PySyncObjLog`: the replicated log on PySyncObj, and the place where its parts meet.

    submit ─► Raft (core.py, the library) ─► GuardedTransport (guard.py, T1-T7)
                 │        ▲                        │                  ▲
                 ▼        │ durable                ▼                  │
              Journal ────┴──────────────────► SyncGate (gate.py) ────┤
                                                   │                  │
                                                   ▼                  │
                                          wire.encode, Links ─► wire.decode

Frames come and go by traffic.py, turns of the library are run by the driver (driver.py), linearizable reads by
reads.py, snapshots are written by compaction.py and sent to followers by transfer.py. Everything happens in the
event loop's thread; only syncs and other blocking file work leave it, through the `FileSystem`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from functools import partial
from typing import TYPE_CHECKING, Final

from raftflow.replication.errors import LogFailedError, NoQuorumError, RemovedError
from raftflow.replication.log import LogStatus, Outcome, PeerStatus, Rejected, Role, Stamp, Unknown
from raftflow.replication.members import membership
from raftflow.replication.members.birth_file import MarkFile, OrderRefusedError
from raftflow.replication.members.births import Births, EmptiedError
from raftflow.replication.members.identity import DataDir
from raftflow.replication.members.membership import MemberInfo, Membership, MembershipVersion, NotReadyError
from raftflow.replication.messages import envelope, wire
from raftflow.replication.raft.driver import Driver
from raftflow.replication.raft.guard import NO_RULES, GuardedTransport, Rule
from raftflow.replication.raft.handover import Handover
from raftflow.replication.raft.library import LibraryFailure, Raft, RaftTiming, SnapshotPort, loop_clock, use_clock
from raftflow.replication.raft.member_changes import MemberChanges
from raftflow.replication.raft.peer_memory import PeerMemory
from raftflow.replication.raft.pending_entries import PendingEntries
from raftflow.replication.raft.reads import ReadRounds
from raftflow.replication.raft.roles import RoleTracker
from raftflow.replication.raft.sync_gate import SyncGate
from raftflow.replication.repair.repair import MEMBERS_MIN, Repair, StorageOpener
from raftflow.replication.snapshot.compaction import SnapshotWriter
from raftflow.replication.snapshot.transfer import IncomingTransfer, SnapshotSender
from raftflow.replication.traffic import PeerTraffic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.replication.config import LogConfig
    from raftflow.replication.files import FileSystem
    from raftflow.replication.log import StateMachine
    from raftflow.replication.members.births import Neighbours
    from raftflow.replication.net.links import Links
    from raftflow.replication.raft.library import Entry, Message
    from raftflow.replication.storage.snapshot_store import SnapshotInfo

_log = logging.getLogger(__name__)

LOOK_AT_DISK_S: Final = 1.0
"""How often a replica looks whether its data directory is still the one that it opened."""
_SIGNS_OF_LIFE: Final = 5
"""How often a follower that checks and reads a snapshot says so in the time after which the leader gives it up."""


class PySyncObjLog:
    """A `ReplicatedLog` on PySyncObj.

    Args:
        config: the settings of this replica.
        machine: the state machine to drive.
        links: connections to the other members; started and closed by the log.
        fs: the disk; stays open when the log is closed.
        before_compaction: awaited after a snapshot is durable and before the log behind it is dropped. Whatever has
            to outlive those entries is made durable there. An `OSError` keeps the log untrimmed for now.
        disabled_rules: for tests and simulation only: rules that are not applied.
        on_members: told the membership at the start and whenever it changes or becomes certain, so that links can be
            made.
        neighbours: with whom a cluster is born (births.py); None in tests of other parts, where nothing is asked.
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
        neighbours: Neighbours | None = None,
    ) -> None:
        self._config = config
        self._on_members = on_members
        self._neighbours = neighbours
        self._introducer = None if neighbours is None else neighbours.introducer
        self._machine = machine
        self._links = links
        self._fs = fs
        self._before_compaction = before_compaction
        self._off = disabled_rules
        self._started = False
        self._running = False
        self._closed = False
        self._failure: LogFailedError | None = None
        self._failed = asyncio.Event()
        self._roles = RoleTracker(
            config.name, config.election_max_s, self._lose_leadership, election_min_s=config.election_min_s
        )
        self._repeat_reads_at = float("-inf")
        self._data: DataDir | None = None

    # Start and stop.

    async def start(self) -> None:
        """Open files, restore the newest snapshot, apply what is known to be committed, start the links.

        Raises `LogFailedError`.
        """
        if self._started:
            raise RuntimeError("a log is started once")
        self._started = True
        self._loop = asyncio.get_running_loop()
        use_clock(loop_clock)
        try:
            self._open()
            self._build()
            self._restore()
            self._running = True
            self._wait_for_peers()
            if self._neighbours is not None:
                self._neighbours.introducer.attach(self._on_emptied, self._births.may_relearn)
            await self._links.start()
            self._births.start()
            self._look_at_disk()
        except Exception as error:
            reason = self._as_failure(error)
            self._stop_with(reason)
            if self._running:
                self._driver.stop()
                await self._shut_down()
            await self._release_files()
            if reason is error:
                raise
            raise reason from error
        self._driver.request_turn()

    def _wait_for_peers(self) -> None:
        """Vote for nobody at first unless all peers are there: one of them may know that this disk was put back."""

        def go_on() -> None:
            self._guard.waits = False

        if self._introducer is not None:
            self._guard.waits = True
            self._loop.call_later(self._config.election_min_s, go_on)

    def _open(self) -> None:
        config = self._config
        self._data = data = DataDir.open(self._fs, config.data_dir, config.cluster_id, config.name)
        opener = StorageOpener(
            self._fs,
            data,
            check_command=envelope.check,
            segment_bytes=config.segment_bytes,
            clock=self._loop.time,
            members=MEMBERS_MIN if config.join else len(config.members),
        )
        self._journal, self._store, self._start_snapshot, self._repair_at_start = opener.open()
        self._birth_file = file = MarkFile(self._fs, data.path, ordered_now=config.bootstrap)
        self._birth_mark = mark = file.open(data.disk_id, has_data=self._has_data())
        is_new = not self._has_data() and mark.stage is None
        self._first_members = membership.load_first(self._fs, data.path, self._bootstrap(), anew=is_new)

    def _has_data(self) -> bool:
        """Return True if this replica has promised anything, as far as its disk says."""
        journal = self._journal
        return (
            journal.getCurrentTerm() > 0
            or journal.getVotedForNodeId() is not None
            or len(journal) > 1
            or self._start_snapshot is not None
            or self._repair_at_start is not None
        )

    def _bootstrap(self) -> Membership:
        """Return the list with which this replica starts for the first time."""
        if self._config.join:
            return Membership()
        names = sorted(self._config.members)
        nowhere = ("", "")
        return Membership(tuple(MemberInfo(name, *self._config.addresses.get(name, nowhere)) for name in names))

    def _build(self) -> None:
        config = self._config
        self._snapshots = SnapshotPort(self._begin_snapshot, self._load_snapshot)
        self._guard = GuardedTransport(
            self._emit,
            self._send_snapshot,
            self._off,
            congested=lambda peer: self._links.buffered(peer) > config.window_bytes,
            take_prefix=lambda entries: list(wire.take_prefix(entries, config.append_bytes_max)),
        )
        self._raft = Raft(
            config.name,
            config.members,
            timing=RaftTiming(
                election_min_s=config.election_min_s,
                election_max_s=config.election_max_s,
                heartbeat_s=config.heartbeat_s,
                fallback_s=config.election_min_s * config.fallback_share,
            ),
            transport=self._guard,
            journal=self._journal,
            snapshots=self._snapshots,
            apply=self._apply,
            queue_entries_max=config.queue_entries_max,
            membership=self._first_members,
            members_when_applied=Rule.LOGGED_MEMBERS in self._off,
            outsiders_stand=Rule.OUTSIDERS_PASSIVE in self._off,
        )
        self._raft.on_membership = self._membership_changed
        self._guard.attach(self._raft)
        self._guard.configured = frozenset(config.peers)
        self._births = Births(
            config.name,
            tuple(self._first_members.voter_names),
            disk=self._data.disk_id if self._data is not None else "",
            file=self._birth_file,
            mark=self._birth_mark,
            neighbours=self._neighbours,
            send=self._send_birth,
            has_data=self._has_data,
            late=self._late_voters,
            on_born=self._on_born,
            joins=config.join,
        )
        self._guard.votes = self._repair_at_start is None and self._births.born
        self._roles.attach(self._raft)
        self._gate = SyncGate(self._journal, self._transmit, self._guard.receive, self._off)
        self._reads = ReadRounds(self._raft.other_voters, self._send_probe)
        self._submissions = PendingEntries(config.queue_entries_max, config.queue_bytes_max)
        self._driver = Driver(
            self._raft,
            self._journal,
            heartbeat_s=config.heartbeat_s,
            before=self._before_tick,
            after=self._after_tick,
            on_durable=self._gate.advance,
            on_failure=self._on_failure,
        )
        self._recall = PeerMemory(
            self._fs,
            config.data_dir,
            raft=self._raft,
            guard=self._guard,
            journal=self._journal,
            driver=self._driver,
            repair=self._repair_at_start,
            peers=config.peers,
            on_change=self._update_votes,
        )
        if self._introducer is not None:
            self._introducer.log = self._recall
        self._writer = SnapshotWriter(config, self._machine, self._store, self._snapshots, self._before_compaction)
        self._changes = MemberChanges(self._raft, self._guard, self._roles, self._append_members, self._off)
        self._handover = Handover(self._raft, self._guard, self._roles, self._send_now)
        self._sender = SnapshotSender(config, self._store, self._emit, self._end_transfer)
        self._receiver = IncomingTransfer(
            self._guard,
            self._store,
            self._emit,
            prepare=self._prepare,
            install=self._install,
            driver=self._driver,
            alive_s=config.snapshot_stall_s / _SIGNS_OF_LIFE,
            compared=self._is_compared,
            reset=self._links.reset,
        )

        self._traffic = PeerTraffic(
            config,
            self._links,
            births=self._births,
            raft=self._raft,
            guard=self._guard,
            gate=self._gate,
            driver=self._driver,
            roles=self._roles,
            reads=self._reads,
            sender=self._sender,
            receiver=self._receiver,
            recall=self._recall,
            lonely=self._postpone_election,
        )

    def _is_compared(self, peer: str) -> bool:
        return self._introducer is None or self._introducer.is_compared(peer)

    def _send_birth(self, peer: str, body: bytes) -> None:
        self._traffic.transmit(peer, {"type": "birth", "body": body})

    def _late_voters(self) -> tuple[str, ...]:
        """Return the voters, by what is committed, that the first list does not have."""
        first = self._first_members.voter_names
        return tuple(sorted(self._raft.members.base.voter_names - first)) if first else ()

    def _update_votes(self) -> None:
        self._guard.votes = self._recall.repair is None and self._births.born

    def _on_born(self) -> None:
        self._update_votes()
        self._postpone_election()
        self._driver.request_turn()

    def _on_emptied(self, peer: str, reason: str) -> None:
        error = self._births.emptied(peer, reason)
        if error is not None:
            self._driver.fail(error)

    def _emit(self, peer: str, message: Message) -> None:
        self._gate.emit(peer, message)

    def _send_probe(self, seq: int) -> None:
        self._traffic.send_probe(seq)

    def _transmit(self, peer: str, message: Message) -> None:
        self._traffic.transmit(peer, message)

    def _restore(self) -> None:
        """Put the newest snapshot and everything known to be committed into the machine; make the disk agree."""
        newest = self._start_snapshot
        if newest is not None:
            self._loading, self._load_state = newest, self._read_state(newest)
            if self._raft.entries(self._raft.first_index, 2) != list(_ends(newest)):
                # The library would clear the log. Nothing was changed yet, so nothing is lost by stopping.
                raise LogFailedError(f"bug: the log does not begin with the snapshot of entry {newest.index}")
            self._raft.load_snapshot()
            if self._snapshots.failure is not None:
                raise self._cannot_restore(newest) from self._snapshots.failure
            self._writer.note_installed(newest.index)
        self._raft.tick()
        self._journal.sync_now()
        self._postpone_election()
        self._membership_changed()

    def _cannot_restore(self, info: SnapshotInfo) -> LogFailedError:
        return LogFailedError(
            f"the snapshot of entry {info.index} cannot be restored: {self._snapshots.failure}. Start the version of "
            f"raftflow that wrote it, or let this replica join again under a new name."
        )

    def _membership_changed(self) -> None:
        """The log has another membership, or one can no longer be cut off."""
        self._guard.check_membership()
        self._reads.set_peers(self._raft.other_voters)
        self._roles.wake()
        if self._on_members is not None:
            self._on_members(self._raft.members.standing)

    def _postpone_election(self) -> None:
        """Give a leader the time of one election timeout to be heard."""
        wait_s = random.uniform(self._config.election_min_s, self._config.election_max_s)  # noqa: S311 - spreads elections
        self._raft.election_deadline = self._loop.time() + wait_s

    async def close(self) -> None:
        """Stop; submissions in flight end as `Unknown("closed")`."""
        if self._closed or not self._started:
            self._closed = True
            return
        self._closed = True
        if self._running:
            self._driver.stop()
            self._end_waiting("closed")
            await self._shut_down()
        await self._release_files()
        self._roles.wake()

    def abandon(self) -> None:
        """For simulation: stop as a killed process does. Nothing is written, synced, sent or closed any more."""
        self._closed = True
        if self._running:
            self._driver.stop()
            self._driver.cancel()
            self._writer.cancel()
            self._sender.cancel_all()
            self._receiver.abandon()
            self._recall.cancel()
            self._end_waiting("closed")

    async def _shut_down(self) -> None:
        """Stop what runs beside the turns; safe to call twice."""
        await self._stop_tasks()
        await self._links.close()

    async def _stop_tasks(self) -> None:
        await self._writer.stop()
        await self._sender.stop()
        await self._receiver.stop()
        await self._driver.drain()
        if self._introducer is not None and self._data is not None and self._data.is_there():
            await self._recall.stop(self._introducer)

    async def _release_files(self) -> None:
        data, self._data = self._data, None
        if data is None:
            return
        try:
            if hasattr(self, "_journal"):
                self._journal.close()
        except (LogFailedError, OSError) as error:
            _log.warning("closing the journal: %s", error)
        finally:
            data.close()

    def _end_waiting(self, reason: str) -> None:
        self._submissions.end_all(Unknown(reason))
        self._reads.stop(reason)

    # Failure.

    def _look_at_disk(self) -> None:
        """Stop soon after somebody took the data directory away: open files go on taking what is lost with them."""
        self._driver.guarded(self._check_disk)
        if not self._driver.stopped:
            self._loop.call_later(LOOK_AT_DISK_S, self._look_at_disk)

    def _check_disk(self) -> None:
        data = self._data
        if data is None or (data.is_there() and self._journal.is_there()):
            return
        raise LogFailedError(
            f"{data.path} was moved, removed or replaced while replica {self._config.name} ran. This replica stops, "
            f"since a later start would not find what it writes. If the directory was moved, put it back and start "
            f"again: nothing is lost then. If it is gone, remove the replica from the cluster and let it join again "
            f"under a new name."
        )

    def _as_failure(self, error: Exception) -> LogFailedError:
        if isinstance(error, LogFailedError):
            return error
        if isinstance(error, OSError):
            return LogFailedError(
                f"the disk of replica {self._config.name} fails: {error}. Free space or repair it, then start again."
            )
        return LogFailedError(
            f"replica {self._config.name} stopped to keep what it promised: {type(error).__name__}: {error}. "
            f"Its data is kept; report this with the log, then start it again."
        )

    def _on_failure(self, error: Exception) -> None:
        """Stop for good: nothing is sent or applied from here on."""
        reason = self._as_failure(error)
        if reason is not error:
            reason.__cause__ = error
        if isinstance(reason, RemovedError | EmptiedError | OrderRefusedError):
            _log.warning("%s", reason)
        else:
            _log.critical("%s", reason, exc_info=error)
        for peer in self._guard.connected():
            self._gate.forget(peer)
        self._end_waiting("closed")
        self._stop_with(reason)
        if self._roles.role is not Role.FOLLOWER:
            try:
                self._roles.announce(Role.FOLLOWER, self._roles.term)
            except Exception:  # noqa: BLE001 - the replica stops either way
                _log.exception("a callback of a role change failed while the replica stopped")
        self._shutdown = self._loop.create_task(self._shut_down())

    def _stop_with(self, reason: LogFailedError) -> None:
        if self._failure is None:
            self._failure = reason
            self._failed.set()
            self._roles.wake()

    async def wait_failed(self) -> LogFailedError:
        """Return when the log has stopped for good, with the reason."""
        await self._failed.wait()
        if self._failure is None:
            raise RuntimeError("failed without a reason")
        return self._failure

    # Turns.

    def _before_tick(self) -> None:
        if self._recall.repair is not None:
            self._go_on_with_repair(self._recall.repair)
        if not self._births.born:
            self._wait_for_birth()
        if self._guard.advance_commit():
            self._driver.request_turn()
        self._guard.resume()
        if self._guard.resume_wanted:
            self._guard.resume_wanted = False
            self._driver.send_wanted = True

    def _after_tick(self) -> None:
        self._roles.update()
        if self._raft.is_leader and self._raft.next_deadline > self._repeat_reads_at:
            self._repeat_reads_at = self._raft.next_deadline
            self._reads.repeat()
            if self._introducer is not None:
                self._recall.note_followers(self._introducer)
        if self._writer.is_due(self._raft):
            self._raft.compact()  # at the next tick, which is a heartbeat away at most
        if self._handover.active or self._changes.active:
            self._roles.wake()

    def _go_on_with_repair(self, repair: Repair) -> None:
        """End the repair if this replica has everything that it ever acknowledged; until then it does not stand."""
        raft = self._raft
        if self._recall.has_ended():
            return
        raft.election_deadline = self._loop.time() + self._config.election_max_s
        leader = self._roles.leader(raft)
        others = self._guard.connected() & raft.other_voters
        quorum = 2 * len(others) > len(raft.voters)
        if (
            raft.term == repair.term
            and not repair.unsure
            and leader is not None
            and quorum
            and self._roles.has_caught_up(raft)
        ):
            self._guard.ask_for_new_term(leader, raft.term + 1)

    def _wait_for_birth(self) -> None:
        now_s = self._loop.time()
        self._raft.election_deadline = now_s + self._config.election_max_s
        self._births.remind(now_s)

    def _lose_leadership(self) -> None:
        """End what only a leader can finish. Entries in the log may still be committed by the next one."""
        for callback in self._raft.take_waiting():
            callback(None, LibraryFailure.LEADER_CHANGED)
        self._gate.clear_incoming()
        self._sender.cancel_all()
        self._guard.end_all_snapshots()
        self._reads.stop("leader_changed")

    def on_role_change(self, callback: Callable[[Role, int], None]) -> None:
        """Call `callback(role, term)` on each change; an exception from it stops the replica."""
        self._roles.callbacks.append(callback)

    def on_leader_change(self, callback: Callable[[], None]) -> None:
        """Call `callback()` when this replica hears the leader of another term, or is announced as the leader."""
        self._roles.leader_callbacks.append(callback)

    # Entries.

    async def submit(self, entry: bytes, timeout_s: float) -> Outcome:
        """Append one entry and wait until it is applied here."""
        if self._stopped:
            return Rejected("closed")
        if len(entry) > self._config.entry_bytes_max:
            return Rejected("too_large")
        if not self._raft.is_leader or self._handover.active:
            return Rejected(self._refusal())
        submission = self._submissions.admit(len(entry), self._position)
        if submission is None:
            return Rejected("queue_full")
        self._raft.submit(envelope.seal(entry), submission.on_result)
        self._driver.request_turn()
        timer = self._loop.call_later(timeout_s, submission.resolve, Unknown("timeout"))
        try:
            return await submission.future
        finally:
            timer.cancel()

    def _refusal(self) -> str:
        return "no_leader" if self._roles.leader(self._raft) is None else "not_leader"

    def _position(self) -> tuple[int, int]:
        """Return index and term of the entry that is being applied."""
        index = self._raft.applied_index + 1
        return index, self._raft.term_at(index)

    def _apply(self, payload: bytes) -> object:
        index, term = self._position()
        reply = self._machine.apply(index, term, payload)
        self._writer.note_applied(len(payload))
        return reply

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

    # Members.

    async def add_member(self, member: MemberInfo, timeout_s: float) -> Membership:
        """Feed a new replica until it has caught up, then make it a voter; may be repeated until that is done.

        Raises `ChangeRefusedError`, which says why, and `NotReadyError` if this replica does not lead, or time is up.
        """
        self._check_running()
        return await self._changes.add(member, timeout_s)

    async def remove_member(self, name: str, timeout_s: float) -> Membership:
        """Take a voter or learner out of the cluster for ever. The leader has to hand over first.

        Raises as `add_member` does.
        """
        self._check_running()
        return await self._changes.remove(name, timeout_s)

    def _check_running(self) -> None:
        if self._stopped:
            raise NotReadyError("the replica has stopped")

    def _append_members(self, changed: Membership, callback: Callable[[object, int], None]) -> None:
        def append() -> None:
            self._raft.append_membership(changed, callback)
            # A single voter commits at its next tick whatever is written: here the disk comes first as well.
            self._driver.settle()

        self._driver.guarded(append)
        self._send_now()

    def _send_now(self) -> None:
        """Send the followers what they lack without waiting for the next heartbeat."""
        self._driver.send_wanted = True
        self._driver.request_turn()

    # Snapshots.

    def request_snapshot(self) -> None:
        """Start writing a snapshot; the log behind it is dropped when it is durable."""
        if not self._stopped:
            self._writer.request()
            self._driver.request_turn()

    def _begin_snapshot(self, last: Entry, previous: Entry) -> None:
        tracker = self._raft.members
        members = tracker.current if Rule.SNAPSHOT_MEMBERS in self._off else tracker.at(last[1])
        self._writer.begin(last, previous, self._driver, members)

    def _load_snapshot(self) -> tuple[Entry, Entry]:
        """Restore the machine from the snapshot chosen; called by the library while it loads."""
        info = self._loading
        if info is None:
            raise LogFailedError("bug: a snapshot is loaded that nobody chose")
        members = membership.decode(info.membership) if info.membership else None
        self._load_state()
        self._raft.members.rebase(members, info.index)
        previous, last = _ends(info)
        return last, previous

    def _send_snapshot(self, peer: str) -> None:
        self._sender.start(peer, self._raft.term, self._raft.first_index)

    def _end_transfer(self, peer: str) -> None:
        self._guard.end_snapshot(peer)
        self._send_now()

    def _read_state(self, info: SnapshotInfo) -> Callable[[], None]:
        """Read a snapshot into a new state; returns what puts it in place, or raises what is wrong with it (T5)."""
        try:
            return self._machine.prepare(self._store.read(info))
        except Exception as error:  # noqa: BLE001 - raised by the function returned
            return partial(_raise, error)

    async def _prepare(self, info: SnapshotInfo) -> Callable[[], None]:
        """Read a snapshot off the loop, so that this replica goes on answering meanwhile."""
        return await self._fs.off_loop(lambda: self._read_state(info))

    def _install(self, peer: str, info: SnapshotInfo, load_state: Callable[[], None]) -> None:
        """Load a snapshot that came from the leader, is durable here, and was read by `_prepare`."""
        self._writer.cancel()  # it would go on with a state that is about to be replaced
        self._loading, self._load_state = info, load_state
        self._guard.install(peer, info.index)
        if self._snapshots.failure is not None:
            raise self._cannot_restore(info) from self._snapshots.failure
        self._writer.note_installed(info.index)
        self._postpone_election()  # what the leader sent while this was loaded has not been heard yet

    # View.

    @property
    def repairing(self) -> bool:
        """Whether this replica repairs itself and does not vote yet (repair.py)."""
        return self._running and self._recall.repairing

    @property
    def _stopped(self) -> bool:
        return self._closed or self._failure is not None or not self._started

    @property
    def founding_levels(self) -> dict[str, int]:
        """Return the feature level at which the cluster begins, by founder; empty where that is not known."""
        return self._births.founding_levels if self._running else {}

    def status(self) -> LogStatus:
        """Return the present view; before the start, one of a replica that knows nothing."""
        if not self._running:
            return _unstarted(self._config)
        raft = self._raft
        leads = raft.is_leader
        last = raft.last_index
        peers = tuple(
            PeerStatus(
                name=peer,
                connected=self._guard.is_up(peer),
                match_index=raft.match_index(peer) if leads else None,
                lag=last - raft.match_index(peer) if leads else None,
            )
            for peer in raft.peers
        )
        return LogStatus(
            name=self._config.name,
            role=self._roles.shown(raft),
            leader=self._roles.leader(raft),
            term=raft.term,
            last_index=last,
            durable_index=self._journal.durable_index,
            commit_index=raft.settled_index,
            applied_index=raft.applied_index,
            snapshot_index=self._writer.snapshot_index,
            ready=self._is_ready(),
            peers=peers,
            members=raft.members.current,
        )

    def stamp(self) -> Stamp:
        """Return what goes with every answer."""
        if not self._running:
            return Stamp(0, 0, None)
        raft = self._raft
        return Stamp(raft.applied_index, raft.term, self._roles.leader(raft), raft.members.current)

    def _is_ready(self) -> bool:
        if self._stopped or self._recall.repairing:
            return False
        if self._raft.is_leader:
            quorum = 2 * (len(self._guard.connected() & self._raft.other_voters) + 1) > len(self._raft.voters)
            return quorum and self._roles.leads(self._raft)
        return self._roles.has_caught_up(self._raft)


def _raise(error: Exception) -> None:
    raise error


def _ends(info: SnapshotInfo) -> tuple[Entry, Entry]:
    """Return the last two entries of a snapshot, in their order: the log goes on from them."""
    return (info.prev_command, info.prev_index, info.prev_term), (info.last_command, info.index, info.term)


def _unstarted(config: LogConfig) -> LogStatus:
    return LogStatus(
        name=config.name,
        role=Role.FOLLOWER,
        leader=None,
        term=0,
        last_index=0,
        durable_index=0,
        commit_index=0,
        applied_index=0,
        snapshot_index=0,
        ready=False,
        peers=tuple(PeerStatus(name=peer, connected=False) for peer in config.peers),
    )
