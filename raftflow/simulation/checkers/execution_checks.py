"""What must hold of the programs that agents run, and of the deadlines and ends of attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.states import AttemptOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import OfferEnds, ReportAttempts
    from raftflow.domain.contract.views import AuditRecord
    from raftflow.domain.replies import Reported
    from raftflow.simulation.checkers.attempt_checks import AttemptModel
    from raftflow.simulation.world.observer import TaskKey


class ExecutionChecks:
    """Compares the programs that run with what the log says of their attempts.

    Args:
        violation: told what must never happen.
        now_s: the simulated time.
        attempts: the model of attempts.
    """

    def __init__(
        self, violation: Callable[[str, str], None], now_s: Callable[[], float], attempts: AttemptModel
    ) -> None:
        self._violation = violation
        self._now_s = now_s
        self._attempts = attempts
        self._running: dict[TaskKey, dict[int, str]] = {}
        """Who runs a task at the moment: fence to agent."""
        self._ended: dict[int, str] = {}
        """Fence to how the program itself ended."""
        self._started_s: dict[int, float] = {}
        """When attempts began to run, by the log."""

    def execution_started(self, agent: str, task: TaskKey, fence: int) -> None:
        """A program was started.

        A backup may run beside the first attempt. If it parks, the task may run again before the agent of the first
        attempt has heard that it is given up.
        """
        running = self._running.setdefault(task, {})
        backups, outrun = self._attempts.backups, self._attempts.outrun
        for other, holder in running.items():
            if len(running) > 1 or not (fence in backups or other in backups or other in outrun):
                self._violation(
                    "two agents",
                    f"{agent} starts {task} with fence {fence} while {holder} runs it with fence {other}",
                )
        running[fence] = agent

    def inputs_given(self, task: TaskKey, fence: int, inputs: dict[str, bytes]) -> None:
        """A program was given inputs: they are the results of what its task needs, as of its placement."""
        due = self._attempts.due_inputs.get(fence)
        if due is None:
            self._violation("inputs", f"fence {fence} of {task} runs, and no replica has placed it")
        elif inputs.keys() != due.keys() or any(
            result is not None and inputs[need] != result for need, result in due.items()
        ):
            self._violation("inputs", f"fence {fence} of {task} was given {inputs}, and should have been given {due}")

    def execution_ended(self, agent: str, task: TaskKey, fence: int, how: str) -> None:
        """A program ended, however it ended."""
        self._ended[fence] = how
        running = self._running.get(task, {})
        if running.get(fence) == agent:
            del running[fence]

    def check_deadlines(self, record: AuditRecord, *, fired: bool) -> None:
        """An attempt has the time that its task gives it, whatever the wall clocks say."""
        now_s = self._now_s()
        for step in record.transitions:
            if step.event in {"failed_retry", "failed_final"} and fired:
                took_ms = (now_s - self._started_s.get(step.fence, now_s)) * 1000
                may_ms = self._attempts.timeouts.get((step.workflow_id, step.task_id), 0)
                if took_ms < may_ms:
                    self._violation(
                        "early deadline",
                        f"{step.workflow_id}/{step.task_id} was given up after {took_ms:.0f} ms of {may_ms}",
                    )
            elif step.after == "running":
                self._started_s.setdefault(step.fence, now_s)

    def check_ends(self, command: ReportAttempts | OfferEnds, reply: Reported) -> None:
        """The program of an accepted success must have run to its end."""
        for end, verdict in zip(command.ends, reply.verdicts, strict=True):
            ran = self._ended.get(end.fence)
            if verdict.verdict == "accepted" and end.outcome is AttemptOutcome.SUCCEEDED and ran != "succeeded":
                self._violation("wrong end", f"fence {end.fence} was accepted as a success, but its program {ran}")
