"""Submissions, controls, reads and lists of workflows, as clients saw them."""

from __future__ import annotations

import collections
import math
from typing import TYPE_CHECKING, Any

from raftflow.chaos.checker.history.reader import fail, items, optional_integer, optional_text, table, text
from raftflow.chaos.checker.history.records import (
    RecordedWorkflow,
    SubmittedRequest,
    SubmittedTask,
    WrittenRequest,
    canonical,
)
from raftflow.chaos.checker.search.linearizability import TimedCall
from raftflow.chaos.checker.search.models import ABSENT, PRESENT, WORKFLOW_STATES, WorkflowModel
from raftflow.chaos.checker.task_reads import TaskReadChecks

if TYPE_CHECKING:
    from raftflow.chaos.checker.attempts import AttemptLog
    from raftflow.chaos.checker.findings import Findings
    from raftflow.chaos.checker.history.operations import HistoryOperation
    from raftflow.chaos.checker.search.searches import Searches

CONTROLS = frozenset({"cancel", "pause", "resume", "retry"})
WORKFLOW_VERBS = CONTROLS | {"submit", "read", "list"}
WRITES = CONTROLS | {"submit"}
_ENDS = frozenset({"succeeded", "failed", "any"})


class WorkflowChecks:
    """What clients asked of workflows, and what they were told."""

    def __init__(self, findings: Findings, attempts: AttemptLog) -> None:
        self._findings = findings
        self._task_reads = TaskReadChecks(findings, attempts)
        self.workflows: dict[str, RecordedWorkflow] = {}
        self.requests: dict[str, SubmittedRequest] = {}
        self.acknowledged: list[str] = []
        """Workflows whose submission was acknowledged, in that order."""
        self._index = -1
        """The greatest index that a completed operation showed."""
        self.restored_at = -math.inf

    def workflow(self, workflow: str) -> RecordedWorkflow:
        """Return what is known of a workflow."""
        found = self.workflows.get(workflow)
        if found is None:
            found = self.workflows[workflow] = RecordedWorkflow(workflow)
        return found

    # --- invocations

    def invoke(self, operation: HistoryOperation) -> None:
        """An operation begins."""
        value = operation.value
        if operation.verb == "submit":
            self._request(value).invoke(operation.op, operation.invoked)
            operation.value = {"request": value["request"]}
        elif operation.verb in CONTROLS:
            self._control(operation).invoke(operation.op, operation.invoked)
        elif operation.verb == "list":
            operation.floor = (len(self.acknowledged), self._index)
        else:
            operation.floor = (self.workflow(text(value, "workflow")).floor, self._index)

    def _request(self, value: dict[str, Any]) -> SubmittedRequest:
        name = text(value, "request")
        found = self.requests.get(name)
        if found is None:
            tasks = dict(_submitted(each) for each in items(value, "tasks"))
            found = SubmittedRequest(name, optional_text(value, "workflow_name"), tasks)
            self.requests[name] = found
        return found

    def _control(self, operation: HistoryOperation) -> WrittenRequest:
        workflow = self.workflow(text(operation.value, "workflow"))
        request = optional_text(operation.value, "request") or f"operation {operation.op}"
        key = (operation.verb, request)
        found = workflow.controls.get(key)
        if found is None:
            found = workflow.controls[key] = WrittenRequest(operation.verb, workflow.id)
        return found

    # --- completions

    def complete(self, operation: HistoryOperation, outcome: str, at: float, value: dict[str, Any]) -> None:
        """An operation ended."""
        if operation.verb in WRITES:
            is_submit = operation.verb == "submit"
            request = self.requests[operation.value["request"]] if is_submit else self._control(operation)
            if outcome == "fail":
                request.fail(operation.op)
            elif outcome == "ok":
                request.index = optional_integer(value, "index")
                if isinstance(request, SubmittedRequest):
                    self._created(request, text(value, "workflow"), at)
                request.acknowledge(operation.op, at)
                self._index = max(self._index, -1 if request.index is None else request.index)
        elif outcome == "ok":
            floor, index = operation.floor
            if operation.invoked > self.restored_at:
                self._check_index(operation, optional_integer(value, "index"), index, at)
            if operation.verb == "list":
                self._listed(operation, floor, items(value, "workflows"), at)
            else:
                self._read(operation, floor, value, at)

    def _created(self, request: SubmittedRequest, workflow: str, at: float) -> None:
        if request.workflow is not None and request.workflow != workflow:
            told = f"request {request.subject!r} made workflow {request.workflow!r} and workflow {workflow!r}"
            self._findings.add("duplicate", told, at)
            self.workflow(workflow).submitted = request
            return
        record = self.workflow(workflow)
        if record.submitted is not None and record.submitted is not request:
            told = f"requests {record.submitted.subject!r} and {request.subject!r} both made workflow {workflow!r}"
            self._findings.add("duplicate", told, at)
            request.workflow = workflow
            return
        if request.workflow is None:
            request.workflow = workflow
            self.acknowledged.append(workflow)
        record.submitted = request

    def _check_index(self, operation: HistoryOperation, index: int | None, floor: int, at: float) -> None:
        if index is None:
            return
        if index < floor:
            told = f"{operation.verb} {operation.op} shows index {index}, but {floor} was shown before it began"
            self._findings.add("went-back", told, at)
        self._index = max(self._index, index)

    def _listed(self, operation: HistoryOperation, floor: int, shown: list[Any], at: float) -> None:
        if not all(isinstance(workflow, str) for workflow in shown):
            fail("'workflows' must be a list of strings")
        present = set(shown)
        for workflow in self.acknowledged[:floor]:
            if workflow not in present and self._must_exist(workflow):
                told = f"list {operation.op} has no workflow {workflow!r}, which was acknowledged before it began"
                self._findings.add("lost", told, at)
        for workflow in shown:
            self.workflow(workflow).exists = True

    def _must_exist(self, workflow: str) -> bool:
        submitted = self.workflows[workflow].submitted
        return submitted is not None and submitted.acknowledged

    def _read(self, operation: HistoryOperation, floor: dict[str, Any], value: dict[str, Any], at: float) -> None:
        if not isinstance(value.get("found"), bool):
            fail("'found' must be true or false")
        workflow = self.workflow(operation.value["workflow"])
        state = ABSENT
        if value["found"]:
            state = optional_text(value, "state") or PRESENT
            if state != PRESENT and state not in WORKFLOW_STATES:
                fail(f"{state!r} is not a state of a workflow")
            workflow.exists = True
            workflow.name = optional_text(value, "name") or workflow.name
        if operation.invoked <= self.restored_at:
            return
        workflow.reads.append(TimedCall(operation.invoked, at, "read", None, state))
        if value["found"]:
            tasks = table(value, "tasks")
            self._task_reads.check(workflow, floor, tasks, (operation.invoked, at))

    # --- the end

    def restore(self, index: int, at: float) -> None:
        """The cluster was made again from what it knew at an index: later effects may be gone."""
        self.restored_at = at
        self._index = -1
        for request in self.requests.values():
            if request.acknowledged and (request.index is None or request.index > index):
                request.forget_acknowledgement()
                if request.workflow is not None:
                    self.workflows[request.workflow].forget_submission()
                    request.workflow = None
        for workflow in self.workflows.values():
            workflow.restored = True
            workflow.floor = {}
            for control in workflow.controls.values():
                if control.acknowledged and (control.index is None or control.index > index):
                    control.forget_acknowledgement()

    def judge_calls(self, searches: Searches) -> None:
        """Look for an order of the calls of every workflow."""
        model = WorkflowModel()
        for workflow in self.workflows.values():
            if workflow.restored or not workflow.reads:
                continue
            calls = list(workflow.reads)
            calls += [call for each in workflow.controls.values() if (call := each.call()) is not None]
            created = None if workflow.submitted is None else workflow.submitted.call()
            if created is None:
                # Which submission made it is not known: it may have been made at any time.
                created = TimedCall(-math.inf, math.inf, "submit")
            searches.judge(f"workflow {workflow.id!r}", [created, *calls], model)
            workflow.reads.clear()

    def attribute(self) -> None:
        """Find out which submissions without an answer made the workflows that no answer named."""
        by_name: dict[str, list[SubmittedRequest]] = collections.defaultdict(list)
        for request in self.requests.values():
            if request.workflow_name is not None:
                by_name[request.workflow_name].append(request)
        unnamed = []
        for workflow in self.workflows.values():
            if workflow.submitted is not None:
                continue
            candidates = by_name.get(workflow.name or "", [])
            if len(candidates) == 1:
                self._attribute_to(workflow, candidates[0])
            elif workflow.name is not None and not candidates:
                self._phantom(workflow, f"its name {workflow.name!r} was never submitted")
            elif workflow.exists:
                unnamed.append(workflow)
        possible = sum(request.workflow is None and request.began < math.inf for request in self.requests.values())
        for workflow in unnamed[possible:]:
            self._phantom(
                workflow, f"{len(unnamed)} workflows have no answer and {possible} submissions may be theirs"
            )

    def _attribute_to(self, workflow: RecordedWorkflow, request: SubmittedRequest) -> None:
        if request.workflow is not None:
            told = f"request {request.subject!r} made workflow {request.workflow!r} and workflow {workflow.id!r}"
            self._findings.add("duplicate", told, request.began)
        elif request.began == math.inf:
            self._phantom(workflow, f"request {request.subject!r} certainly failed")
        else:
            request.workflow = workflow.id
            workflow.submitted = request

    def _phantom(self, workflow: RecordedWorkflow, why: str) -> None:
        at = min((read.returned for read in workflow.reads), default=0.0)
        self._findings.add("phantom", f"workflow {workflow.id!r} exists: {why}", at)


def _submitted(task: Any) -> tuple[str, SubmittedTask]:
    if not isinstance(task, dict):
        fail("a task must be an object")
    ends = optional_text(task, "ends") or "succeeded"
    if ends not in _ENDS:
        fail(f"{ends!r} is not an end of a task")
    expect = canonical(task["expect"]) if "expect" in task else None
    needs = tuple(str(need) for need in items(task, "needs"))
    parent = optional_text(task, "parent")
    return text(task, "id"), SubmittedTask(needs, task.get("backup") is True, expect, ends, parent)
