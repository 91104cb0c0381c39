"""What must hold of children and parked tasks. A model that knows nothing of the machine's tables follows them.

spawn of a dead attempt    children came from an attempt that was not live
child twice                a key of a parent got a second child
wrong child                a program was told another child, or another end of it, than there is
woken early                a parked task is ready before what it waits for has ended
not woken                  a parked task is not ready although that has ended
child lost                 a child of which a program was told is not in the state at the end
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raftflow.domain.commands import ReportAttempts, SpawnTasks
from raftflow.domain.replies import Reported, TasksSpawned
from raftflow.domain.tasks.states import AttemptOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.contract.views import AuditRecord
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine
    from raftflow.simulation.checkers.attempt_checks import AttemptModel
    from raftflow.simulation.world.observer import TaskKey

_FINAL = frozenset({"succeeded", "failed", "cancelled"})


class _ParkedWait(NamedTuple):
    """What a parked task waits for."""

    mode: str
    """`waits` for one that waits for something other than children, which this model does not follow."""
    children: tuple[TaskKey, ...]


class ChildChecks:
    """Follows the children of all tasks.

    Args:
        violation: told what must never happen.
        attempts: the model of attempts, which has followed the same command before.
    """

    def __init__(self, violation: Callable[[str, str], None], attempts: AttemptModel) -> None:
        self._violation = violation
        self._attempts = attempts
        self._places: dict[tuple[str, int], TaskKey] = {}
        """Child by workflow and position."""
        self._numbers: dict[TaskKey, int] = {}
        self._parked: dict[TaskKey, _ParkedWait] = {}
        self._unpaid: dict[TaskKey, None] = {}
        """Tasks that have just parked because a budget is used up: they are ready in the same moment."""
        self._told: dict[TaskKey, None] = {}
        """Children of which a program was told."""
        self.spawned = 0
        self.woken = 0

    def follow(self, command: AnyCommand, reply: AnyReply, record: AuditRecord) -> None:
        """Follow a command that is applied for the first time."""
        if isinstance(command, SpawnTasks) and isinstance(reply, TasksSpawned):
            self._spawn(command, reply)
        if isinstance(command, ReportAttempts) and isinstance(reply, Reported):
            for end, verdict in zip(command.ends, reply.verdicts, strict=True):
                if verdict.verdict == "accepted" and end.outcome is AttemptOutcome.PARKED:
                    self._park((end.workflow_id, end.task_id), end.result)
        for step in record.transitions:
            if step.event == "wait_over":
                self._wake((step.workflow_id, step.task_id))
        for task in [each for each in self._parked if self._attempts.states.get(each) != "parked"]:
            del self._parked[task]
        if any(step.after in _FINAL for step in record.transitions):
            for task, waiting in self._parked.items():
                if waiting.mode != "waits" and self._is_over(waiting) and task[0] not in self._attempts.stopped:
                    self._violation("not woken", f"{task} is parked, and {waiting} has happened")

    def _spawn(self, command: SpawnTasks, reply: TasksSpawned) -> None:
        live = self._attempts.live.get(command.fence)
        if live is None or live[1] != command.agent:
            told = f"fence {command.fence} of {command.agent} spawns; {live} is live"
            self._violation("spawn of a dead attempt", told)
            return
        workflow_id, parent = live[0]
        for child, position in zip(command.children, reply.positions, strict=True):
            task = (workflow_id, f"{parent}:{child.key}")
            before = self._numbers.setdefault(task, position)
            if before != position or self._places.setdefault((workflow_id, position), task) != task:
                self._violation("child twice", f"{task} is at {position}, and was at {before}")
            self.spawned += 1

    def _park(self, task: TaskKey, condition: bytes) -> None:
        told = msgspec.json.decode(condition)
        if "waits" in told:
            self._parked[task] = _ParkedWait("waits", ())
            return
        if told.get("budget"):
            self._unpaid[task] = None
            return
        numbers = [number for first, last in told["children"] for number in range(first, last + 1)]
        children = tuple([self._places[task[0], number] for number in numbers if (task[0], number) in self._places])
        self._parked[task] = _ParkedWait(told.get("mode", "all"), children)

    def _wake(self, task: TaskKey) -> None:
        if task in self._unpaid:
            del self._unpaid[task]
            return
        self.woken += 1
        waiting = self._parked.get(task)
        if waiting is None or not self._is_over(waiting):
            states = [] if waiting is None else [self._attempts.states.get(each) for each in waiting.children]
            self._violation("woken early", f"{task} goes on, and waits for {waiting}: {states}")

    def _is_over(self, waiting: _ParkedWait) -> bool:
        states = [self._attempts.states.get(child) for child in waiting.children]
        ended = [state for state in states if state in _FINAL]
        if waiting.mode == "any" and ended:
            return True
        if waiting.mode == "succeeded" and any(state != "succeeded" for state in ended):
            return True
        return len(ended) == len(states)

    def child_told(self, parent: TaskKey, key: str, number: int) -> None:
        """A program was told the number of a child that it has spawned."""
        child = (parent[0], f"{parent[1]}:{key}")
        self._told[child] = None
        if self._numbers.get(child) != number:
            self._violation("wrong child", f"{child} is told as {number}, it is at {self._numbers.get(child)}")

    def child_end_told(self, parent: TaskKey, child_id: str, state: str, result: bytes) -> None:
        """A program was told how a child ended."""
        child = (parent[0], child_id)
        known = self._attempts.results.get(child) if state == "succeeded" else b"null"
        if self._attempts.states.get(child) != state or (known is not None and known != result):
            there = f"{self._attempts.states.get(child)} with {known!r}"
            self._violation("wrong child", f"{child} is told as {state} with {result!r}, it is {there}")

    def check_end(self, name: str, machine: Machine) -> None:
        """Every child of which a program was told is in the state of a replica, unless its workflow was forgotten."""
        for workflow_id, child_id in self._told:
            workflow = machine.tables.workflows.get(workflow_id)
            if workflow is not None and child_id not in workflow.by_id:
                self._violation("child lost", f"{name} lacks {workflow_id}/{child_id}")
