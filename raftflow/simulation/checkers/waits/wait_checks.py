"""What must hold of waits, signals and approvals. A model that knows nothing of the tables follows the commands.

wait of a dead attempt     an attempt that was not live began a wait
second answer              a wait that has its answer is open again, or gets or tells another answer
wrong answer               a program was told what the log does not say: a time-out before its time, for example
signal lost                a signal is neither with a wait nor in the mailbox of its workflow
signal doubled             a signal is counted twice for its key, or received by two waits
second decision            a person decided what was over
decision refused           a person was told that an approval is over, and it is open
sleeps on                  a task is parked for a wait that has ended
woken for nothing          a parked task goes on, and none of its waits has ended
answer lost                the state at the end has another answer of a wait than the log gave, or none
wrong result               a task of a document that waits did not end with its answer, in the same command
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from raftflow.domain.commands import BeginWait, DecideApproval, FireTimers, ReportAttempts, SendSignal
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done, Reported, SignalTaken, WaitBegun
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine.read import waits
from raftflow.simulation.checkers.waits.document_waits import begun_waits, result_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.contract.views import AuditRecord
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine
    from raftflow.simulation.checkers.attempt_checks import AttemptModel
    from raftflow.simulation.checkers.waits.document_waits import BegunWait
    from raftflow.simulation.world.observer import TaskKey

_FINAL = frozenset({"succeeded", "failed", "cancelled"})
WaitKey = tuple["TaskKey", str, int]
"""Task, name, occurrence. Waits of documents have numbers of their own for that, below 0."""


class _OpenWait(NamedTuple):
    """A wait that has no answer yet."""

    key: WaitKey
    kind: str
    deadline_ms: int
    """0 for none."""
    on_timeout: bytes


class WaitChecks:
    """Follows the waits of all tasks, and the mailboxes of all workflows.

    Args:
        violation: told what must never happen.
        attempts: the model of attempts, which has followed the same command before.
    """

    def __init__(self, violation: Callable[[str, str], None], attempts: AttemptModel) -> None:
        self._violation = violation
        self._attempts = attempts
        self._now_ms = 0
        self._open: dict[int, _OpenWait] = {}
        """By number, in the order in which they began."""
        self._numbers: dict[int, None] = {}
        """All waits that programs ever began."""
        self._answers: dict[WaitKey, Any] = {}
        self._unsure: dict[WaitKey, None] = {}
        """Waits that timed out, or were withdrawn, in the command that ended their tasks."""
        self._mailbox: dict[tuple[str, str], deque[Any]] = {}
        """Payloads of signals that were kept, by workflow and name, oldest first."""
        self._keys: dict[tuple[str, str], None] = {}
        """Keys of signals that were counted."""
        self._receivers: dict[tuple[str, str], WaitKey] = {}
        """By workflow and payload: the wait that got it."""
        self._parked: dict[TaskKey, tuple[int, ...]] = {}
        self._documents = 0
        """Waits of documents so far."""
        self._ends: dict[TaskKey, str] = {}
        """What became of tasks in the present command, if they ended."""
        self.answered_documents = 0
        self.received = self.timed_out = self.decided = self.repeated = self.refused = 0

    @property
    def wanted(self) -> list[tuple[str, str]]:
        """The workflow and the name of each signal for which a task waits."""
        return [(wait.key[0][0], wait.key[1]) for wait in self._open.values() if wait.kind == "signal"]

    # --- the log

    def follow(self, command: AnyCommand, reply: AnyReply, record: AuditRecord) -> None:
        """Follow a command that is applied for the first time."""
        self._now_ms = record.at_ms
        self._ends = ended = {
            (step.workflow_id, step.task_id): step.after for step in record.transitions if step.after in _FINAL
        }
        if record.outcome == "ok":
            if isinstance(command, BeginWait) and isinstance(reply, WaitBegun):
                self._begin(command, reply)
            elif isinstance(command, SendSignal) and isinstance(reply, SignalTaken):
                self._signal(command, reply)
            elif isinstance(command, DecideApproval) and isinstance(reply, Done):
                self._decide(command)
            elif isinstance(command, FireTimers):
                self._time_out()
            elif isinstance(command, ReportAttempts) and isinstance(reply, Reported):
                self._park(command, reply)
        elif isinstance(command, DecideApproval) and isinstance(reply, Rejection):
            self._refuse(command, reply)
        if ended:
            self._close()
        for begun in begun_waits(record):
            self._begin_document(begun)
        if self._parked:
            self._follow_parked(record)

    def _begin(self, command: BeginWait, reply: WaitBegun) -> None:
        live = self._attempts.live.get(command.fence)
        if live is None or live[1] != command.agent:
            told = f"{command.name} of fence {command.fence} on {command.agent}; {live} is live"
            self._violation("wait of a dead attempt", told)
            return
        key = (live[0], command.name, command.occurrence)
        if reply.number:
            self._note_open(key, command, reply.number)
            return
        record = msgspec.json.decode(reply.record)
        if key not in self._answers and key not in self._unsure:
            kept = self._mailbox.get((live[0][0], command.name))
            expected = _signal(kept.popleft()) if kept else None
            if command.kind != "signal" or record != expected:
                self._violation("wrong answer", f"{key} has {record}, and in the mailbox was {expected}")
        self._answer(key, record)

    def _note_open(self, key: WaitKey, command: BeginWait, number: int) -> None:
        known = self._open.get(number)
        if known is not None:
            if known.key != key:
                self._violation("second answer", f"{key} has the wait {number} of {known.key}")
            return
        others = [other for other, wait in self._open.items() if wait.key == key]
        if key in self._answers or others or number in self._numbers:
            told = f"wait {number} of {key} is open; {self._answers.get(key)} is its answer, open are {others}"
            self._violation("second answer", told)
        if command.kind == "signal" and self._mailbox.get((key[0][0], command.name)):
            self._violation("signal lost", f"{key} begins to wait, and a signal is in the mailbox")
        deadline_ms = self._now_ms + command.timeout_ms if command.timeout_ms else 0
        self._numbers[number] = None
        self._open[number] = _OpenWait(key, command.kind, deadline_ms, command.on_timeout)

    def _signal(self, command: SendSignal, reply: SignalTaken) -> None:
        place, key = (command.workflow_id, command.name), (command.workflow_id, command.key)
        if reply.state == "repeated":
            self.repeated += 1
            if key not in self._keys:
                self._violation("signal lost", f"{command} was not counted before")
            return
        if command.key and key in self._keys:
            self._violation("signal doubled", f"{command} was counted before, and is {reply.state}")
        self._keys[key] = None
        payload = msgspec.json.decode(command.payload)
        waiting = [
            number
            for number, wait in self._open.items()
            if wait.kind == "signal" and (wait.key[0][0], wait.key[1]) == place
        ]
        receiver = self._open[waiting[0]] if waiting else None
        if reply.task_id != ("" if receiver is None else receiver.key[0][1]):
            self._violation("signal lost", f"{command} is {reply.state} to {reply.task_id!r}; {receiver} waits")
        if receiver is None:
            self._mailbox.setdefault(place, deque()).append(payload)
        else:
            del self._open[waiting[0]]
            self._answer(receiver.key, _signal(payload))

    def _decide(self, command: DecideApproval) -> None:
        wait = self._open.pop(command.number, None)
        if wait is None or wait.kind != "approval":
            self._violation("second decision", f"{command} counts; {wait} is open")
            return
        self.decided += 1
        decision = {"outcome": "decided", "choice": command.choice, "comment": command.comment}
        told = {"payload": msgspec.json.decode(command.payload), "by": command.actor, "at_ms": self._now_ms}
        self._answer(wait.key, decision | told)

    def _refuse(self, command: DecideApproval, reply: Rejection) -> None:
        self.refused += 1
        if command.number in self._open and reply.code in {RejectionCode.CONFLICT, RejectionCode.NOT_FOUND}:
            self._violation("decision refused", f"{command} is refused: {reply.message}")

    def _close(self) -> None:
        """Waits go with their tasks. Those of documents end by answers alone, or are cancelled."""
        for number in [number for number, wait in self._open.items() if wait.key[0] in self._ends]:
            wait = self._open.pop(number)
            if wait.key[2] < 0 and self._ends[wait.key[0]] != "cancelled":
                self._violation("wrong result", f"{wait} is {self._ends[wait.key[0]]} without an answer")

    def _begin_document(self, begun: BegunWait) -> None:
        """A task of a document begins to wait, or finds a signal in the mailbox."""
        wait = self._attempts.waits[begun.task]
        self._documents += 1
        key = (begun.task, wait.name, -self._documents)
        kept = self._mailbox.get((begun.task[0], wait.name)) if wait.event == "signal" else None
        if kept:
            self._answer(key, _signal(kept.popleft()))
        elif begun.after != "parked":
            self._violation("wrong result", f"{begun} ended, and nothing was in the mailbox")
        elif begun.number:
            deadline_ms = self._now_ms + wait.timeout_ms if wait.timeout_ms else 0
            self._numbers[begun.number] = None
            self._open[begun.number] = _OpenWait(key, wait.event, deadline_ms, wait.on_timeout)

    def _end_document(self, task: TaskKey, record: dict[str, Any]) -> None:
        """A wait of a document has its answer: that is the result of the task from now on."""
        result = result_of(self._attempts.waits[task], record)
        self.answered_documents += 1
        if self._ends.get(task) != ("succeeded" if result else "failed"):
            self._violation("wrong result", f"{task} is {self._ends.get(task)} after {record}")
        self._attempts.results[task] = result

    def _time_out(self) -> None:
        """All that is due has timed out, once, unless its task has ended in the same command by something else."""
        for number in [number for number, wait in self._open.items() if 0 < wait.deadline_ms <= self._now_ms]:
            wait = self._open.pop(number)
            if self._ends.get(wait.key[0]) in ({"cancelled"} if wait.key[2] < 0 else _FINAL):
                self._unsure[wait.key] = None
                continue
            self.timed_out += 1
            more = {"payload": msgspec.json.decode(wait.on_timeout)} if wait.on_timeout else {}
            self._answer(wait.key, {"outcome": "timeout"} | more)

    def _answer(self, key: WaitKey, record: Any) -> None:
        """A wait has its answer, the first time or again."""
        if key in self._unsure:
            return
        if self._answers.setdefault(key, record) != record:
            self._violation("second answer", f"{key}: {self._answers[key]}, then {record}")
        if record["outcome"] == "signal":
            receiver = self._receivers.setdefault((key[0][0], record["payload"]), key)
            self.received += 1
            if receiver != key:
                self._violation("signal doubled", f"{record} is received by {receiver} and {key}")
        if key[2] < 0:
            self._end_document(key[0], record)

    # --- parked tasks

    def _park(self, command: ReportAttempts, reply: Reported) -> None:
        for end, verdict in zip(command.ends, reply.verdicts, strict=True):
            if verdict.verdict == "accepted" and end.outcome is AttemptOutcome.PARKED:
                numbers = tuple(msgspec.json.decode(end.result).get("waits", ()))
                if numbers and all(number in self._numbers for number in numbers):
                    self._parked[end.workflow_id, end.task_id] = numbers

    def _follow_parked(self, record: AuditRecord) -> None:
        for step in record.transitions:
            task = (step.workflow_id, step.task_id)
            if step.event == "wait_over" and task in self._parked and not self._is_over(task):
                self._violation("woken for nothing", f"{task} goes on, and waits for {self._parked[task]}")
        for task in list(self._parked):
            if self._attempts.states.get(task) != "parked":
                del self._parked[task]
            elif self._is_over(task) and task[0] not in self._attempts.stopped:
                self._violation("sleeps on", f"{task} is parked for {self._parked[task]}, and one of them has ended")

    def _is_over(self, task: TaskKey) -> bool:
        return any(number not in self._open for number in self._parked[task])

    # --- programs, and the end

    def wait_told(self, task: TaskKey, key: tuple[str, int], record: Any) -> None:
        """A program was told the answer of a wait."""
        wait = (task, *key)
        if wait not in self._unsure and self._answers.get(wait) != record:
            self._violation("wrong answer", f"{wait} is told as {record}, the log has {self._answers.get(wait)}")

    def check_end(self, name: str, machine: Machine) -> None:
        """Answers and mailboxes are in the state of a replica, unless the workflow was forgotten."""
        workflows = machine.tables.workflows
        for ((workflow_id, task_id), wait, occurrence), record in self._answers.items():
            if workflow_id not in workflows or occurrence < 0:
                continue
            found = waits.recorded_answer(machine, workflow_id, task_id, wait, occurrence)
            if found is None or msgspec.json.decode(found) != record:
                self._violation(
                    "answer lost",
                    f"{name} has {found!r} of {workflow_id}/{task_id} {wait} {occurrence}, not {record}",
                )
        for task in self._attempts.waits:
            self._check_result(name, machine, task)
        for (workflow_id, signal), payloads in self._mailbox.items():
            if workflow_id not in workflows:
                continue
            kept = [msgspec.json.decode(payload) for payload in waits.kept_payloads(machine, workflow_id, signal)]
            if kept != list(payloads):
                kind = "signal doubled" if len(kept) > len(payloads) else "signal lost"
                self._violation(kind, f"{name} keeps {kept} for {workflow_id}, the log {list(payloads)}")

    def _check_result(self, name: str, machine: Machine, task: TaskKey) -> None:
        """A task of a document that waited has its answer as its result."""
        workflow = machine.tables.workflows.get(task[0])
        if workflow is not None and self._attempts.states.get(task) == "succeeded":
            found, expected = workflow.by_id[task[1]].result, self._attempts.results.get(task)
            if found != expected:
                self._violation("answer lost", f"{name} has {found!r} as the result of {task}, not {expected!r}")


def _signal(payload: Any) -> dict[str, Any]:
    """Return the answer of a wait that got a signal."""
    return {"outcome": "signal", "payload": payload}
