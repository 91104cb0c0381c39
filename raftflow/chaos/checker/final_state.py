"""The state of the cluster at the end, when all faults are undone and everything had time to finish."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from raftflow.chaos.checker.history.reader import fail, items, optional_integer, optional_text, table, text
from raftflow.chaos.checker.history.records import canonical
from raftflow.chaos.checker.search.models import ENDED_STATES

if TYPE_CHECKING:
    from raftflow.chaos.checker.attempts import AttemptLog
    from raftflow.chaos.checker.findings import Findings
    from raftflow.chaos.checker.history.reader import HistoryLine
    from raftflow.chaos.checker.history.records import RecordedWorkflow, SubmittedTask
    from raftflow.chaos.checker.workflows import WorkflowChecks

_REPLICAS = {
    "audit_verified": "audits and ledgers are not verified",
    "digests_equal": "the digests of the replicas differ",
    "ledger_ok": "the ledger is wrong",
}


_PROBLEMS_MAX = 3


class FinalChecks:
    """Compares the final state with what was acknowledged."""

    def __init__(self, findings: Findings, workflows: WorkflowChecks, attempts: AttemptLog) -> None:
        self._findings = findings
        self._workflows = workflows
        self._attempts = attempts
        self._at: float | None = None
        self._states: dict[str, tuple[str, dict[str, str]]] = {}
        """The state of each workflow and of its tasks."""

    def note(self, line: HistoryLine, at: float) -> None:
        """The final state."""
        if self._at is not None:
            fail("there are two final states")
        self._at = at
        for workflow_id, shown in table(line, "workflows").items():
            if not isinstance(shown, dict):
                fail("a workflow must be an object")
            workflow = self._workflows.workflow(workflow_id)
            workflow.exists = True
            workflow.name = optional_text(shown, "name") or workflow.name
            tasks = {task: self._task(workflow, task, each, at) for task, each in table(shown, "tasks").items()}
            self._states[workflow_id] = (text(shown, "state"), tasks)
        problems = "; ".join(str(each) for each in items(line, "problems")[:_PROBLEMS_MAX])
        for key, told in _REPLICAS.items():
            if line.get(key) is False:
                self._findings.add("replicas", f"{told}: {problems or 'the history does not say why'}", at)

    def _task(self, workflow: RecordedWorkflow, task: str, shown: Any, at: float) -> str:
        if not isinstance(shown, dict):
            fail("a task must be an object")
        state = text(shown, "state")
        succeeded = []
        result = canonical(shown["result"]) if shown.get("result") is not None else None
        for each in items(shown, "attempts"):
            if not isinstance(each, dict):
                fail("an attempt must be an object")
            fence, attempt = optional_integer(each, "fence"), optional_integer(each, "attempt")
            if fence is not None:
                record = self._attempts.known((workflow.id, task), attempt, fence, at)
                if each.get("state") == "succeeded":
                    succeeded.append(record)
        number = optional_integer(shown, "attempt")
        if state == "succeeded" and not succeeded and number and shown.get("cached") is not True:
            succeeded.append(self._attempts.numbered((workflow.id, task), number))
        for record in succeeded:
            record.succeeded = min(record.succeeded, at)
            self._attempts.tell_result(record, result, at)
        if shown.get("cached") is True:
            self._attempts.cached.add((workflow.id, task))
        elif succeeded and state != "succeeded":
            told = f"task {workflow.id}/{task} is {state}, but its attempt {succeeded[0].attempt} succeeded"
            self._findings.add("wrong-end", told, at)
        before = workflow.floor.get(task)
        if before is not None and before.state == "succeeded" != state:
            told = f"task {workflow.id}/{task} had succeeded, and is {state} at the end"
            self._findings.add("went-back", told, at)
        spec = workflow.task(task)
        if spec is not None and spec.expect is not None and state == "succeeded":
            self._check_result(workflow, task, shown, spec.expect)
        return state

    def _check_result(self, workflow: RecordedWorkflow, task: str, shown: dict[str, Any], expect: str) -> None:
        if "result" in shown and canonical(shown["result"]) != expect and "result_hash" not in shown:
            told = f"task {workflow.id}/{task} has the result {canonical(shown['result'])}, it must be {expect}"
            self._findings.add("wrong-result", told, self._at or 0.0)

    # --- judgement

    def check(self) -> None:
        """Judge the final state, once it is known which submission made which workflow."""
        if self._at is None:
            if self._workflows.requests:
                self._findings.leave_undecided("there is no final state: ends and results were not judged")
            return
        for request in self._workflows.requests.values():
            if request.acknowledged and request.workflow not in self._states:
                told = f"workflow {request.workflow!r} of request {request.subject!r} was acknowledged, and is gone"
                self._findings.add("lost", told, self._at)
        for workflow_id, (state, tasks) in self._states.items():
            workflow = self._workflows.workflow(workflow_id)
            self._check_workflow(workflow, state, tasks)

    def _check_workflow(self, workflow: RecordedWorkflow, state: str, tasks: dict[str, str]) -> None:
        at = self._at or 0.0
        open_tasks = sorted(task for task, each in tasks.items() if each not in ENDED_STATES)
        if state not in ENDED_STATES or open_tasks:
            left = f", tasks that have not ended: {', '.join(open_tasks[:5])}" if open_tasks else ""
            paused = workflow.controls_of("pause") and state == "paused"
            if not paused:
                self._findings.add("unfinished", f"workflow {workflow.id!r} is {state} at the end{left}", at)
            return
        why = self._wrong_end(workflow, state, tasks)
        if why:
            self._findings.add("wrong-end", f"workflow {workflow.id!r} ended as {state}, {why}", at)
        if workflow.submitted is None:
            return
        self._check_tasks(workflow, tasks)

    def _wrong_end(self, workflow: RecordedWorkflow, state: str, tasks: dict[str, str]) -> str:
        """Say why a workflow cannot have ended so, an empty string if it can."""
        cancels = workflow.controls_of("cancel")
        retries = workflow.controls_of("retry")
        if state == "cancelled":
            return "" if cancels else "but nobody cancelled it"
        if workflow.cancelled_at() < math.inf and not retries:
            return f"but a cancel was acknowledged at {workflow.cancelled_at():.3f}"
        failed = sorted(task for task, each in tasks.items() if each != "succeeded")
        if state == "succeeded":
            return f"but these tasks did not succeed: {', '.join(failed[:5])}" if failed else ""
        if not failed:
            return "but all of its tasks succeeded"
        if workflow.submitted is not None and all(
            task.ends == "succeeded" for task in workflow.submitted.tasks.values()
        ):
            return "but all of its tasks can succeed" if not cancels else ""
        return ""

    def _check_tasks(self, workflow: RecordedWorkflow, tasks: dict[str, str]) -> None:
        at = self._at or 0.0
        submitted = workflow.submitted.tasks if workflow.submitted is not None else {}
        expected = {name for name, task in submitted.items() if name in tasks or _must_exist(task, tasks)}
        if tasks and tasks.keys() != expected:
            different = sorted(tasks.keys() ^ expected)
            told = f"workflow {workflow.id!r} was submitted with other tasks: {', '.join(different[:5])}"
            self._findings.add("wrong-end", told, at)
            return
        for name, state in tasks.items():
            task = submitted[name]
            if state == "succeeded" and task.ends == "failed":
                self._findings.add("wrong-end", f"task {workflow.id}/{name} succeeded, but it must fail", at)
            if state == "failed" and task.ends == "succeeded":
                self._findings.add("wrong-end", f"task {workflow.id}/{name} failed, but it must succeed", at)
            missing = [need for need in task.needs if tasks.get(need) != "succeeded"]
            if state == "succeeded" and missing:
                told = f"task {workflow.id}/{name} succeeded, but {missing[0]!r}, which it needs, did not"
                self._findings.add("wrong-end", told, at)


def _must_exist(task: SubmittedTask, tasks: dict[str, str]) -> bool:
    """Tell whether a task must be there at the end: children need be only where their parent has succeeded."""
    return task.parent is None or tasks.get(task.parent) == "succeeded"
