"""Judges attempts when the whole history is known: overlaps, order, cancels, accepted ends and their effects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raftflow.chaos.checker.attempts import by_workflow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftflow.chaos.checker.attempts import AttemptLog, AttemptRecord
    from raftflow.chaos.checker.findings import Findings
    from raftflow.chaos.checker.history.bounds import Bounds, FaultWindows
    from raftflow.chaos.checker.history.records import RecordedWorkflow, SubmittedTask


class AttemptChecks:
    """What attempts must have done and must not have done."""

    def __init__(
        self,
        findings: Findings,
        bounds: Bounds,
        faults: FaultWindows,
        workflows: Mapping[str, RecordedWorkflow],
    ) -> None:
        self._findings = findings
        self._bounds = bounds
        self._faults = faults
        self._workflows = workflows

    def check(self, attempts: AttemptLog) -> None:
        """Judge all attempts."""
        attempts.check_growth()
        for (workflow_id, task_id), records in attempts.by_task.items():
            workflow = self._workflows.get(workflow_id)
            task = None if workflow is None else workflow.task(task_id)
            self._check_overlaps(records, task)
            self._check_accepted(records, task, has_started=any(each.start < math.inf for each in records))
        for workflow_id, records in by_workflow(attempts).items():
            workflow = self._workflows.get(workflow_id)
            if workflow is not None:
                self._check_order(workflow, records)
                self._check_cancelled(workflow, records)

    def _check_overlaps(self, records: list[AttemptRecord], task: SubmittedTask | None) -> None:
        """An older attempt is silent when a newer one has started."""
        if len(records) < 2 or (self._bounds.backups and (task is None or task.backup)):
            return
        records.sort(key=lambda each: each.fence)
        grace_s = self._bounds.overlap_s
        for position, newer in enumerate(records):
            for older in records[:position]:
                heard = older.alive
                if math.inf in {older.start, newer.start} or heard <= newer.start + grace_s:
                    continue
                if self._faults.excuses(older.agent, older.start, heard, grace_s, late=older.late):
                    continue
                told = (
                    f"{older.name} on {older.agent or 'an agent'} was heard at {heard:.3f}, but attempt "
                    f"{newer.attempt} (fence {newer.fence}) had started at {newer.start:.3f}"
                )
                self._findings.add("overlap", told, heard)

    def _check_accepted(self, records: list[AttemptRecord], task: SubmittedTask | None, *, has_started: bool) -> None:
        """One attempt is the task's success: it came to its end, the last effect is its own, the result is right."""
        accepted = [each for each in records if each.succeeded < math.inf]
        for one in accepted:
            if task is not None and task.expect is not None and one.result is not None:
                self._check_result(one, task.expect)
        if not accepted:
            return
        if len(accepted) > 1:
            names = " and ".join(each.name for each in accepted)
            self._findings.add("two-ends", f"{names} both succeeded", max(each.succeeded for each in accepted))
        one = accepted[0]
        if has_started and one.end > one.succeeded + self._bounds.overlap_s:
            ended = "never came to its end" if one.end == math.inf else f"came to its end at {one.end:.3f}"
            told = f"{one.name} was shown as succeeded at {one.succeeded:.3f}, but it {ended}"
            self._findings.add("accepted-end", told, one.succeeded)
        effects = [each for each in records if each.effect]
        if not effects:
            return
        last = max(effects, key=lambda each: each.fence)
        if last is not one and (not one.effect or task is None or not (self._bounds.backups and task.backup)):
            told = f"{one.name} succeeded, but the last accepted effect is that of fence {last.fence}"
            self._findings.add("effect", told, one.succeeded)

    def _check_result(self, one: AttemptRecord, expect: str) -> None:
        if not (one.result or "").startswith("hash:") and one.result != expect:
            told = f"{one.name} has the result {one.result}, it must be {expect}"
            self._findings.add("wrong-result", told, one.succeeded)

    def _check_order(self, workflow: RecordedWorkflow, records: list[AttemptRecord]) -> None:
        """No task starts before an attempt of each task that it needs has come to its end."""
        if workflow.submitted is None or not any(task.needs for task in workflow.submitted.tasks.values()):
            return
        ended: dict[str, float] = {}
        for record in records:
            ended[record.task[1]] = min(ended.get(record.task[1], math.inf), record.end)
        for record in records:
            task = workflow.task(record.task[1])
            for need in () if task is None or record.start == math.inf else task.needs:
                if ended.get(need, -math.inf) > record.start + self._bounds.overlap_s:
                    told = f"{record.name} started at {record.start:.3f}, but {need!r}, which it needs, had not ended"
                    self._findings.add("order", told, record.start)

    def _check_cancelled(self, workflow: RecordedWorkflow, records: list[AttemptRecord]) -> None:
        """After an acknowledged cancel no attempt starts, and no task succeeds that had not ended."""
        until = workflow.cancelled_at() + self._bounds.cancel_s
        if until == math.inf:
            return
        for record in records:
            if until < record.start < math.inf and not workflow.may_be_retried_between(0.0, record.start):
                told = f"{record.name} started at {record.start:.3f}, {self._cancel(workflow)}"
                self._findings.add("cancel", told, record.start)
            if (
                record.succeeded < math.inf
                and until < record.end < math.inf
                and not workflow.may_be_retried_between(0.0, record.end)
            ):
                told = f"{record.name} came to its end at {record.end:.3f} and succeeded, {self._cancel(workflow)}"
                self._findings.add("cancel", told, record.end)

    def _cancel(self, workflow: RecordedWorkflow) -> str:
        return (
            f"but the cancel was acknowledged at {workflow.cancelled_at():.3f}, more than "
            f"{self._bounds.cancel_s:g} s before"
        )
