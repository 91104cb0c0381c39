"""Durable steps and children, as attempts told them: what is known does not run again.

A message of a step comes when its function runs (`ran`), and when its result is known (`known`): its record is in the
log by then. A message of a child comes when its parent is given its result.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from raftflow.chaos.checker.history.reader import fail, integer, text
from raftflow.chaos.checker.history.records import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftflow.chaos.checker.attempts import AttemptLog, TaskKey
    from raftflow.chaos.checker.findings import Findings
    from raftflow.chaos.checker.history.bounds import Bounds
    from raftflow.chaos.checker.history.reader import HistoryLine
    from raftflow.chaos.checker.history.records import RecordedWorkflow

StepKey = tuple[str, str, str]
"""Workflow, task, and name of the step."""


class _Known(NamedTuple):
    """When a result was first told to an attempt of the task."""

    at: float
    fence: int
    value: str


class KnownResultChecks:
    """Follows steps while the history is read; children are judged when all attempts are known."""

    def __init__(
        self, findings: Findings, bounds: Bounds, attempts: AttemptLog, workflows: Mapping[str, RecordedWorkflow]
    ) -> None:
        self._findings = findings
        self._bounds = bounds
        self._attempts = attempts
        self._workflows = workflows
        self._known: dict[StepKey, _Known] = {}
        self._children: dict[TaskKey, _Known] = {}
        self.ran = 0
        self.known = 0
        self.gathered = 0

    def step(self, line: HistoryLine, at: float) -> None:
        """A step runs, or is known."""
        workflow, task, step, fence = _about(line, "step")
        event = text(line, "event")
        known = self._known.get((workflow, task, step))
        name = f"step {step!r} of task {workflow}/{task}"
        if event == "ran":
            self.ran += 1
            # An older attempt may be late. One that began after the record must have found it.
            if known is not None and fence >= known.fence:
                told = f"{name} ran again in fence {fence}, and was known to fence {known.fence} at {known.at:.3f}"
                self._findings.add("step", told, at)
        elif event == "known":
            self.known += 1
            value = canonical(line.get("value"))
            if known is None:
                self._known[workflow, task, step] = _Known(at, fence, value)
            elif known.value != value:
                told = f"{name} has the result {value} in fence {fence}, and had {known.value} in fence {known.fence}"
                self._findings.add("step", told, at)
        else:
            fail(f"{event!r} is not an event of a step")

    def child(self, line: HistoryLine, at: float) -> None:
        """A parent is given the result of a child."""
        workflow, task, child, fence = _about(line, "child")
        self.gathered += 1
        value = canonical(line.get("value"))
        submitted = self._workflows.get(workflow)
        spec = None if submitted is None else submitted.task(child)
        name = f"child {workflow}/{child}"
        if spec is not None and spec.parent != task:
            self._findings.add("child", f"{name} was given to task {task!r}, which is not its parent", at)
        if spec is not None and spec.expect not in {None, value}:
            told = f"{name} has the result {value}, as its parent was told; it must be {spec.expect}"
            self._findings.add("wrong-result", told, at)
        before = self._children.setdefault((workflow, child), _Known(at, fence, value))
        if before.value != value:
            told = f"{name} had the result {before.value} for its parent, and has {value}"
            self._findings.add("child", told, at)

    def restore(self) -> None:
        """The cluster was made again: what came after the snapshot is gone, and what was known may run again."""
        self._known.clear()
        self._children.clear()

    def check(self) -> None:
        """Judge the children, now that all attempts are known."""
        for key, known in self._children.items():
            records = self._attempts.by_task.get(key, [])
            name = f"child {key[0]}/{key[1]}"
            ended = [each for each in records if each.end <= known.at + self._bounds.overlap_s]
            if not ended:
                told = f"the parent of {name} was given its result, but no attempt of it had come to its end"
                self._findings.add("child", told, known.at)
                continue
            newest = max(each.fence for each in ended)
            for record in records:
                if record.fence > newest and known.at < record.start < math.inf:
                    told = f"{record.name} started at {record.start:.3f}, though its parent had its result before"
                    self._findings.add("child", told, record.start)


def _about(line: HistoryLine, key: str) -> tuple[str, str, str, int]:
    return text(line, "workflow"), text(line, "task"), text(line, key), integer(line, "fence")
