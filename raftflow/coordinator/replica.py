"""One replica: the log, the state machine it drives, the audit, and what the leader does on top of them.

The HTTP face (`raftflow.api`) holds a `Replica` and nothing behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import raftflow
from raftflow.coordinator.audit.audit_file import AuditFile
from raftflow.coordinator.audit.frames import AuditError
from raftflow.coordinator.audit.verify import verify_audit
from raftflow.coordinator.clock import ClusterClock, IdSource, MachineClock, SystemClock
from raftflow.coordinator.commit.submitter import NoLeaderError, NotLeaderError, Prepared, Submitter
from raftflow.coordinator.host import HostedMachine
from raftflow.coordinator.leader.leader_loop import LeaderLoop
from raftflow.coordinator.leader.leader_news import LeaderNews
from raftflow.coordinator.leader.retention import Retention
from raftflow.coordinator.placement import explanation
from raftflow.coordinator.placement.agent_stats import AgentStats
from raftflow.coordinator.placement.planner import QueuePlanner
from raftflow.coordinator.placement.rebalancer import RebalanceLoop, Rebalancer
from raftflow.coordinator.sessions.awaited_ends import AwaitedEnds
from raftflow.coordinator.sessions.poll_service import PollService
from raftflow.coordinator.sessions.registration import Registration
from raftflow.coordinator.sessions.stored_logs import StoredLogs
from raftflow.coordinator.uploads.workflow_uploads import WorkflowUploads
from raftflow.domain.contract.views import (
    LeaderNotice,
    MemberList,
    MemberView,
    PeerView,
    ReplicaStatus,
    TaskExplanation,
)
from raftflow.domain.events import AgentChanged
from raftflow.domain.features import LEVEL, LEVEL_FIRST, MEMBERS_LEVEL
from raftflow.domain.tasks.peer_urls import tell_peers
from raftflow.logstore.stores import open_store
from raftflow.machine.machine import EntryResult, Machine
from raftflow.machine.read import queries
from raftflow.replication.errors import LogFailedError, NoQuorumError, RemovedError
from raftflow.replication.histogram import Histogram
from raftflow.replication.log import ChangeableLog, Role
from raftflow.replication.members.birth_file import OrderRefusedError
from raftflow.replication.members.membership import (
    VOTERS_MIN,
    ChangeRefusedError,
    MemberInfo,
    Membership,
    NotReadyError,
)

if TYPE_CHECKING:
    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.contract.views import AuditCheck
    from raftflow.domain.replies import AnyReply
    from raftflow.replication.files import FileSystem
    from raftflow.replication.log import LogStatus, ReplicatedLog, StateMachine

_log = logging.getLogger(__name__)

TRANSFER_S = 2.0
"""How long a planned stop tries to hand leadership over."""
CHANGE_S = 20.0
"""How long one request to change the members may take; it can be repeated."""

LogFactory = Callable[["StateMachine", AuditFile], "ReplicatedLog"]
"""Makes the log for a state machine; the log must sync the audit before it compacts."""


class ReplicaFailedError(Exception):
    """The replica cannot go on. Says what to do."""


class ReplicaRemovedError(ReplicaFailedError):
    """The replica is no member of the cluster any more: it stops, and nothing is wrong with it."""


class ReplicaRefusedError(ReplicaFailedError):
    """The replica cannot be started like this."""


class ReplicaDiskError(ReplicaFailedError):
    """The disk is full, read-only or broken: nothing is wrong with how the replica was started."""


_DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
_KINDS = {RemovedError: ReplicaRemovedError, OrderRefusedError: ReplicaRefusedError}


class Replica:
    """Everything of one replica below its HTTP face. `start` it, `stop` it, watch `wait_failed`."""

    def __init__(
        self,
        config: CoordinatorConfig,
        make_log: LogFactory,
        fs: FileSystem,
        *,
        clock: MachineClock | None = None,
        ids: IdSource | None = None,
        level: int = LEVEL,
        peer_levels: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Put the parts together.

        `level` is the highest feature level that this replica understands, `peer_levels` returns the same of the
        replicas that are connected.
        """
        self.config = config
        wall = clock or SystemClock()
        self.ids = ids or IdSource(wall)
        self.machine = Machine(level_max=level)
        self._peer_levels = peer_levels
        self.clock = ClusterClock(wall, lambda: self.machine.clock_ms, lambda: self.leader.leading)
        self.audit = AuditFile(fs, config.data_dir / "audit", self._fail, bytes_max=config.limits.audit_bytes)
        self.commits = CommitTimes()
        self._hosted = HostedMachine(self.machine, self.audit, self._applied)
        self.log = make_log(self._hosted, self.audit)
        timing = config.timing
        self.submitter = Submitter(
            self.log,
            self.find_leader,
            waiting_max=config.limits.submissions_in_flight,
            timeout_s=timing.submit_timeout_ms / 1000,
            on_commit=self.commits.add,
            feature_level=self.feature_level,
        )
        self.stored_logs = StoredLogs(open_store(config.log_store)) if config.log_store else None
        self.awaited = AwaitedEnds()
        self.agent_stats = AgentStats()
        self.planner = QueuePlanner(self.machine, self.clock.now_ms, self.agent_stats)
        self.leader = LeaderLoop(
            name=config.name,
            machine=self.machine,
            submitter=self.submitter,
            clock=self.clock,
            planner=self.planner,
            lease_ms=timing.lease_ms,
            poll_wait_ms=timing.poll_wait_ms,
            retention=Retention(
                config.limits.retention_ms,
                config.limits.kept_workflows,
                config.limits.kept_tasks,
                config.limits.kept_result_bytes,
            ),
            on_bug=self._fail,
            member_levels=self._member_levels,
        )
        self.poll_service = PollService(
            machine=self.machine,
            submitter=self.submitter,
            leader=self.leader,
            clock=self.clock,
            barrier=self.read_barrier,
            lease_ms=timing.lease_ms,
            poll_wait_ms=timing.poll_wait_ms,
            held_max=config.limits.held_polls,
            agent_stats=self.agent_stats,
        )
        self.watch = RebalanceLoop(
            watch=Rebalancer(
                machine=self.machine,
                planner=self.planner,
                agent_stats=self.agent_stats,
                usage=self.poll_service.usage,
                actor=f"leader:{config.name}",
                delivered_s=self.poll_service.delivered_s,
                now_ms=self._now_ms,
                now_s=lambda: asyncio.get_running_loop().time(),
            ),
            machine=self.machine,
            submitter=self.submitter,
            look_again=self.leader.look_again,
            on_bug=self._fail,
        )
        self.uploads = WorkflowUploads(
            name=config.name,
            machine=self.machine,
            submitter=self.submitter,
            now_ms=self.clock.now_ms,
            on_bug=self._fail,
        )
        self.registration = Registration(machine=self.machine, submitter=self.submitter, leader=self.leader)
        self.log.on_role_change(self._role_changed)
        self.news = LeaderNews(self.leader_notice, config.limits.held_polls)
        self.log.on_leader_change(self.news.changed)
        self._started_s = 0.0
        self._peers_told = ""
        self._peers_of: Membership | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()

    # --- life

    async def start(self) -> None:
        """Open everything and join the cluster. Raises `ReplicaFailedError`, `ReplicaDiskError`."""
        self._started_s = asyncio.get_running_loop().time()
        try:
            await self.log.start()
            self._hosted.open_audit()
        except (LogFailedError, AuditError) as error:
            await self.log.close()
            await self.audit.close()
            kind = ReplicaDiskError if _is_disk_trouble(error) else ReplicaFailedError
            raise kind(str(error)) from error
        self._watcher = asyncio.get_running_loop().create_task(self._watch_log())

    async def hand_over(self) -> bool:
        """Give leadership to another replica if this one leads. True if another one leads now, or did before."""
        if not self.leader.leading:
            return True
        if len([member for member in self.members().members if member.voting]) == 1:
            return False
        moved = await self.log.transfer_leadership(None, TRANSFER_S)
        _log.info("leadership was handed over" if moved else "no other replica took leadership over in time")
        return moved

    async def transfer(self, target: str | None) -> bool:
        """Hand leadership to `target`, or to the most caught-up replica. True if it, or any other one, leads then."""
        return await self.log.transfer_leadership(target, TRANSFER_S)

    async def stop(self) -> None:
        """Stop in order: no new work, answer the held polls, end the log, close the audit. Safe to call twice."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        self.answer_held()
        self.leader.stop()
        self.watch.stop()
        self.uploads.stop()
        self.submitter.refuse()
        await self.log.close()
        await self.submitter.close()
        await self.audit.close()

    def answer_held(self) -> None:
        """Answer everything that is held (polls, reads), and hold nothing any more: before a planned stop."""
        self.poll_service.close()
        self.awaited.close()
        self.news.close()

    async def wait_failed(self) -> ReplicaFailedError:
        """Return when the replica cannot go on, with the reason; `ReplicaRemovedError` if it is no member now."""
        await self._failed.wait()
        kind = next((kind for of, kind in _KINDS.items() if isinstance(self._failure, of)), ReplicaFailedError)
        error = kind(str(self._failure) or repr(self._failure))
        error.__cause__ = self._failure
        return error

    def shut_out(self, explanation: str) -> None:
        """Stop, since the others will never talk to this replica as it is configured."""
        self._fail(ReplicaFailedError(explanation))

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()
            self.leader.stop()
            self.watch.stop()
            self.uploads.stop()

    async def _watch_log(self) -> None:
        self._fail(await self.log.wait_failed())

    def _role_changed(self, role: Role, term: int) -> None:
        self.leader.on_role_change(role, term)
        if self.leader.leading:
            self.uploads.start()
            self.watch.start()
        else:
            self.uploads.stop()
            self.watch.stop()
            self.poll_service.step_down()
            self.awaited.wake_all()

    def _applied(self, result: EntryResult) -> None:
        self.clock.follow()
        events = result.events
        if self.awaited.count:
            self.awaited.on_applied(events)
        if self.leader.leading and self.machine.tables.uploads:
            self.uploads.look()
        if events and self.leader.leading:
            self.leader.on_applied(events)
            self.watch.on_applied(events)
            for event in events:
                if isinstance(event, AgentChanged):
                    self.poll_service.wake(event.name)

    def _member_levels(self) -> dict[str, int] | None:
        """Return what every member understands, None unless all are connected; at a birth the founders' levels."""
        if not self.feature_level():
            return self._founding_levels()
        told = self._peer_levels()
        peers = [peer.name for peer in self.log.status().peers]
        if any(peer not in told for peer in peers):
            return None
        return {self.config.name: self.machine.level_max, **{peer: told[peer] for peer in peers}}

    def _founding_levels(self) -> dict[str, int]:
        """Return the level at which this cluster begins, by founder, as far as this program understands it."""
        return {name: min(level, self.machine.level_max) for name, level in self.log.founding_levels.items()}

    def _now_ms(self) -> int:
        return max(self.clock.now_ms(), self.machine.clock_ms)

    # --- what the API asks

    def feature_level(self) -> int:
        """Return the cluster's feature level, 0 until a new one is on the level of its founders."""
        level = self.machine.tables.feature_level
        if level > LEVEL_FIRST or min(self._founding_levels().values(), default=LEVEL_FIRST) <= LEVEL_FIRST:
            return level
        return 0

    def explain(self, workflow_id: str, task_id: str) -> TaskExplanation | None:
        """Say why a task is where it is, None if it is not known; the leader says most."""
        if not self.leader.leading:
            return queries.explain(self.machine, workflow_id, task_id)
        unfit = self.leader.standing.unfit
        return explanation.explain(
            self.machine, self.planner, workflow_id, task_id, now_ms=self.clock.now_ms(), unfit=unfit
        )

    def leader_notice(self) -> LeaderNotice:
        """Return who leads, as far as this replica knows. It names itself once it serves."""
        stamp = self.log.stamp()
        name = stamp.leader
        if name == self.config.name and not self.leader.leading:
            name = None
        return LeaderNotice(leader=name, url=self.url_of(name), term=stamp.term)

    def find_leader(self) -> tuple[str, str] | None:
        """Return (name, url) of another replica that leads, or None."""
        name = self.log.status().leader
        if name is None or name == self.config.name:
            return None
        url = self.url_of(name)
        return None if url is None else (name, url)

    def url_of(self, name: str | None) -> str | None:
        """Return where clients reach a member: by this replica's file, else by the list in the log."""
        url = self.config.url_of(name)
        members = self.log.status().members
        if url is None and name is not None and members is not None:
            member = members.find(name)
            url = None if member is None else member.url or None
        return url

    async def propose(self, command: AnyCommand | Prepared, client: str = "") -> AnyReply:
        """Submit a command of a client, named by its address. Raises `ProposeError`s."""
        if not self.leader.leading:
            raise self.submitter.no_leader_error()
        return await self.submitter.propose(command, bounded=True, client=client)

    async def read_barrier(self) -> int:
        """Make reads of the state machine linearizable from here on. Raises `NotLeaderError` or `NoLeaderError`."""
        try:
            return await self.log.read_index(self.config.timing.read_timeout_ms / 1000)
        except NoQuorumError as error:
            leader = self.find_leader()
            if leader is not None:
                raise NotLeaderError(*leader) from error
            raise NoLeaderError(f"no majority of the replicas confirmed the read ({error.reason})") from error

    async def verify_audit(self) -> AuditCheck:
        """Check this replica's audit file against its own chain and the state machine's."""
        return await verify_audit(self.audit, self.config.name, self.machine)

    def members(self) -> MemberList:
        """Return who belongs to the cluster, as this replica knows it."""
        log = self.log.status()
        known = {peer.name: peer for peer in log.peers}
        listed = log.members or Membership(tuple(self._addressed(member.name) for member in self.config.members))
        views = []
        for member in sorted((*listed.voters, *listed.learners)):
            given = self._addressed(member.name)
            view = MemberView(
                name=member.name,
                peer=given.peer or member.peer,
                url=given.url or member.url,
                voting=member.name in listed.voter_names,
                leader=member.name == log.leader,
                connected=member.name == self.config.name,
            )
            peer = known.get(member.name)
            if peer is not None:
                view.connected, view.match_index, view.lag = peer.connected, peer.match_index, peer.lag
            views.append(view)
        return MemberList(
            replica=self.config.name, leader=log.leader, term=log.term, members=views, removed=list(listed.removed)
        )

    def peer_urls(self) -> str:
        """Return what answers tell of the members' URLs: it goes with every answer, made once a list."""
        members = self.log.stamp().members
        if not self._peers_told or members is not self._peers_of:
            self._peers_of = members
            self._peers_told = tell_peers(member.url or "" for member in self.members().members if member.voting)
        return self._peers_told

    def _addressed(self, name: str) -> MemberInfo:
        """Return a member as this replica's file knows it; without addresses if it does not."""
        member = next((each for each in self.config.members if each.name == name), None)
        return MemberInfo(name) if member is None else MemberInfo(name, str(member.peer), member.url)

    async def add_member(self, member: MemberInfo) -> None:
        """Feed a new replica and make it a voter. Raises `ChangeRefusedError`, `NotReadyError`, `ProposeError`s."""
        await self._changing_log().add_member(member, CHANGE_S)

    async def remove_member(self, name: str) -> None:
        """Take a replica out for ever; a leader asked to go hands over first, and then does not lead any more.

        Raises `ChangeRefusedError`, `NotReadyError`, `ProposeError`s.
        """
        log = self._changing_log()
        if name == self.config.name and name not in (log.status().members or Membership()).removed:
            voters = [member for member in self.members().members if member.voting]
            if len(voters) <= VOTERS_MIN:
                raise ChangeRefusedError(f"{len(voters) - 1} voting members would be left; add another replica first")
            if not await self.transfer(None):
                raise ChangeRefusedError(f"{name} leads, and no other replica took leadership over in time")
            raise self.submitter.no_leader_error()  # the new leader carries it out
        await log.remove_member(name, CHANGE_S)

    def _changing_log(self) -> ChangeableLog:
        if not self.leader.leading:
            raise self.submitter.no_leader_error()
        if not isinstance(self.log, ChangeableLog):
            raise ChangeRefusedError("the members of this log cannot be changed")
        level = self.machine.tables.feature_level
        if level < MEMBERS_LEVEL:
            raise NotReadyError(
                f"the cluster is on feature level {level}, and its members can be changed "
                f"from level {MEMBERS_LEVEL} on; that comes by itself when all replicas are connected and run a "
                f"version that knows it"
            )
        return self.log

    def status(self) -> ReplicaStatus:
        """Return this replica's own view of the cluster."""
        log: LogStatus = self.log.status()
        return ReplicaStatus(
            name=self.config.name,
            cluster=self.config.cluster_id,
            role=log.role.value,
            leader=log.leader,
            leader_url=self.url_of(log.leader),
            term=log.term,
            last_index=log.last_index,
            durable_index=log.durable_index,
            commit_index=log.commit_index,
            applied_index=log.applied_index,
            snapshot_index=log.snapshot_index,
            ready=log.ready and self._failure is None and self.feature_level() > 0,
            digest=self.machine.chain.hex(),
            digest_index=self.machine.applied_index,
            pid=os.getpid(),
            version=raftflow.__version__,
            feature_level=self.machine.tables.feature_level,
            feature_level_max=self.machine.level_max,
            uptime_s=round(asyncio.get_running_loop().time() - self._started_s, 3),
            peers=[
                PeerView(name=peer.name, connected=peer.connected, match_index=peer.match_index, lag=peer.lag)
                for peer in log.peers
            ],
        )


def _is_disk_trouble(error: BaseException | None) -> bool:
    """Return True if a failure was caused by a disk that is full, read-only or broken."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
            return True
        error = error.__cause__
    return False


class CommitTimes(Histogram):
    """How long commits took."""

    __slots__ = ("commands",)

    BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)

    def __init__(self) -> None:
        super().__init__(self.BOUNDS_S)
        self.commands = 0

    def add(self, seconds: float, commands: int) -> None:
        """Count one committed entry."""
        self.note(seconds)
        self.commands += commands
