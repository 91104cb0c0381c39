"""What must hold, checked while a run goes on and once more by replaying the log when it has come to rest.

    diverged        two replicas applied different entries at an index, or came to different states
    lost            a write that a client got a reply for is not in the log that survived
    refused and applied   an entry that was rejected for good is in the log
    twice           a request id, or the end of an attempt, counted twice
    two leaders     two replicas led one term
    voted twice, vote forgotten   a replica gave its vote away and did not remember
    false acknowledgement, commit without majority: a leader believes what is not on the disks of the others
    needless snapshot   a replica drops a log that has all of the snapshot, and perhaps more
    two changes, wrong members, without majority, outsider, removed, too new: see `checkers/member_checks.py`
    given up early  an agent was declared lost that had been heard within its lease
    early deadline  an attempt was given up before its time, by a clock that nobody can set
    commit went back, stale read, wrong read, invariant, attempt, two agents, wrong end, audit
    reborn          a replica takes part on an empty disk, though not all have lost theirs
    failed sync ignored   a replica goes on after its journal could not be synced
    stopped         a replica stopped without a fault of its disk
    no leader, no rest, spinning, exception

Models that know nothing of the code's own tables follow the attempts (`checkers/attempt_checks.py`) and the members
(`checkers/member_checks.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from raftflow.domain.commands import FireTimers, OfferEnds, ReportAttempts, decode_entry
from raftflow.domain.features import level_of
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Reported
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine.machine import Machine
from raftflow.machine.read import invariants, queries
from raftflow.machine.rules.audit_chain import decode_record
from raftflow.replication.log import Role
from raftflow.simulation.checkers.attempt_checks import AttemptModel, Task
from raftflow.simulation.checkers.member_checks import MemberModel

if TYPE_CHECKING:
    from raftflow.domain.contract.views import AuditRecord
    from raftflow.domain.replies import AnyReply
    from raftflow.domain.tasks.workflow import WorkflowSpec
    from raftflow.machine.machine import EntryResult
    from raftflow.simulation.world.cluster import SimHost
    from raftflow.simulation.world.trace import Trace

VIOLATIONS_MAX: Final = 5
"""Of one kind in one run."""
INVARIANTS_EVERY: Final = 40
"""Applied entries, of all replicas together, from one check of every invariant to the next."""


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


class Read(NamedTuple):
    """A linearizable read that a client got an answer to."""

    at: int
    query: tuple[str, ...]
    content: bytes


class RunHistory:
    """Everything that was seen in a run, and what is wrong with it."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.violations: list[Violation] = []
        self.canon: dict[int, AppliedEntry] = {}
        self.attempts = AttemptModel()
        self.members = MemberModel(self.violation)
        self.leaders: dict[int, str] = {}
        self.acknowledged: dict[str, AnyReply] = {}
        self.submitted: dict[str, WorkflowSpec] = {}
        """Workflows that clients were told are there, as they submitted them."""
        self.refused: dict[str, None] = {}
        self.index_of: dict[str, int] = {}
        """Where a request id was applied."""
        self.top_acknowledged = 0
        self.top_read = 0
        self.reads: list[Read] = []
        self.executing: dict[Task, dict[int, str]] = {}
        """Who runs a task at the moment: fence to agent."""
        self.finished: dict[int, str] = {}
        """Fence to how the program itself ended."""
        self._started_s: dict[int, float] = {}
        """When attempts began to run, by the log."""
        self._announced_term = 0
        self._empty: set[int] = set()
        """Indexes of no-ops."""
        self._applied: dict[str, int] = {}
        self._commit: dict[str, int] = {}
        self._said: dict[str, tuple[int, str]] = {}
        """For each replica the last term in which it gave its vote away, and to whom."""
        self._forgetful: dict[str, bool] = {}
        """Replicas whose disks were put back, and whether their repair has begun."""
        self._reloaded: set[str] = set()
        """Replicas that have just loaded a snapshot."""
        self._logs: dict[str, Any] = {}
        """The logs of the replicas that serve."""
        self._count = 0
        self.over = False
        """Set when the cluster that was watched is no more."""

    def violation(self, kind: str, detail: str) -> None:
        """Note what must never happen."""
        if self.over:
            return
        if sum(known.kind == kind for known in self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(kind, detail[:2000]))
            self._trace.note("CHECK", f"{kind}: {detail[:300]}")

    def fault(self, kind: str, who: str) -> None:
        """Note a fault that took effect inside a replica."""
        self._trace.fault(kind, who)

    # What the replicas do.

    def started(self, host: SimHost) -> None:
        """A replica serves: from now on its role and its commit index are watched at every step."""
        log: Any = host.replica.log if host.replica is not None else None
        if host.wiped:
            return  # it has forgotten everything, and must not take part: `reborn`
        roles, raft = log._roles, log._raft  # noqa: SLF001 - the promise is about what is inside
        update = roles.update
        self._logs[host.name] = log
        self._commit[host.name] = 0
        believed: dict[tuple[int, str], int] = {}

        def watched() -> None:
            commit = raft.commit_index
            if commit < self._commit[host.name]:
                self.violation("commit went back", f"{host.name}: from {self._commit[host.name]} to {commit}")
            if raft.is_leader:
                term = raft.term
                if self.leaders.setdefault(term, host.name) != host.name:
                    self.violation("two leaders", f"{host.name} and {self.leaders[term]} lead term {term}")
                self.members.leads(host.name, log)
                for peer in raft.peers:
                    match = raft.match_index(peer)
                    if match > believed.get((term, peer), 0):
                        believed[term, peer] = match
                        self._check_belief(host.name, log, peer, match)
                if commit > self._commit[host.name]:
                    self._check_majority(host.name, log, commit)
            self._commit[host.name] = commit
            if host.name in self._reloaded:
                self._reloaded.discard(host.name)
                self._check_beliefs_in(host.name)
            update()

        roles.update = watched
        self._check_memory(host.name, log)
        self.members.watch(host, log)
        self._listen(host.name, log)
        self._check_beliefs_in(host.name)
        self._watch_leases(host)

    def _watch_leases(self, host: SimHost) -> None:
        """A leader gives an agent up when it has not heard it for a lease, by a clock that nobody can set."""
        assert host.replica is not None  # noqa: S101 - it serves
        leader: Any = host.replica.leader
        lease_s = host.replica.config.timing.lease_ms / 1000
        contact, begin = leader.leases.contact, leader.removals.begin
        heard_s: dict[str, float] = {}

        def heard(name: str, now_s: float) -> None:
            heard_s[name] = self._trace.now_s()
            contact(name, now_s)

        def give_up(name: str, incarnation: int, *, together: bool = False) -> None:
            silent_s = self._trace.now_s() - heard_s.get(name, 0.0)
            if silent_s < lease_s:
                self.violation("given up early", f"{host.name} gives {name} up, heard {silent_s:.3f} s ago")
            begin(name, incarnation, together=together)

        leader.leases.contact, leader.removals.begin = heard, give_up

    def _check_beliefs_in(self, peer: str) -> None:
        """What the leaders believe of a replica must still be true after a start, or after a snapshot was loaded."""
        for name, other in self._logs.items():
            if name != peer and other._raft.is_leader:  # noqa: SLF001
                self._check_belief(name, other, peer, other._raft.match_index(peer))  # noqa: SLF001

    def _check_memory(self, name: str, log: Any) -> None:
        """What a replica has told others of its term and vote, its disk must know after a restart."""
        if name not in self._said or name in self._forgetful:
            return
        term, vote = self._said[name]
        journal = log.parts.journal
        known, voted = journal.getCurrentTerm(), journal.getVotedForNodeId()
        if known < term or (known == term and voted != vote):
            self.violation(
                "vote forgotten", f"{name} has voted for {vote} in term {term} and does not know it any more"
            )

    def _listen(self, name: str, log: Any) -> None:
        """Hear the votes of a replica: one for each term."""
        traffic = log.parts.traffic
        transmit = traffic.transmit

        def heard(peer: str, message: dict[str, Any]) -> None:
            asks_for_term = message["type"] == "request_vote" and message["last_log_index"] == 0  # and for no vote
            if message["type"] in {"response_vote", "request_vote"} and not asks_for_term:
                term, vote = message["term"], peer if message["type"] == "response_vote" else name
                if self._said.get(name, (0, ""))[0] == term and self._said[name][1] != vote:
                    self.violation("voted twice", f"{name} for {self._said[name][1]} and for {vote} in term {term}")
                self._said[name] = (term, vote)
                if vote == peer:
                    self.members.voted(name, log, peer, term)
            transmit(peer, message)

        traffic.transmit = heard

    def _check_belief(self, leader: str, log: Any, peer: str, match: int) -> None:
        """What a leader believes to be on a peer's disk must be there while the peer is in the leader's term."""
        other = self._logs.get(peer)
        if match == 0 or other is None or other._raft.term != log._raft.term:  # noqa: SLF001
            return
        if other.repairing or self._is_forgetful(peer, other):
            return  # it was true when it was said, and it elects nobody before the next term (RECOVERY.md)
        if not _holds(other, log, match):
            self.violation(
                "false acknowledgement",
                f"{leader} believes that {peer} has its entry {match} on disk",
            )

    def forgets(self, name: str) -> None:
        """An older copy of a replica's disk is put back: until it is repaired it lacks what it had promised."""
        self._forgetful[name] = False

    def _is_forgetful(self, name: str, log: Any) -> bool:
        """Return True until the repair of a replica whose disk was put back has begun and ended."""
        if name not in self._forgetful:
            return False
        if log.repairing:
            self._forgetful[name] = True
        elif self._forgetful[name]:
            del self._forgetful[name]
            return False
        return True

    def _check_majority(self, leader: str, log: Any, commit: int) -> None:
        """What a leader commits must be on the disks of a majority. Replicas that are down get the benefit."""
        voters = self.members.in_force(leader, log)[1].voter_names
        logs = {name: self._logs[name] for name in sorted(voters & self._logs.keys())}
        missing = [
            name
            for name, other in logs.items()
            if not other.repairing and not self._is_forgetful(name, other) and not _holds(other, log, commit)
        ]
        if 2 * len(missing) >= len(voters):
            self.violation("commit without majority", f"{leader} commits {commit}, which {', '.join(missing)} lack")

    def ended(self, host: SimHost) -> None:
        """A life ended."""
        self._applied.pop(host.name, None)
        self._logs.pop(host.name, None)

    def role_changed(self, host: SimHost, role: Role, term: int) -> None:
        """A replica announced a role."""
        if role is not Role.LEADER or host.replica is None:
            return
        self.reborn(host)
        if self.leaders.setdefault(term, host.name) != host.name:
            self.violation("two leaders", f"{host.name} and {self.leaders[term]} lead term {term}")
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
        """Look whether a replica takes part that has lost its disk, while others have not."""
        if not host.wiped or host.replica is None or not host.serving:
            return
        parts: Any = host.replica.log.parts  # type: ignore[attr-defined] # the promise is about what is inside
        if parts.births.born and not (host.join and not parts.data.has_data()):
            self.violation("reborn", f"{host.name} takes part on an empty disk in place of the one that it had")

    def restored(self, host: SimHost) -> None:
        """A replica restored a snapshot."""
        machine = host.replica.machine if host.replica is not None else Machine()
        index = machine.applied_index
        self._applied[host.name] = index
        known = self.canon.get(index)
        # Entries of the log's own may be all that a snapshot covers: the state machine is then as it was made.
        chain = known.chain if known is not None else Machine().chain if index == 0 else None
        if chain != machine.chain:
            self.violation("diverged", f"{host.name} restored a state of entry {index} that no replica had there")
        if host.serving and host.replica is not None:
            self._reloaded.add(host.name)
            log: Any = host.replica.log
            info = log.parts.restorer.loading  # its last entry may be none of the state machine's
            if log._raft.holds(info.index, info.term):  # noqa: SLF001
                self.violation("needless snapshot", f"{host.name} has entry {info.index} and loads a snapshot of it")
        self._trace.note(host.name, f"restored {index}")
        self._check_invariants(host.name, machine)

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
        known = self.canon.get(index)
        if known is None:
            self._trace.mix(machine.chain)
            self.canon[index] = AppliedEntry(term, entry, machine.chain, host.name)
            self._learn(index, entry, result)
        elif known.term != term or known.entry != entry:
            self.violation(
                "diverged",
                f"{host.name} applied another entry at {index} (term {term}) than {known.by} (term {known.term})",
            )
            self._lose(known)
            self.canon[index] = AppliedEntry(term, entry, machine.chain, host.name)
        elif known.chain != machine.chain:
            self.violation("diverged", f"{host.name} is in another state after entry {index} than {known.by}")
        self._count += 1
        if self._count % INVARIANTS_EVERY == 0:
            self._check_invariants(host.name, machine)

    def _follow_order(self, name: str, index: int) -> None:
        """Entries come in order; what the log does not show between them are no-ops, on every replica."""
        before = self._applied.get(name, 0)
        self._applied[name] = index
        if index <= before:
            self.violation("diverged", f"{name} applied entry {index} after {before}")
        if index in self._empty:
            self.violation("diverged", f"{name} applied an entry at {index}, where other replicas have none")
            self._empty.discard(index)
        for skipped in range(before + 1, index):
            known = self.canon.get(skipped)
            if known is not None:
                self.violation("diverged", f"{name} has no entry at {skipped}, where {known.by} applied one")
                self._lose(self.canon.pop(skipped))
            self._empty.add(skipped)

    def _lose(self, known: AppliedEntry) -> None:
        """An applied entry was replaced: whoever got a reply for it was told something that is no longer true."""
        for command in decode_entry(known.entry).commands:
            if command.request_id in self.acknowledged:
                self.violation("lost", f"request {command.request_id} was acknowledged by {known.by} and is lost")

    def _check_invariants(self, name: str, machine: Machine) -> None:
        for problem in invariants.check(machine):
            self.violation("invariant", f"{name} at {machine.applied_index}: {problem}")

    def _learn(self, index: int, entry: bytes, result: EntryResult) -> None:
        """Follow an entry that is applied for the first time."""
        commands = decode_entry(entry).commands
        for command, reply, encoded in zip(commands, result.replies, result.audit, strict=True):
            record = decode_record(encoded)
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
            self._watch_deadlines(record, fired=isinstance(command, FireTimers))
            if isinstance(command, ReportAttempts | OfferEnds) and isinstance(reply, Reported):
                self._compare_ends(command, reply)

    def _watch_deadlines(self, record: AuditRecord, *, fired: bool) -> None:
        """Wall clocks may say what they like: an attempt has the time that its task gives it."""
        now_s = self._trace.now_s()
        for step in record.transitions:
            if step.event in {"failed_retry", "failed_final"} and fired:
                took_ms = (now_s - self._started_s.get(step.fence, now_s)) * 1000
                may_ms = self.attempts.timeouts.get((step.workflow_id, step.task_id), 0)
                if took_ms < may_ms:
                    self.violation(
                        "early deadline",
                        f"{step.workflow_id}/{step.task_id} was given up after {took_ms:.0f} ms of {may_ms}",
                    )
            elif step.after == "running":
                self._started_s.setdefault(step.fence, now_s)

    def _compare_ends(self, command: ReportAttempts | OfferEnds, reply: Reported) -> None:
        """What is accepted as a success must have run to its end."""
        for end, verdict in zip(command.ends, reply.verdicts, strict=True):
            ran = self.finished.get(end.fence)
            if verdict.verdict == "accepted" and end.outcome is AttemptOutcome.SUCCEEDED and ran != "succeeded":
                self.violation("wrong end", f"fence {end.fence} was accepted as a success, but its program {ran}")

    # What clients and agents see.

    def acknowledge(self, request_id: str, reply: AnyReply) -> None:
        """A client got a reply that is no refusal: it must never be lost."""
        if isinstance(reply, Rejection):
            return
        index = self.index_of.get(request_id)
        if index is None:
            self.violation("lost", f"request {request_id} was acknowledged, but no replica has applied it")
            return
        self.acknowledged[request_id] = reply
        self.top_acknowledged = max(self.top_acknowledged, index)

    def refuse(self, request_id: str) -> None:
        """The log said that an entry is in no log and never will be."""
        self.refused[request_id] = None

    @property
    def floor(self) -> int:
        """The index that a read which begins now must not be below."""
        return max(self.top_acknowledged, self.top_read)

    def read(self, who: str, floor: int, read: Read) -> None:
        """A client got an answer to a linearizable read that began when `floor` was the floor."""
        if read.at < floor:
            self.violation("stale read", f"{who} reads at {read.at}, though {floor} had been seen before")
        self.top_read = max(self.top_read, read.at)
        self.reads.append(read)

    def execution_started(self, agent: str, task: Task, fence: int) -> None:
        """A program was started."""
        running = self.executing.setdefault(task, {})
        for other, holder in running.items():
            if len(running) > 1 or not (fence in self.attempts.backups or other in self.attempts.backups):
                self.violation(
                    "two agents",
                    f"{agent} starts {task} with fence {fence} while {holder} runs it with fence {other}",
                )
        running[fence] = agent

    def inputs_given(self, task: Task, fence: int, inputs: dict[str, bytes]) -> None:
        """A program was given inputs: they are the results of what its task needs, as of its placement."""
        due = self.attempts.due_inputs.get(fence)
        if due is None:
            self.violation("inputs", f"fence {fence} of {task} runs, and no replica has placed it")
        elif inputs.keys() != due.keys() or any(
            result is not None and inputs[need] != result for need, result in due.items()
        ):
            self.violation("inputs", f"fence {fence} of {task} was given {inputs}, and should have been given {due}")

    def execution_ended(self, agent: str, task: Task, fence: int, how: str) -> None:
        """A program ended, however it ended."""
        self.finished[fence] = how
        running = self.executing.get(task, {})
        if running.get(fence) == agent:
            del running[fence]

    # At the end.

    def check_acknowledged(self, hosts: list[SimHost]) -> None:
        """Look whether what was acknowledged is there, with the reply that was given."""
        for host in hosts:
            if host.replica is None:
                continue
            requests = host.replica.machine.tables.requests
            lost = [
                request_id
                for request_id, reply in self.acknowledged.items()
                if (known := requests.get(request_id)) is None or known.reply != reply
            ]
            if lost:
                self.violation("lost", f"{host.name} lacks {len(lost)} acknowledged commands, {lost[0]} for one")

    def check_end(self, hosts: list[SimHost]) -> None:
        """Compare the replicas with each other, with a replay of the log, and with what was acknowledged."""
        machines = [(host.name, host.replica.machine) for host in hosts if host.replica is not None]
        self.check_acknowledged(hosts)
        false = [request_id for request_id in self.refused if request_id in self.index_of]
        if false:
            self.violation("refused and applied", f"{len(false)} entries were, {false[0]} for one")
        replay = self._replay()
        for name, machine in machines:
            if (machine.applied_index, machine.chain) != (replay.applied_index, replay.chain):
                self.violation(
                    "diverged", f"{name} stands at {machine.applied_index}, the log at {replay.applied_index}"
                )
            self._check_invariants(name, machine)
            if b"".join(machine.snapshot()) != b"".join(replay.snapshot()):
                self.violation("diverged", f"{name} holds another state than the log gives")
            self._check_submitted(name, machine)
            open_ = [workflow.id for workflow in machine.tables.workflows.values() if not workflow.finished_ms]
            if open_:
                self.violation("no rest", f"{len(open_)} workflows never finished, {open_[0]} for one")
            if machine.tables.uploads:
                self.violation("no rest", f"uploads that nobody will finish: {', '.join(machine.tables.uploads)}")

    def _check_submitted(self, name: str, machine: Machine) -> None:
        """What clients were told is there is what they submitted, all of it."""
        for workflow_id, spec in self.submitted.items():
            workflow = machine.tables.workflows.get(workflow_id)
            if workflow is None:
                self.violation("lost", f"{name} lacks the workflow {workflow_id}")
            elif [(task.id, tuple(workflow.tasks[need].id for need in task.needs)) for task in workflow.tasks] != [
                (task.id, task.needs) for task in spec.tasks
            ]:
                self.violation("lost", f"{name} has another graph of {workflow_id} than was submitted")

    def _replay(self) -> Machine:
        """Apply the log to a fresh machine, and ask it what the reads were told."""
        machine = Machine()
        reads = sorted(self.reads, key=lambda read: read.at)
        position = 0
        for index in sorted(self.canon):
            while position < len(reads) and reads[position].at < index:
                self._check_read(machine, reads[position])
                position += 1
            known = self.canon[index]
            machine.apply(index, known.term, known.entry)
            if machine.chain != known.chain:
                self.violation("diverged", f"{known.by} came to another state at {index} than a replay does")
                break
        for read in reads[position:]:
            self._check_read(machine, read)
        return machine

    def _check_read(self, machine: Machine, read: Read) -> None:
        if answer(machine, read.query) != read.content:
            self.violation("wrong read", f"{read.query} at {read.at} was told what the log does not say")


def _holds(log: Any, leader: Any, index: int) -> bool:
    """Return True if a replica has the leader's entry at `index` on its disk."""
    raft, other = log._raft, leader._raft  # noqa: SLF001
    if index <= log.parts.writer.snapshot_index:  # a durable snapshot covers it
        return True
    if index > min(log.parts.journal.durable_index, other.last_index):
        return False
    if index < max(raft.first_index, other.first_index):
        return True
    return bool(raft.term_at(index) == other.term_at(index))


_encode = msgspec.json.Encoder().encode


def answer(machine: Machine, query: tuple[str, ...]) -> bytes:
    """Answer a client's question from a machine, as the API does."""
    if query[0] == "workflow":
        return _encode(queries.workflow_view(machine, query[1]))
    if query[0] == "tasks":
        return _encode(queries.task_page(machine, query[1], 100, None))
    if query[0] == "agents":
        return _encode(queries.agent_list(machine))
    return _encode(queries.workflow_page(machine, None, 20, None))
