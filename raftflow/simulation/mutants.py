"""Planted faults: the simulation must find every one of them, or it proves little.

Each mutant is a small patch of the code under test, or a rule that is switched off, for the time of a run. None of
this is reachable from anywhere but `raftflow simulate mutants` and the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import random
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import msgspec

from raftflow.agent.clock import Lease
from raftflow.coordinator.leader import LeaderLoop
from raftflow.coordinator.leases import Leases
from raftflow.domain.commands import ReportAttempts, ReportEnds
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import EndVerdict
from raftflow.domain.rooms import fits_in
from raftflow.domain.task import AttemptOutcome
from raftflow.machine import apply as machine_apply
from raftflow.machine import attempts, ledger
from raftflow.machine.audit import CHAIN_START
from raftflow.machine.machine import Machine
from raftflow.machine.requests import RequestTable
from raftflow.machine.timers import Timers
from raftflow.replication import envelope, snapshots
from raftflow.replication.compaction import SnapshotWriter
from raftflow.replication.core import SnapshotPort
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.guard import NO_RULES, GuardedTransport, Rule
from raftflow.replication.journal import Journal
from raftflow.replication.log import Rejected, Unknown
from raftflow.replication.reads import ReadRounds
from raftflow.replication.writer import SegmentWriter
from raftflow.simulation import agents as simulated_agents
from raftflow.simulation.run import FAMILIES, MEMBER_RULES, Options, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raftflow.domain.commands import AttemptEnd
    from raftflow.machine.state import Agent
    from raftflow.machine.step import Step

SEEDS_MAX: Final = 40
"""Seeds within which a mutant must be found, unless it says otherwise."""
Patch = contextlib.AbstractContextManager[object]


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A planted fault."""

    name: str
    about: str
    plant: Any = contextlib.nullcontext
    """Called before a run; a context manager that puts the fault in and takes it out."""
    rule: Rule | None = None
    """A rule that is switched off."""
    family: str | None = None
    """Only seeds of this family of scenarios are run; all of them are part of the normal seeds."""
    seeds_max: int = SEEDS_MAX


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and how a mutant was found."""

    mutant: str
    found: bool
    seed: int | None
    kind: str
    detail: str
    tried: int
    """Seeds that were run."""
    seeds_max: int


def _attribute(owner: Any, name: str, value: Any) -> Callable[[], Patch]:
    return lambda: patch.object(owner, name, value)


# --- disk


async def _sync_nothing(self: SegmentWriter) -> None:
    """Claim to have synced."""
    self._durable_offset = self._offset


def _forget_votes() -> Patch:
    write = Journal._write  # noqa: SLF001

    def without_vote(self: Journal) -> None:
        vote, self._vote = self._vote, None
        write(self)
        self._vote = vote

    return patch.object(Journal, "_write", without_vote)


def _finish_unsynced(self: Any) -> None:
    """Write the trailer and do not sync."""
    body = snapshots._TRAILER_BODY.pack(0, self._blocks, self._bytes, self._digest.digest())  # noqa: SLF001
    self._append(body + snapshots._U32.pack(snapshots._crc(body, self._offset)))  # noqa: SLF001


def _trim_early() -> Patch:
    write = SnapshotWriter._write  # noqa: SLF001

    async def trimmed_first(self: SnapshotWriter, info: Any, pieces: Any, driver: Any) -> None:
        self._port.finish_write(durable=True)
        driver.request_turn()
        await write(self, info, pieces, driver)

    return patch.object(SnapshotWriter, "_write", trimmed_first)


def _ignore_failed_sync() -> Patch:
    sync = SegmentWriter.sync

    async def hopeful(self: SegmentWriter) -> None:
        with contextlib.suppress(OSError):
            await sync(self)

    return patch.object(SegmentWriter, "sync", hopeful)


def _submit_anywhere() -> Patch:
    submit = PySyncObjLog.submit

    async def careless(self: PySyncObjLog, entry: bytes, timeout_s: float) -> Any:
        """Give the library a command though this replica follows: it forwards it to the leader."""
        if self._raft.is_leader or self._stopped:
            return await submit(self, entry, timeout_s)
        submission = self._submissions.admit(len(entry), self._position)
        if submission is None:
            return Rejected("queue_full")
        self._raft.submit(envelope.seal(entry), submission.on_result)
        self._driver.request_turn()
        asyncio.get_running_loop().call_later(timeout_s, submission.resolve, Unknown("timeout"))
        return await submission.future

    return patch.object(PySyncObjLog, "submit", careless)


def _vote_always() -> Patch:
    return patch.object(
        GuardedTransport, "votes", property(lambda _self: True, lambda _self, _votes: None), create=True
    )


def _swallow_failed_load() -> Patch:
    def deserialize(self: SnapshotPort) -> Any:
        """Load, and forget that it failed, as the library does by itself."""
        self.failure = None
        last, previous = self._load()
        return None, last, previous, ()

    return patch.object(SnapshotPort, "deserialize", deserialize)


# --- the machine


def _no_requests(_self: RequestTable) -> Iterator[Any]:
    return iter(())


def _accept_stale() -> Patch:
    judge = attempts._report_end  # noqa: SLF001

    def lenient(step: Step, agent: Agent, end: AttemptEnd) -> EndVerdict:
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


def _count_duplicates() -> Patch:
    judge = attempts._report_end  # noqa: SLF001

    def forgetful(step: Step, agent: Agent, end: AttemptEnd) -> EndVerdict:
        verdict = judge(step, agent, end)
        return EndVerdict(end.fence, "accepted") if verdict.verdict == "duplicate" else verdict

    return patch.object(attempts, "_report_end", forgetful)


def _release_twice() -> Patch:
    release = ledger.release

    def twice(agent: Agent, shape: Any) -> None:
        release(agent, shape)
        release(agent, shape)

    return patch.object(ledger, "release", twice)


def _promote_any() -> Patch:
    promote = ledger.promote

    def smallest_first(step: Step, agent: Agent) -> None:
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


def _restore_without(change: Callable[[Machine], None]) -> Callable[[], Patch]:
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


def _forget_chain(machine: Machine) -> None:
    machine.chain = CHAIN_START


def _forget_fence(machine: Machine) -> None:
    machine.state.fence = 0


def _forget_timers(machine: Machine) -> None:
    machine.state.timers = Timers()


def _apply_again(step: Step, command: Any, handler: Any) -> Any:
    """Carry a command out whether or not its request id was seen."""
    reply = handler(step, command)
    return reply, reply.code.value if type(reply) is Rejection else "ok"


def _roll_dice() -> Patch:
    end = attempts.end_attempt

    def erratic(step: Step, agent: Agent, workflow: Any, task: Any, *args: Any, **named: Any) -> None:
        end(step, agent, workflow, task, *args, **named)
        if task.due_ms:
            task.due_ms += random.randrange(2)  # noqa: S311 - the fault itself

    return patch.object(attempts, "end_attempt", erratic)


def _any_incarnation() -> Patch:
    report = attempts.report_attempts

    def trusting(step: Step, command: Any) -> Any:
        agent = step.state.agents.get(command.agent)
        if agent is not None:
            command = msgspec.structs.replace(command, incarnation=agent.incarnation)
        return report(step, command)

    handlers = machine_apply.HANDLERS
    changed = {kind: (handlers[kind][0], trusting, handlers[kind][2]) for kind in (ReportAttempts, ReportEnds)}
    return patch.dict(handlers, changed)


# --- the leader


class _WallLeases(Leases):
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


def _leases_on_wall_clock() -> Patch:
    init = LeaderLoop.__init__

    def with_wall_clock(self: LeaderLoop, **named: Any) -> None:
        init(self, **named)
        self.leases = _WallLeases(named["lease_ms"], named["clock"])

    return patch.object(LeaderLoop, "__init__", with_wall_clock)


def _impatient_leases() -> Patch:
    init = Leases.__init__

    def short(self: Leases, lease_ms: int, poll_wait_ms: int = 0) -> None:
        init(self, lease_ms // 3, poll_wait_ms)

    return patch.object(Leases, "__init__", short)


def _stale_leases() -> Patch:
    start = LeaderLoop._start  # noqa: SLF001

    def without_grace(self: LeaderLoop) -> None:
        start(self)
        for name in self.leases._heard_s:  # noqa: SLF001
            self.leases._heard_s[name] -= 3600.0  # noqa: SLF001
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        self._arm_leases()

    return patch.object(LeaderLoop, "_start", without_grace)


def _read_alone(self: ReadRounds, future: asyncio.Future[None]) -> None:
    """Confirm a leadership without asking anybody."""
    del self
    future.set_result(None)


@contextlib.contextmanager
def _agents_without_lease() -> Iterator[None]:
    with (
        patch.object(Lease, "over", lambda _self: False),
        patch.object(simulated_agents.Machine, "lease", lambda _self, _until_ns: None),
    ):
        yield


_RULES: Final[dict[Rule, str]] = {
    Rule.TERM_STAMP: "acknowledgements of another term count",
    Rule.NO_TRUNCATION: "an append that comes again cuts off what stands behind it",
    Rule.RESUME_HINT: "the hint where to resume may oscillate",
    Rule.COMMIT_VERIFIED: "a heartbeat commits entries that were never compared",
    Rule.LOAD_CHECKED: "a snapshot that failed to load is acknowledged",
    Rule.NO_FORWARDING: "commands are forwarded between replicas",
    Rule.SNAPSHOT_NEEDED: "a snapshot that the log covers is loaded",
    Rule.SYNC_ACKS: "a follower acknowledges before its disk has the entries",
    Rule.SYNC_VOTES: "a vote leaves before the disk has it",
    Rule.SYNC_LEADER: "the leader counts itself before its disk has the entries",
    Rule.ONE_CHANGE: "a change of the members begins before the one before is settled",
    Rule.LOGGED_MEMBERS: "a logged change counts only when it is applied",
    Rule.SNAPSHOT_MEMBERS: "a snapshot holds the list of the moment, changes that are not committed included",
    Rule.MEMBERS_COUNT: "removed replicas are heard, and not told",
    Rule.OUTSIDERS_PASSIVE: "who is no voter by its own log stands for election",
    Rule.LEARN_FIRST: "a newcomer counts at once, whether or not it runs",
}

_RULE_FAMILIES: Final = {
    Rule.TERM_STAMP: "log",
    Rule.RESUME_HINT: "log",
    Rule.NO_FORWARDING: "reads",
    Rule.COMMIT_VERIFIED: "snapshots",
    Rule.LOAD_CHECKED: "snapshots",
    Rule.SNAPSHOT_NEEDED: "snapshots",
    Rule.SYNC_VOTES: "votes",
    **dict.fromkeys(MEMBER_RULES, "members"),
}

_RULE_PLANTS: Final = {
    # The engine looks for itself as well; with the rule off alone nothing would happen.
    Rule.LOAD_CHECKED: _swallow_failed_load,
    Rule.NO_FORWARDING: _submit_anywhere,
}

MUTANTS: Final[tuple[Mutant, ...]] = (
    *(
        Mutant(
            name=f"{rule.value} off",
            about=about,
            rule=rule,
            family=_RULE_FAMILIES.get(rule),
            plant=_RULE_PLANTS.get(rule, contextlib.nullcontext),
        )
        for rule, about in _RULES.items()
    ),
    Mutant(
        name="no sync", about="the journal is never synced", plant=_attribute(SegmentWriter, "sync", _sync_nothing)
    ),
    Mutant(name="votes not durable", about="the vote is not written", plant=_forget_votes, family="votes"),
    Mutant(
        name="failed sync ignored",
        about="a sync that fails counts as done",
        plant=_ignore_failed_sync,
        family="snapshots",
    ),
    Mutant(
        name="snapshot not synced",
        about="a snapshot gets its name before its bytes are on disk",
        plant=_attribute(snapshots._Writer, "finish", _finish_unsynced),  # noqa: SLF001
    ),
    Mutant(
        name="votes during repair",
        about="a replica that takes its log from the others again votes meanwhile",
        plant=_vote_always,
        family="repairs",
    ),
    Mutant(name="log trimmed early", about="the log is trimmed before the snapshot is durable", plant=_trim_early),
    Mutant(
        name="log not aligned",
        about="the log is not cut to the snapshot at the start, so the library clears it",
        plant=_attribute(Journal, "align", lambda _self, _previous, _last: None),
        family="snapshots",
    ),
    Mutant(
        name="requests not in snapshot",
        about="remembered replies are left out of snapshots",
        plant=_attribute(RequestTable, "__iter__", _no_requests),
    ),
    Mutant(name="chain not in snapshot", about="the audit chain begins anew", plant=_restore_without(_forget_chain)),
    Mutant(name="fence not in snapshot", about="fences begin anew", plant=_restore_without(_forget_fence)),
    Mutant(name="timers not in snapshot", about="timers are lost", plant=_restore_without(_forget_timers)),
    Mutant(
        name="request ids ignored",
        about="a retried write is carried out again",
        plant=_attribute(machine_apply, "_apply_once", _apply_again),
    ),
    Mutant(name="stale end accepted", about="the end of an old attempt ends the present one", plant=_accept_stale),
    Mutant(
        name="old incarnation accepted", about="reports of lost agents count", plant=_any_incarnation, family="leases"
    ),
    Mutant(name="duplicate end counted", about="a repeated end is accepted again", plant=_count_duplicates),
    Mutant(name="double release", about="the ledger gives a demand back twice", plant=_release_twice),
    Mutant(name="queue overtaken", about="a small attempt overtakes the head of the queue", plant=_promote_any),
    Mutant(name="dice in apply", about="applying depends on more than the entry", plant=_roll_dice),
    Mutant(
        name="leases on wall clock",
        about="a clock that jumps makes agents lost",
        plant=_leases_on_wall_clock,
        family="leases",
    ),
    Mutant(
        name="short patience",
        about="the leader gives agents up before their lease ends",
        plant=_impatient_leases,
        family="leases",
    ),
    Mutant(
        name="no fresh leases",
        about="a new leader holds silence before its time against agents",
        plant=_stale_leases,
        family="leases",
    ),
    Mutant(
        name="reads without quorum",
        about="a leader answers reads without asking whether it still leads",
        plant=_attribute(ReadRounds, "begin", _read_alone),
        family="reads",
    ),
    Mutant(
        name="agents ignore their lease",
        about="agents go on although no leader heard them",
        plant=_agents_without_lease,
        family="leases",
    ),
)


def hunt(mutant: Mutant, first_seed: int = 0) -> Finding:
    """Run seeds until the mutant shows, or until its number of seeds is over.

    A seed counts only if the run without the mutant is clean.
    """
    options = Options(disabled_rules=NO_RULES if mutant.rule is None else frozenset({mutant.rule}))
    seeds = (seed for seed in itertools.count(first_seed) if mutant.family in (None, FAMILIES[seed % len(FAMILIES)]))
    for tried, seed in enumerate(itertools.islice(seeds, mutant.seeds_max), 1):
        with mutant.plant():
            report = simulate(seed, options)
        if report.violations and not simulate(seed, Options()).violations:
            found = report.violations[0]
            return Finding(
                mutant=mutant.name,
                found=True,
                seed=seed,
                kind=found.kind,
                detail=found.detail,
                tried=tried,
                seeds_max=mutant.seeds_max,
            )
    return Finding(
        mutant=mutant.name,
        found=False,
        seed=None,
        kind="",
        detail="",
        tried=mutant.seeds_max,
        seeds_max=mutant.seeds_max,
    )


def hunt_named(name: str) -> Finding:
    """Hunt the mutant of that name."""
    return hunt(next(mutant for mutant in MUTANTS if mutant.name == name))


def hunt_all(names: list[str], *, jobs: int = 1) -> Iterator[Finding]:
    """Hunt mutants in several processes; the findings come in the order of the names."""
    if jobs <= 1 or len(names) == 1:
        yield from map(hunt_named, names)
        return
    context: Any = multiprocessing.get_context("spawn")
    with context.Pool(jobs) as pool:
        yield from pool.imap(hunt_named, names, chunksize=1)
