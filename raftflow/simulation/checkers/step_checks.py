"""What must hold of durable steps. A model that knows nothing of the machine's tables follows commands and programs.

step of a dead attempt     a record came from an attempt that was not live
step twice                 a key got a second record
step ran again             a step ran although its record was acknowledged before the attempt asked for it
wrong step                 a program was told another result than the one that was recorded
step lost                  an acknowledged record is not in the state at the end
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.commands import RecordSteps
from raftflow.domain.replies import StepsRecorded
from raftflow.machine.read.steps import recorded_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine
    from raftflow.simulation.checkers.attempt_checks import AttemptModel
    from raftflow.simulation.world.observer import TaskKey

StepKey = tuple[str, int]


class StepChecks:
    """Follows the steps of all tasks.

    Args:
        violation: told what must never happen.
        attempts: the model of attempts.
    """

    def __init__(self, violation: Callable[[str, str], None], attempts: AttemptModel) -> None:
        self._violation = violation
        self._attempts = attempts
        self._recorded: dict[TaskKey, dict[StepKey, bytes]] = {}
        """Results that are in the log."""
        self._told: dict[TaskKey, dict[StepKey, int]] = {}
        """Records of which a program knows, and the moment from which it did."""
        self._moment = 0
        self.ran = 0
        self.found = 0
        """Steps that an attempt did not run, because an earlier one had."""

    def follow(self, command: AnyCommand, reply: AnyReply) -> None:
        """Follow a command that is applied for the first time."""
        if not isinstance(command, RecordSteps) or not isinstance(reply, StepsRecorded):
            return
        for step, verdict in zip(command.steps, reply.verdicts, strict=True):
            live = self._attempts.live.get(step.fence)
            if verdict.verdict != "recorded":
                continue
            if live is None or live[1] != command.agent:
                told = f"{step.name} {step.occurrence} of fence {step.fence} on {command.agent}; {live} is live"
                self._violation("step of a dead attempt", told)
                continue
            known = self._recorded.setdefault(live[0], {})
            if (step.name, step.occurrence) in known:
                self._violation("step twice", f"{live[0]} has a second record of {step.name} {step.occurrence}")
            known[step.name, step.occurrence] = step.result

    def step_asked(self, _task: TaskKey) -> int:
        """A program asks for a step. Returns the moment."""
        self._moment += 1
        return self._moment

    def step_ran(self, task: TaskKey, fence: int, key: StepKey, asked: int) -> None:
        """A program runs a step that it had asked for at that moment."""
        self.ran += 1
        since = self._told.get(task, {}).get(key)
        if since is not None and since < asked:
            self._violation("step ran again", f"fence {fence} of {task} runs {key}, which is recorded")

    def step_told(self, task: TaskKey, fence: int, key: StepKey, result: str) -> None:
        """A program was told that a step is recorded, with this result."""
        self._moment += 1
        self._told.setdefault(task, {}).setdefault(key, self._moment)
        self.found += not result.startswith(f"{fence} ")
        recorded = self._recorded.get(task, {}).get(key)
        if recorded != b'"%s"' % result.encode():
            self._violation(
                "wrong step", f"fence {fence} of {task} was told {result} of {key}, recorded: {recorded!r}"
            )

    def check_end(self, name: str, machine: Machine) -> None:
        """Everything that a program was told is in the state of a replica, unless its workflow was forgotten."""
        for (workflow_id, task_id), told in self._told.items():
            keys = recorded_keys(machine, workflow_id, task_id)
            if keys is not None and (lost := told.keys() - set(keys)):
                self._violation("step lost", f"{name} lacks {sorted(lost)} of {workflow_id}/{task_id}")
