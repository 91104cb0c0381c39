# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""The planted faults themselves: each is a context manager that patches the code under test, and takes it back."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec

from raftflow.agent.clock import Lease
from raftflow.agent.exchange.leader_watch import LeaderWatch
from raftflow.agent.workdir import inputs as agent_inputs
from raftflow.agent.workdir.inputs import Fetcher
from raftflow.coordinator.clock import ClusterClock
from raftflow.coordinator.leader.leader_loop import LeaderLoop
from raftflow.coordinator.leader.leases import Leases
from raftflow.coordinator.placement import rebalancer
from raftflow.domain.commands import OfferEnds, ReportAttempts, ReportEnds
from raftflow.domain.features import LEVEL
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import EndVerdict, Reported
from raftflow.domain.tasks.feasibility import fits_in
from raftflow.domain.tasks.states import AttemptOutcome, TaskState
from raftflow.machine import apply as machine_apply
from raftflow.machine.commands import agents as machine_agents
from raftflow.machine.commands import attempts
from raftflow.machine.machine import Machine
from raftflow.machine.read.inputs import inputs_slice
from raftflow.machine.rules import backups, ledger, quarantine, stopping
from raftflow.machine.rules.audit_chain import CHAIN_START
from raftflow.machine.tables.requests import RequestTable
from raftflow.machine.tables.timers import Timers
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.log import Rejected, Unknown
from raftflow.replication.members.births import Births
from raftflow.replication.members.introducer import Introducer
from raftflow.replication.members.introductions import Introduction, IntroductionReply
from raftflow.replication.members.starts import Starts
from raftflow.replication.messages import envelope
from raftflow.replication.raft.guard import GuardedTransport
from raftflow.replication.raft.reads import ReadRounds
from raftflow.replication.raft.snapshot_port import SnapshotPort
from raftflow.replication.snapshot.compaction import SnapshotWriter
from raftflow.replication.storage import snapshot_file
from raftflow.replication.storage.journal import Journal
from raftflow.replication.storage.writer import SegmentWriter
from raftflow.simulation.world import agents as simulated_agents

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from raftflow.agent.exchange.exchange import Exchange
    from raftflow.agent.exchange.leader import RefusedError
    from raftflow.domain.commands import AttemptEnd
    from raftflow.domain.contract.views import PollRequest
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.state import Agent

Patch = contextlib.AbstractContextManager[object]


def attribute(owner: Any, name: str, value: Any) -> Callable[[], Patch]:
    return lambda: patch.object(owner, name, value)


@contextlib.contextmanager
def _both(one: Patch, other: Patch) -> Iterator[None]:
    with one, other:
        yield


# --- silence


def watch_nobody() -> Patch:
    async def wait_for_ever(_self: LeaderWatch) -> None:
        """Ask no other replica who leads."""
        await asyncio.Event().wait()

    return patch.object(LeaderWatch, "run", wait_for_ever)


def count_mass_losses() -> Patch:
    note_loss = quarantine.note_loss

    def count(step: ApplyContext, agent: Agent, *, mass: bool = False) -> None:
        del mass
        note_loss(step, agent)

    return patch.object(machine_agents, "note_loss", count)


def keep_quarantines() -> Patch:
    take_over = quarantine.take_over

    def as_if_others_were_up(step: ApplyContext, agent: Agent, before: Agent) -> None:
        kinds = step.state.kinds
        step.state.kinds = kinds or {agent.kind(): 1}
        take_over(step, agent, before)
        step.state.kinds = kinds

    return patch.multiple(machine_agents, end_all_if_nobody_is_up=lambda _step: None, take_over=as_if_others_were_up)


# --- disk


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
        patch.object(Starts, "put_back", lambda *_, **__: ""),
        patch.object(Starts, "is_older", lambda *_: False),
    ):
        yield


@contextlib.contextmanager
def believe_the_emptied() -> Iterator[None]:
    """Take a replica in whatever disk it comes with."""

    def meet(self: Introducer, peer: str, told: Introduction) -> IntroductionReply:
        self.learn({peer: told.disk})
        return IntroductionReply(accepted=True)

    with patch.object(Introducer, "meet", meet), patch.object(Births, "_heed", lambda _self: None):
        yield


def swallow_failed_load() -> Patch:
    def deserialize(self: SnapshotPort) -> Any:
        """Load, and forget that it failed, as the library does by itself."""
        self.failure = None
        last, previous = self._load()
        return None, last, previous, ()

    return patch.object(SnapshotPort, "deserialize", deserialize)


# --- the machine


def no_requests(_self: RequestTable) -> Iterator[Any]:
    return iter(())


def accept_stale() -> Patch:
    judge = attempts._report_end  # noqa: SLF001

    def lenient(step: ApplyContext, agent: Agent, end: AttemptEnd) -> EndVerdict:
        """Take any end of a task for the end of its present attempt."""
        workflow = step.state.workflows.get(end.workflow_id)
        task = None if workflow is None else workflow.by_id.get(end.task_id)
        if task is None or task.last is None or task.last.outcome is not None:
            return judge(step, agent, end)
        holder = step.state.agents[task.last.agent]
        if end.outcome is AttemptOutcome.RELEASED:
            return judge(step, agent, end)
        assert workflow is not None  # noqa: S101 - the task is its
        present = msgspec.structs.replace(end, fence=task.last.fence)
        attempts.end_attempt(step, holder, workflow, task, present)
        return EndVerdict(end.fence, "accepted")

    return patch.object(attempts, "_report_end", lenient)


def forget_failures() -> Patch:
    """One of two attempts that ends without success costs nothing, whatever its end."""

    def forgiving(  # noqa: PLR0917 - as the original
        step: ApplyContext,
        workflow: Any,
        task: Any,
        attempt: Any,
        _end: Any,
        outcome: AttemptOutcome,
        error: str,
        _blamed: Any,
    ) -> str:
        backups.drop(step, workflow, task, attempt, outcome)
        return error

    return patch.object(attempts, "_end_beside_another", forgiving)


def back_up_anything() -> Patch:
    """Leader and replicas take every task for one that allows backup attempts."""

    def whatever(self: rebalancer._RunningAttempt) -> bool:
        return backups.wants_backup(self.task) and not self.workflow.paused and not stopping.at_limit(self.workflow)

    return _both(
        patch.object(rebalancer._RunningAttempt, "may_be_backed_up", property(whatever)),  # noqa: SLF001
        patch.object(backups, "FAULTS_LEVEL", LEVEL + 1),
    )


def back_up_again() -> Patch:
    """An attempt gets a backup whenever it is the only one, and so does a backup."""
    wants = backups.wants_backup

    def again(task: Any) -> bool:
        mishaps, task.mishaps = task.mishaps, None
        try:
            return wants(task) and task.backup is None
        finally:
            task.mishaps = mishaps

    return _both(patch.object(backups, "wants_backup", again), patch.object(rebalancer, "wants_backup", again))


def uncounted_backups() -> Patch:
    """The limit of a workflow knows nothing of backup attempts."""

    def tasks_alone(workflow: Any) -> int:
        return int(workflow.counts[TaskState.QUEUED] + workflow.counts[TaskState.RUNNING])

    def room_left(workflow: Any) -> bool:
        return workflow.max_parallel is not None and tasks_alone(workflow) > workflow.max_parallel

    return _both(patch.object(backups, "at_limit", room_left), patch.object(rebalancer, "at_limit", room_left))


def count_duplicates() -> Patch:
    judge = attempts._report_end  # noqa: SLF001

    def forgetful(step: ApplyContext, agent: Agent, end: AttemptEnd) -> EndVerdict:
        verdict = judge(step, agent, end)
        return EndVerdict(end.fence, "accepted") if verdict.verdict == "duplicate" else verdict

    return patch.object(attempts, "_report_end", forgetful)


def release_twice() -> Patch:
    release = ledger.release

    def twice(agent: Agent, shape: Any) -> None:
        release(agent, shape)
        release(agent, shape)

    return patch.object(ledger, "release", twice)


def promote_any() -> Patch:
    promote = ledger.promote

    def smallest_first(step: ApplyContext, agent: Agent) -> None:
        """Let something that fits overtake a head that does not."""
        promote(step, agent)
        queue = agent.queue
        for fence in list(queue):
            workflow, task = agent.live[fence]
            if fits_in(workflow.profiles[task.profile].shape, agent.free):
                queue.remove(fence)
                queue.appendleft(fence)
                promote(step, agent)
                return

    return patch.object(ledger, "promote", smallest_first)


def restore_without(change: Callable[[Machine], None]) -> Callable[[], Patch]:
    def plant() -> Patch:
        prepare = Machine.prepare

        def lossy(self: Machine, pieces: Any) -> Callable[[], None]:
            become = prepare(self, pieces)

            def become_less() -> None:
                become()
                change(self)

            return become_less

        return patch.object(Machine, "prepare", lossy)

    return plant


def forget_chain(machine: Machine) -> None:
    machine.chain = CHAIN_START


def forget_fence(machine: Machine) -> None:
    machine.state.fence = 0


def forget_uploads(machine: Machine) -> None:
    machine.state.uploads.clear()
    machine.state.upload_tasks = 0


def forget_timers(machine: Machine) -> None:
    machine.state.timers = Timers()


def apply_again(step: ApplyContext, command: Any, handler: Any) -> Any:
    """Carry a command out whether or not its request id was seen."""
    reply = handler(step, command)
    return reply, reply.code.value if type(reply) is Rejection else "ok"


def roll_dice() -> Patch:
    end = attempts.end_attempt

    def erratic(step: ApplyContext, agent: Agent, workflow: Any, task: Any, *args: Any, **named: Any) -> None:
        end(step, agent, workflow, task, *args, **named)
        if task.due_ms:
            task.due_ms += random.randrange(2)  # noqa: S311 - the fault itself

    return patch.object(attempts, "end_attempt", erratic)


def any_incarnation() -> Patch:
    report = attempts.report_attempts

    def trusting(step: ApplyContext, command: Any) -> Any:
        agent = step.state.agents.get(command.agent)
        if agent is not None:
            command = msgspec.structs.replace(command, incarnation=agent.incarnation)
        return report(step, command)

    handlers = machine_apply.HANDLERS
    changed = {kind: (handlers[kind][0], trusting, handlers[kind][2]) for kind in (ReportAttempts, ReportEnds)}
    return patch.dict(handlers, changed)


# --- the leader


class WallLeases(Leases):
    """Leases on the wall clock."""

    def __init__(self, lease_ms: int, clock: Any) -> None:
        super().__init__(lease_ms)
        self._clock = clock

    def contact(self, name: str, now_s: float) -> None:
        """Note the time of day."""
        del now_s
        super().contact(name, self._clock.now_ms() / 1000)

    def expired(self, now_s: float) -> list[str]:
        """Compare with the time of day."""
        del now_s
        return super().expired(self._clock.now_ms() / 1000)

    def next_expiry_s(self) -> float | None:
        """Look often."""
        return 0.0 if self._heard_s else None


def leases_on_wall_clock() -> Patch:
    init = LeaderLoop.__init__

    def with_wall_clock(self: LeaderLoop, **named: Any) -> None:
        init(self, **named)
        self.leases = WallLeases(named["lease_ms"], named["clock"])

    return patch.object(LeaderLoop, "__init__", with_wall_clock)


def wall_time(self: ClusterClock) -> int:
    """Tell the time of day, or the state machine's if that is later."""
    return max(self._clock.now_ms(), self._seen_ms())


def accept_superseded() -> Patch:
    judge = attempts._offer_end  # noqa: SLF001

    def generous(step: ApplyContext, command: Any) -> Reported:
        """Take any success for that of the task's last attempt, whoever had it."""
        verdicts = []
        for end in command.ends:
            workflow = step.state.workflows.get(end.workflow_id)
            task = None if workflow is None else workflow.by_id.get(end.task_id)
            if task is None or workflow is None or task.last is None or task.state not in attempts._OFFERABLE:  # noqa: SLF001
                verdicts.append(judge(step, step.state.agents[command.agent], end))
                continue
            task.last.outcome = AttemptOutcome.LOST
            present = msgspec.structs.replace(end, fence=task.last.fence)
            verdicts.append(judge(step, step.state.agents[task.last.agent], present))
        return Reported(tuple(verdicts))

    handlers = machine_apply.HANDLERS
    name, _handler, subject = handlers[OfferEnds]
    return patch.dict(handlers, {OfferEnds: (name, generous, subject)})


def answer_though_behind() -> Patch:
    def careless(machine: Machine, agent: str, fence: int, first: int) -> Any:
        """Answer for the newest attempt of the agent that is known here, if this one is not."""
        known = machine.state.agents.get(agent)
        if fence > machine.state.fence and known is not None and known.live:
            fence = next(reversed(known.live))
        return inputs_slice(machine, agent, fence, first)

    return patch.object(simulated_agents, "inputs_slice", careless)


def take_first_piece_for_all() -> Patch:
    async def hasty(_self: Fetcher, fence: int, _count: int, inputs: Any) -> None:
        passes = agent_inputs._Passes(_self._source, fence, _self._patience_s, {})  # noqa: SLF001
        await inputs.add((await passes.piece(_self._agent, 0)).inputs)  # noqa: SLF001

    return patch.object(Fetcher, "_fetch", hasty)


def impatient_leases() -> Patch:
    init = Leases.__init__

    def short(self: Leases, lease_ms: int, poll_wait_ms: int = 0) -> None:
        init(self, lease_ms // 3, poll_wait_ms)

    return patch.object(Leases, "__init__", short)


def stale_leases() -> Patch:
    start = LeaderLoop._start  # noqa: SLF001

    def without_grace(self: LeaderLoop) -> None:
        start(self)
        for name in self.leases._heard_s:  # noqa: SLF001
            self.leases._heard_s[name] -= 3600.0  # noqa: SLF001
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        self._arm_leases()

    return patch.object(LeaderLoop, "_start", without_grace)


def read_alone(self: ReadRounds, future: asyncio.Future[None]) -> None:
    """Confirm a leadership without asking anybody."""
    del self
    future.set_result(None)


@contextlib.contextmanager
def agents_without_lease() -> Iterator[None]:
    with (
        patch.object(Lease, "over", lambda _self: False),
        patch.object(simulated_agents.SimExecutor, "lease", lambda _self, _until_ns: None),
    ):
        yield


# --- reports


def refused_again(self: Exchange, error: RefusedError, _request: PollRequest) -> None:
    """Send the same poll again, whatever it was refused for."""
    self._failed(f"the coordinator refuses the poll: {error}")
