"""What reads show of tasks never goes back in real time, and an end stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftflow.chaos.checker.history.reader import fail, optional_integer, optional_text, text
from raftflow.chaos.checker.history.records import HASHED, SeenTask, canonical, differs
from raftflow.chaos.checker.search.models import ENDED_STATES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftflow.chaos.checker.attempts import AttemptLog
    from raftflow.chaos.checker.findings import Findings
    from raftflow.chaos.checker.history.records import RecordedWorkflow

TASK_STATES = frozenset({"waiting", "ready", "running", "parked"}) | ENDED_STATES


class TaskReadChecks:
    """Compares what reads show of tasks."""

    def __init__(self, findings: Findings, attempts: AttemptLog) -> None:
        self._findings = findings
        self._attempts = attempts

    def check(
        self,
        workflow: RecordedWorkflow,
        floor: Mapping[str, SeenTask],
        tasks: Mapping[str, Any],
        interval: tuple[float, float],
    ) -> None:
        """Compare the tasks of one answer with what was shown before the read began, and remember them."""
        invoked, returned = interval
        newer: dict[str, SeenTask] = {}
        for task, shown in tasks.items():
            seen = _seen(shown, invoked, returned)
            before = floor.get(task)
            if before is not None and (why := _went_back(workflow, before, seen)):
                self._findings.add("went-back", f"task {workflow.id}/{task}: {why}", returned)
            if workflow.submitted is not None and task not in workflow.submitted.tasks:
                self._findings.add("phantom", f"task {workflow.id}/{task} was never submitted", returned)
            self._check_cancelled(workflow, task, seen)
            if seen.attempt:
                self._attempts.shown(workflow.id, task, seen, cached=shown.get("cached") is True)
            if _is_newer(workflow.floor.get(task), seen):
                newer[task] = seen
        if newer:
            # Reads that are under way keep the table that they began with.
            workflow.floor = {**workflow.floor, **newer}

    def _check_cancelled(self, workflow: RecordedWorkflow, task: str, seen: SeenTask) -> None:
        """A task that has no attempt under way is cancelled together with its workflow, at once."""
        if seen.state != "waiting" or not workflow.controls:
            return
        cancelled = workflow.cancelled_at()
        if cancelled < seen.invoked and not workflow.may_be_retried_between(0.0, seen.returned):
            told = f"task {workflow.id}/{task} still waits after the cancel that was acknowledged at {cancelled:.3f}"
            self._findings.add("cancel", told, seen.returned)


def _seen(shown: Any, invoked: float, returned: float) -> SeenTask:
    if not isinstance(shown, dict):
        fail("a task must be an object")
    state = text(shown, "state")
    if state not in TASK_STATES:
        fail(f"{state!r} is not a state of a task")
    hashed = optional_text(shown, "result_hash")
    result = None if hashed is None else HASHED + hashed
    if shown.get("result") is not None:
        result = canonical(shown["result"])
    fence = optional_integer(shown, "fence")
    return SeenTask(
        optional_integer(shown, "attempt") or 0, -1 if fence is None else fence, state, result, invoked, returned
    )


def _went_back(workflow: RecordedWorkflow, before: SeenTask, seen: SeenTask) -> str:
    """Say how an answer shows less than an earlier one, an empty string if it does not."""
    if seen.attempt < before.attempt:
        return f"attempt {before.attempt} was shown, and later attempt {seen.attempt}"
    if 0 <= seen.fence < before.fence:
        return f"fence {before.fence} was shown, and later fence {seen.fence}"
    if before.state not in ENDED_STATES:
        return ""
    if before.state == "succeeded":
        if seen.state != "succeeded":
            return f"it had succeeded, and later was {seen.state}"
        if (seen.attempt, seen.fence) != (before.attempt, before.fence):
            return f"attempt {before.attempt} had succeeded, and later attempt {seen.attempt}"
        if differs(before.result, seen.result):
            return f"its result was {before.result}, and later {seen.result}"
    elif seen.state != before.state and not workflow.may_be_retried_between(before.invoked, seen.returned):
        return f"it had ended as {before.state}, and later was {seen.state} without a retry"
    return ""


def _is_newer(known: SeenTask | None, seen: SeenTask) -> bool:
    if known is None:
        return True
    if (seen.attempt, seen.fence) != (known.attempt, known.fence):
        return seen.attempt > known.attempt
    if (seen.state in ENDED_STATES) != (known.state in ENDED_STATES):
        return seen.state in ENDED_STATES
    return seen.state == "succeeded" != known.state or seen.invoked > known.invoked
