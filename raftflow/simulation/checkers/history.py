"""What must hold, checked while a run goes on and once more by replaying the log when it has come to rest.

    diverged        two replicas applied different entries at an index, or came to different states
    lost            a write that a client got a reply for is not in the log that survived
    refused and applied   a finally rejected entry is in the log
    twice           a request id, or the end of an attempt, counted twice
    two leaders     two replicas led one term
    voted twice, vote forgotten   a replica gave its vote away and did not remember
    false acknowledgement, commit without majority: a leader believes what is not on the disks of the others
    needless snapshot   a replica drops a log that has all of the snapshot, and perhaps more
    two changes, wrong members, without majority, outsider, removed, too new: see `checkers/member_checks.py`
    late lease      a leader renewed the lease of an agent long after a new leader had given the agent its own
    given up early  an agent was declared lost that had been heard within its lease
    retired early   a workflow was forgotten before all of its tasks had ended
    early deadline  an attempt was given up before its time, by a clock that nobody can set
    commit went back, stale read, wrong read, invariant, attempt, two agents, wrong end, audit
    reborn          a replica takes part on an empty disk, though not all have lost theirs
    failed sync ignored   a replica goes on after its journal could not be synced
    stopped         a replica stopped without a fault of its disk
    no leader, no rest, spinning, exception
    doubled effect, call without intent, wrong effect, effect lost, ...: see `checkers/effect_checks.py`
    second answer, wrong answer, signal lost, signal doubled, ...: see `checkers/waits/wait_checks.py`
    placed unpaid, overspent, spending lost, spending doubled, rate passed: see `checkers/spending/spending_checks.py`
    step of a dead attempt, step twice, step ran again, wrong step, step lost: see `checkers/step_checks.py`
    spawn of a dead attempt, child twice, wrong child, woken early, not woken, child lost: see `child_checks.py`

Models that know nothing of the code's own tables follow the attempts (`attempt_checks.py`) and the members
(`checkers/member_checks.py`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from raftflow.domain.commands import FireTimers, OfferEnds, ReportAttempts, decode_entry
from raftflow.domain.features import NEXT_LEVEL, level_of
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Reported, Retired
from raftflow.machine.machine import Machine
from raftflow.machine.read import invariants
from raftflow.machine.rules.audit_chain import decode_record
from raftflow.replication.log import Role
from raftflow.simulation.checkers.attempt_checks import AttemptModel
from raftflow.simulation.checkers.bundle_checks import BundleChecks
from raftflow.simulation.checkers.child_checks import ChildChecks
from raftflow.simulation.checkers.command_effects import has_effect
from raftflow.simulation.checkers.effect_checks import EffectChecks
from raftflow.simulation.checkers.execution_checks import ExecutionChecks
from raftflow.simulation.checkers.member_checks import MemberModel
from raftflow.simulation.checkers.replica_checks import ReplicaChecks
from raftflow.simulation.checkers.spending.spending_checks import SpendingChecks
from raftflow.simulation.checkers.step_checks import StepChecks
from raftflow.simulation.checkers.waits.wait_checks import WaitChecks
from raftflow.simulation.world.replica_builder import STEP_LIMITS

if TYPE_CHECKING:
    from raftflow.domain.replies import AnyReply
    from raftflow.domain.tasks.workflow import WorkflowSpec
    from raftflow.machine.machine import EntryResult
    from raftflow.simulation.checkers.reads import Read
    from raftflow.simulation.world.host import SimHost
    from raftflow.simulation.world.observer import EffectCall, TaskKey
    from raftflow.simulation.world.trace import Trace

VIOLATIONS_MAX: Final = 5
"""Of one kind in one run."""
INVARIANTS_EVERY: Final = 40
"""Every invariant is checked once in this many applied entries of all replicas."""


class Violation(msgspec.Struct, frozen=True):
    """Something that must never happen."""

    kind: str
    detail: str


class AppliedEntry(NamedTuple):
    """What is at an index."""

    term: int
    entry: bytes
    chain: bytes
    by: str


class RunHistory:
    """What was seen in a run, and what is wrong with it.

    Implements `ClusterObserver` and `ExecutionObserver`.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.violations: list[Violation] = []
        self.entries: dict[int, AppliedEntry] = {}
        """The log, as the replicas applied it: index to entry."""
        self.attempts = AttemptModel()
        self.members = MemberModel(self.violation)
        self.executions = ExecutionChecks(self.violation, trace.now_s, self.attempts)
        self.steps = StepChecks(self.violation, self.attempts)
        self.spending = SpendingChecks(self.violation, self.attempts)
        self.waits = WaitChecks(self.violation, self.attempts)
        self.outside = EffectChecks(self.violation, self.attempts)
        self.bundles = BundleChecks(self.violation, self.members)
        self.children = ChildChecks(self.violation, self.attempts)
        self._replicas = ReplicaChecks(self.violation, trace.now_s, self.members)
        self.acknowledged: dict[str, AnyReply] = {}
        self.submitted: dict[str, WorkflowSpec] = {}
        """Workflows that clients were told are there, as they submitted them."""
        self.retired: dict[str, None] = {}
        """Workflows that were forgotten after they had finished."""
        self.refused: dict[str, None] = {}
        self.index_of: dict[str, int] = {}
        """Where a request id was applied."""
        self.top_acknowledged = 0
        self._top_read = 0
        self.reads: list[Read] = []
        self.effects: Counter[str] = Counter()
        """Commands that changed something, by tag."""
        self._announced_term = 0
        self._empty: set[int] = set()
        """Indexes of no-ops."""
        self._applied: dict[str, int] = {}
        self._count = 0
        self.over = False
        """Set when the observed cluster is gone."""

    def violation(self, kind: str, detail: str) -> None:
        """Note what must never happen."""
        if self.over:
            return
        if sum(known.kind == kind for known in self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(kind, detail[:2000]))
            self._trace.note("CHECK", f"{kind}: {detail[:300]}")

    # What the replicas do.

    def founded(self, names: tuple[str, ...]) -> None:
        """These replicas found the cluster."""
        self.members.founded(names)

    def started(self, host: SimHost) -> None:
        """A replica serves from now on."""
        self._replicas.started(host)
        self.bundles.started(host)

    def ended(self, host: SimHost) -> None:
        """The process of a replica ended."""
        self._applied.pop(host.name, None)
        self._replicas.ended(host)

    def removal_heard(self, name: str) -> None:
        """A replica stopped because it was told that it is no longer a member."""
        self.members.told(name)

    def disk_replaced(self, name: str) -> None:
        """An older copy of a replica's disk was put back."""
        self._replicas.disk_replaced(name)

    def role_changed(self, host: SimHost, role: Role, term: int) -> None:
        """A replica announced a role."""
        if role is not Role.LEADER or host.replica is None:
            return
        self.reborn(host)
        self._replicas.leads(host.name, term)
        if term > self._announced_term:
            self._announced_term = term
            applied = host.replica.machine.applied_index
            if applied < self.top_acknowledged:
                self.violation(
                    "lost",
                    f"{host.name} leads term {term} with entries up to {applied}, "
                    f"but entry {self.top_acknowledged} was acknowledged",
                )

    def reborn(self, host: SimHost) -> None:
        """Check that a replica with a wiped disk does not take part."""
        self._replicas.reborn(host)

    def restored(self, host: SimHost) -> None:
        """A replica restored a snapshot."""
        machine = (
            host.replica.machine if host.replica is not None else Machine(level_max=NEXT_LEVEL, limits=STEP_LIMITS)
        )
        index = machine.applied_index
        self._applied[host.name] = index
        known = self.entries.get(index)
        # Entries of the log's own may be all that a snapshot covers: the state machine is then as it was made.
        chain = (
            known.chain
            if known is not None
            else Machine(level_max=NEXT_LEVEL, limits=STEP_LIMITS).chain
            if index == 0
            else None
        )
        if chain != machine.chain:
            self.violation("diverged", f"{host.name} restored a state of entry {index} that no replica had there")
        self._replicas.restored(host)
        self._trace.note(host.name, f"restored {index}")
        self.check_invariants(host.name, machine)

    def applying(self, host: SimHost, index: int, entry: bytes) -> None:
        """A replica of an older version is about to apply an entry."""
        for command in decode_entry(entry).commands:
            if level_of(command) > host.level:
                self.violation("too new", f"{host.name} cannot read {type(command).__name__} at {index}")

    def applied(self, host: SimHost, index: int, term: int, entry: bytes, result: EntryResult) -> None:
        """A replica applied an entry."""
        assert host.replica is not None  # noqa: S101 - it is applying
        machine = host.replica.machine
        self._follow_order(host.name, index)
        known = self.entries.get(index)
        if known is None:
            self._trace.mix(machine.chain)
            self.entries[index] = AppliedEntry(term, entry, machine.chain, host.name)
            self._learn(index, entry, result)
        elif known.term != term or known.entry != entry:
            self.violation(
                "diverged",
                f"{host.name} applied another entry at {index} (term {term}) than {known.by} (term {known.term})",
            )
            self._lose(known)
            self.entries[index] = AppliedEntry(term, entry, machine.chain, host.name)
        elif known.chain != machine.chain:
            self.violation("diverged", f"{host.name} is in another state after entry {index} than {known.by}")
        self._count += 1
        if self._count % INVARIANTS_EVERY == 0:
            self.check_invariants(host.name, machine)

    def _follow_order(self, name: str, index: int) -> None:
        """Entries come in order. Indexes that are skipped are no-ops, on every replica."""
        before = self._applied.get(name, 0)
        self._applied[name] = index
        if index <= before:
            self.violation("diverged", f"{name} applied entry {index} after {before}")
        if index in self._empty:
            self.violation("diverged", f"{name} applied an entry at {index}, where other replicas have none")
            self._empty.discard(index)
        for skipped in range(before + 1, index):
            known = self.entries.get(skipped)
            if known is not None:
                self.violation("diverged", f"{name} has no entry at {skipped}, where {known.by} applied one")
                self._lose(self.entries.pop(skipped))
            self._empty.add(skipped)

    def _lose(self, known: AppliedEntry) -> None:
        """An applied entry was replaced: clients that got a reply for it were told something false."""
        for command in decode_entry(known.entry).commands:
            if command.request_id in self.acknowledged:
                self.violation("lost", f"request {command.request_id} was acknowledged by {known.by} and is lost")

    def check_invariants(self, name: str, machine: Machine) -> None:
        """Check every invariant of a state machine."""
        for problem in invariants.check(machine):
            self.violation("invariant", f"{name} at {machine.applied_index}: {problem}")

    def _learn(self, index: int, entry: bytes, result: EntryResult) -> None:
        """Follow an entry that is applied for the first time."""
        commands = decode_entry(entry).commands
        for command, reply, encoded in zip(commands, result.replies, result.audit, strict=True):
            record = decode_record(encoded)
            self.bundles.learn(command, reply)
            if record.outcome == "ok" and has_effect(reply):
                self.effects[str(type(command).__struct_config__.tag)] += 1
            if record.outcome == RejectionCode.FEATURE_LEVEL.value:
                self.violation("too new", f"{type(command).__name__} at {index} came before the level that it needs")
            if record.request_id and record.outcome == "ok":
                first = self.index_of.setdefault(record.request_id, index)
                if first != index:
                    self.violation(
                        "twice", f"request {record.request_id} was carried out at {first} and again at {index}"
                    )
            for problem in self.attempts.follow(command, reply, record):
                self.violation("attempt", f"at {index}: {problem}")
            self.steps.follow(command, reply)
            if record.outcome == "ok":
                self.spending.follow(command, reply)
            if record.outcome == "ok":
                self.outside.follow(command, reply)
            self.children.follow(command, reply, record)
            self.waits.follow(command, reply, record)
            self.executions.check_deadlines(record, fired=isinstance(command, FireTimers))
            if isinstance(reply, Retired):
                self._retire(reply)
            if isinstance(command, ReportAttempts | OfferEnds) and isinstance(reply, Reported):
                self.executions.check_ends(command, reply)

    def _retire(self, reply: Retired) -> None:
        """Only finished workflows are forgotten."""
        for workflow_id in reply.workflow_ids:
            self.retired[workflow_id] = None
            open_ = self.attempts.unfinished(workflow_id)
            if open_:
                self.violation("retired early", f"{workflow_id} was forgotten, and {', '.join(open_)} had not ended")

    # What clients and agents see.

    def acknowledge(self, request_id: str, reply: AnyReply) -> None:
        """A client got an acceptance: it must never be lost."""
        if isinstance(reply, Rejection):
            return
        index = self.index_of.get(request_id)
        if index is None:
            self.violation("lost", f"request {request_id} was acknowledged, but no replica has applied it")
            return
        self.acknowledged[request_id] = reply
        self.top_acknowledged = max(self.top_acknowledged, index)

    def refuse(self, request_id: str) -> None:
        """The log said that an entry was rejected and will never be applied."""
        self.refused[request_id] = None

    @property
    def floor(self) -> int:
        """A read that begins now must not return an older index."""
        return max(self.top_acknowledged, self._top_read)

    def read(self, who: str, floor: int, read: Read) -> None:
        """A client got an answer to a linearizable read that began when `floor` was the floor."""
        if read.at < floor:
            self.violation("stale read", f"{who} reads at {read.at}, though {floor} had been seen before")
        self._top_read = max(self._top_read, read.at)
        self.reads.append(read)

    def lease_renewed(self, replica: str, term: int, sent_s: float) -> None:
        """A replica that led `term` answered a poll that its agent sent at `sent_s`."""
        self._replicas.lease_renewed(replica, term, sent_s)

    def execution_started(self, agent: str, task: TaskKey, fence: int) -> None:
        """An agent started a program."""
        self.executions.execution_started(agent, task, fence)

    def inputs_given(self, task: TaskKey, fence: int, inputs: dict[str, bytes]) -> None:
        """A program was given inputs."""
        self.executions.inputs_given(task, fence, inputs)

    def execution_ended(self, agent: str, task: TaskKey, fence: int, how: str) -> None:
        """A program ended, in any way."""
        self.executions.execution_ended(agent, task, fence, how)

    def child_told(self, parent: TaskKey, key: str, number: int) -> None:
        """A program was told the number of a child that it has spawned."""
        self.children.child_told(parent, key, number)

    def child_end_told(self, parent: TaskKey, child_id: str, state: str, result: bytes) -> None:
        """A program was told how a child ended."""
        self.children.child_end_told(parent, child_id, state, result)

    def step_asked(self, task: TaskKey) -> int:
        """A program asks for a step."""
        return self.steps.step_asked(task)

    def step_ran(self, task: TaskKey, fence: int, key: tuple[str, int], asked: int) -> None:
        """A program runs a step."""
        self.steps.step_ran(task, fence, key, asked)

    def step_told(self, task: TaskKey, fence: int, key: tuple[str, int], result: str) -> None:
        """A program was told that a step is recorded."""
        self.steps.step_told(task, fence, key, result)

    def paid_step_ran(self, task: TaskKey, fence: int) -> None:
        """A program runs a step that will cost something."""
        self.spending.paid_step_ran(task, fence)

    def money_spent(self, task: TaskKey, amount: int) -> None:
        """A program has spent something in a step."""
        self.spending.money_spent(task, amount)

    def spending_told(self, task: TaskKey, amount: int) -> None:
        """A program was told that this is counted."""
        self.spending.spending_told(task, amount)

    def wait_told(self, task: TaskKey, key: tuple[str, int], record: dict[str, Any]) -> None:
        """A program was told the answer of a wait."""
        self.waits.wait_told(task, key, record)

    def effect_called(self, call: EffectCall, *, again: bool) -> None:
        """A program called the service outside."""
        self.outside.effect_called(call, again=again)

    def effect_told(self, task: TaskKey, key: tuple[str, int], result: str | None) -> None:
        """A program was told that an effect is recorded."""
        self.outside.effect_told(task, key, result)
