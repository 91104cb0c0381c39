"""One replica: the log, the state machine that it drives, the audit, and the work of a leader.

The HTTP server (`raftflow.api`) uses a `Replica`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import raftflow
from raftflow.coordinator.audit.audit_file import AuditFile
from raftflow.coordinator.audit.frames import AuditError
from raftflow.coordinator.audit.verify import verify_audit
from raftflow.coordinator.bundles.replication import BundleReplication
from raftflow.coordinator.bundles.store import BundleStore
from raftflow.coordinator.calls.attempt_calls import AttemptCalls
from raftflow.coordinator.clock import ClusterClock, IdSource, MachineClock, SystemClock
from raftflow.coordinator.cluster_view import ClusterView
from raftflow.coordinator.commit.commit_times import CommitTimes
from raftflow.coordinator.commit.pending_jobs import PendingJobs, of_workflow
from raftflow.coordinator.commit.submitter import EncodedCommand, NoLeaderError, NotLeaderError, Submitter
from raftflow.coordinator.events.history import EventHistory
from raftflow.coordinator.failures import ReplicaFailedError, failure_for, start_failure_for
from raftflow.coordinator.host import HostedMachine
from raftflow.coordinator.leader.leader_loop import LeaderLoop
from raftflow.coordinator.leader.leader_news import LeaderNews
from raftflow.coordinator.leader.retention import Retention
from raftflow.coordinator.membership_admin import MembershipAdmin
from raftflow.coordinator.placement import explanation
from raftflow.coordinator.placement.agent_stats import AgentStats
from raftflow.coordinator.placement.planner import QueuePlanner
from raftflow.coordinator.placement.rate_waiters import RateWaiters
from raftflow.coordinator.placement.rebalancer import RebalanceLoop, Rebalancer
from raftflow.coordinator.sessions.awaited_ends import AwaitedEnds
from raftflow.coordinator.sessions.poll_service import PollService
from raftflow.coordinator.sessions.registration import Registration
from raftflow.coordinator.sessions.stored_logs import StoredLogs
from raftflow.coordinator.snapshots import SnapshotDownloads
from raftflow.coordinator.uploads.workflow_uploads import WorkflowUploads
from raftflow.domain.contract.views import (
    PeerView,
    ReplicaStatus,
    TaskExplanation,
)
from raftflow.domain.events import AgentChanged
from raftflow.domain.features import LEVEL, LEVEL_FIRST
from raftflow.logstore.stores import open_store
from raftflow.machine.machine import EntryResult, Machine
from raftflow.machine.read import queries
from raftflow.machine.rules.step_limits import STEP_LIMITS, StepLimits
from raftflow.replication.errors import LogFailedError, NoQuorumError
from raftflow.replication.log import Role

if TYPE_CHECKING:
    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.domain.commands import AnyCommand, ControlWorkflow, RaiseBudget, SetPriority
    from raftflow.domain.contract.views import AuditCheck
    from raftflow.domain.replies import AnyReply
    from raftflow.replication.files import FileSystem
    from raftflow.replication.log import LogStatus, ReplicatedLog, StateMachine

_log = logging.getLogger(__name__)

TRANSFER_S = 2.0
"""How long a planned stop tries to hand leadership over."""

LogFactory = Callable[["StateMachine", AuditFile], "ReplicatedLog"]
"""Makes the log for a state machine; the log must sync the audit before it compacts."""


class Replica:
    """Everything of one replica below its HTTP server. `start` it, `stop` it, watch `wait_failed`."""

    def __init__(
        self,
        config: CoordinatorConfig,
        make_log: LogFactory,
        fs: FileSystem,
        *,
        clock: MachineClock | None = None,
        ids: IdSource | None = None,
        level: int = LEVEL,
        step_limits: StepLimits = STEP_LIMITS,
        peer_levels: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """Put the parts together.

        `level` is the highest feature level that this replica understands, `peer_levels` returns the same of the
        replicas that are connected. All replicas of a cluster have the same `step_limits`.
        """
        self.config = config
        self.secrets = config.secrets
        """That are accepted of other replicas now; the first is used."""
        wall = clock or SystemClock()
        self.ids = ids or IdSource(wall)
        self.machine = Machine(level_max=level, limits=step_limits)
        self._peer_levels = peer_levels
        self.clock = ClusterClock(wall, lambda: self.machine.clock_ms, lambda: self.leader.leading)
        self.audit = AuditFile(fs, config.data_dir / "audit", self._fail, bytes_max=config.limits.audit_bytes)
        self.commits = CommitTimes()
        self.events = EventHistory()
        self._hosted = HostedMachine(self.machine, self.audit, self._tell_listeners, self.events)
        self.log = make_log(self._hosted, self.audit)
        timing = config.timing
        self.cluster = ClusterView(config, self.log, lambda: self.leader.leading)
        self.submitter = Submitter(
            self.log,
            self.cluster.find_leader,
            waiting_max=config.limits.submissions_in_flight,
            timeout_s=timing.submit_timeout_ms / 1000,
            on_commit=self.commits.add,
            feature_level=self.feature_level,
        )
        self.pending_jobs = PendingJobs(
            self.machine,
            timeout_s=timing.submit_timeout_ms / 1000,
            not_leading=self.submitter.no_leader_error,
        )
        self.stored_logs = StoredLogs(open_store(config.log_store)) if config.log_store else None
        self.awaited = AwaitedEnds()
        self.agent_stats = AgentStats()
        self.rate_waiters = RateWaiters(self.machine)
        self.planner = QueuePlanner(self.machine, self.clock.now_ms, self.agent_stats, self.rate_waiters)
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
        self.attempt_calls = AttemptCalls(
            machine=self.machine,
            submitter=self.submitter,
            clock=self.clock,
            barrier=self.read_barrier,
            rate_waiters=self.rate_waiters,
        )
        self.rebalance_loop = RebalanceLoop(
            rebalancer=Rebalancer(
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
            replan=self.leader.replan,
            on_bug=self._fail,
        )
        self.uploads = WorkflowUploads(
            name=config.name,
            machine=self.machine,
            submitter=self.submitter,
            now_ms=self.clock.now_ms,
            on_bug=self._fail,
        )
        self.bundles = BundleReplication(
            name=config.name,
            machine=self.machine,
            store=BundleStore(fs, config.data_dir),
            fs=fs,
            submitter=self.submitter,
            cluster=self.cluster,
            clock=self.clock,
        )
        self.membership = MembershipAdmin(
            name=config.name,
            log=self.log,
            submitter=self.submitter,
            leader=self.leader,
            cluster=self.cluster,
            bundles=self.bundles,
            transfer=self.transfer,
        )
        self.snapshots = SnapshotDownloads(config, self.log, fs, wall.now_ms)
        self.registration = Registration(
            machine=self.machine, submitter=self.submitter, leader=self.leader, pending_jobs=self.pending_jobs
        )
        self.log.on_role_change(self._role_changed)
        self.news = LeaderNews(self.cluster.leader_notice, config.limits.held_polls)
        self.log.on_leader_change(self.news.changed)
        self._started_s = 0.0
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
            self.bundles.start()
        except (LogFailedError, AuditError, OSError) as error:
            await self.log.close()
            await self.audit.close()
            raise start_failure_for(error) from error
        self._watcher = asyncio.get_running_loop().create_task(self._watch_log())

    async def hand_over(self) -> bool:
        """Give leadership to another replica if this one leads. True if another one leads now, or did before."""
        if not self.leader.leading:
            return True
        if len(self.cluster.voting_members()) == 1:
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
        self.rebalance_loop.stop()
        self.uploads.stop()
        self.submitter.refuse()
        self.snapshots.close()
        await self.bundles.stop()
        await self.log.close()
        await self.submitter.close()
        await self.audit.close()

    def answer_held(self) -> None:
        """Answer everything that is held (polls, reads), and hold nothing from now on, before a planned stop."""
        self.poll_service.close()
        self.awaited.close()
        self.pending_jobs.wake_all()
        self.news.close()
        self.events.close()

    async def wait_failed(self) -> ReplicaFailedError:
        """Wait until the replica cannot continue, and return why; `ReplicaRemovedError` after its removal."""
        await self._failed.wait()
        return failure_for(self._failure)

    def shut_out(self, explanation: str) -> None:
        """Stop, since the other replicas refuse this one as it is configured."""
        self._fail(ReplicaFailedError(explanation))

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()
            self.leader.stop()
            self.rebalance_loop.stop()
            self.uploads.stop()

    async def _watch_log(self) -> None:
        self._fail(await self.log.wait_failed())

    def _role_changed(self, role: Role, term: int) -> None:
        self.leader.on_role_change(role, term)
        if self.leader.leading:
            self.uploads.start()
            self.rebalance_loop.start()
        else:
            self.uploads.stop()
            self.rebalance_loop.stop()
            self.poll_service.step_down()
            self.awaited.wake_all()
            self.pending_jobs.wake_all()

    def _tell_listeners(self, result: EntryResult) -> None:
        """Tell everybody who follows the state of an applied entry. The order is fixed here, and it matters.

        The machine and the audit have the entry already (`HostedMachine.apply`). Then:

        1. The clock follows the entry's time, since all that comes after stamps commands with it.
        2. Requests that wait for the end of a workflow, or until nothing of it is on the agenda, are woken. They do
           nothing before the next turn of the loop.
        3. The leader drops uploads that nobody continues.
        4. The leader loop, and in it the planner first: when a poll is answered, placements that the entry made
           possible are already on their way.
        5. The rebalancer, which looks at agents after the planner knows them.
        6. Polls. They are answered in a later turn of the loop and read the state of that moment.

        A listener proposes commands or wakes somebody. None changes the state, so none can spoil it for the next.
        """
        self.clock.follow()
        self.bundles.on_applied()
        events = result.events
        if self.awaited.count:
            self.awaited.on_applied(events)
        if self.pending_jobs.count:
            self.pending_jobs.on_applied()
        if not self.leader.leading:
            return
        if self.machine.tables.uploads:
            self.uploads.drop_abandoned()
        if events:
            self.leader.on_applied(events)
            self.rebalance_loop.on_applied(events)
            for event in events:
                if isinstance(event, AgentChanged):
                    self.poll_service.wake(event.name)

    def _member_levels(self) -> dict[str, int] | None:
        """Return the highest feature level of every member, None unless all are connected.

        In a new cluster it is the level of the founders.
        """
        if not self.feature_level():
            return self._founding_levels()
        told = self._peer_levels()
        peers = [peer.name for peer in self.log.status().peers]
        if any(peer not in told for peer in peers):
            return None
        return {self.config.name: self.machine.level_max, **{peer: told[peer] for peer in peers}}

    def _founding_levels(self) -> dict[str, int]:
        """Return the feature level of each founder, as far as this program understands it."""
        return {name: min(level, self.machine.level_max) for name, level in self.log.founding_levels.items()}

    def _now_ms(self) -> int:
        return max(self.clock.now_ms(), self.machine.clock_ms)

    # --- what the API asks

    def feature_level(self) -> int:
        """Return the cluster's feature level, 0 until a new cluster is on the level of its founders."""
        level = self.machine.tables.feature_level
        if level > LEVEL_FIRST or min(self._founding_levels().values(), default=LEVEL_FIRST) <= LEVEL_FIRST:
            return level
        return 0

    def explain(self, workflow_id: str, task_id: str) -> TaskExplanation | None:
        """Explain where a task is and why, None if it is unknown. The leader knows most."""
        if not self.leader.leading:
            return queries.explain(self.machine, workflow_id, task_id)
        unfit = self.leader.liveness.status.unfit
        return explanation.explain(
            self.machine,
            self.planner,
            workflow_id,
            task_id,
            now_ms=self.clock.now_ms(),
            usage=self.poll_service.usage,
            missing_code=lambda digest: not self.bundles.store.has(digest),
            unfit=unfit,
        )

    async def propose(self, command: AnyCommand | EncodedCommand, client: str = "") -> AnyReply:
        """Propose a command of a client; `client` is its address. Raises `ProposeError`s."""
        if not self.leader.leading:
            raise self.submitter.no_leader_error()
        return await self.submitter.propose(command, bounded=True, client=client)

    async def control(self, command: ControlWorkflow | SetPriority | RaiseBudget, client: str = "") -> AnyReply:
        """Propose a command that controls a workflow, and wait until all of it is done. Raises `ProposeError`s.

        It waits for an earlier command that is still being carried out.
        """
        subject = of_workflow(command.workflow_id)
        reply = await self.pending_jobs.propose_until_taken(subject, lambda: self.propose(command, client))
        await self.pending_jobs.wait(subject)
        return reply

    async def settle(self, workflow_id: str) -> None:
        """Wait until nothing of a workflow is on the agenda: a read sees all of a command or nothing of it.

        Raises `ProposeError`s.
        """
        await self.pending_jobs.wait(of_workflow(workflow_id))

    async def read_barrier(self) -> int:
        """Make reads of the state machine linearizable from here on. Raises `NotLeaderError` or `NoLeaderError`."""
        try:
            return await self.log.read_index(self.config.timing.read_timeout_ms / 1000)
        except NoQuorumError as error:
            leader = self.cluster.find_leader()
            if leader is not None:
                raise NotLeaderError(*leader) from error
            raise NoLeaderError(f"no majority of the replicas confirmed the read ({error.reason})") from error

    async def verify_audit(self) -> AuditCheck:
        """Check this replica's audit file against its own chain and the state machine's."""
        return await verify_audit(self.audit, self.config.name, self.machine)

    def status(self) -> ReplicaStatus:
        """Return this replica's own view of the cluster."""
        log: LogStatus = self.log.status()
        return ReplicaStatus(
            name=self.config.name,
            cluster=self.config.cluster_id,
            role=log.role.value,
            leader=log.leader,
            leader_url=self.cluster.url_of(log.leader),
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
