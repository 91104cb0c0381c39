"""The part of the client that submits workflows, reads them and their tasks, and waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from raftflow.client.bundle_calls import BundleCalls
from raftflow.client.errors import NotFound, UsageError, WorkflowFailed, too_late
from raftflow.client.http.calls import new_key
from raftflow.client.operation_calls import PAGE_SIZE
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import (
    BudgetRequest,
    BudgetView,
    PriorityRequest,
    TaskExplanation,
    TaskLog,
    TaskPage,
    TaskView,
    WorkflowCreated,
    WorkflowPage,
    WorkflowView,
)
from raftflow.domain.values.code_bundle import BundleFile
from raftflow.sdk.builder import HasDocument
from raftflow.sdk.code import CodeBundle, bundle_of

if TYPE_CHECKING:
    from raftflow.client.transport import Transport

LOG_PIECE_BYTES = 256 * 1024
"""Bytes of one piece of output."""

_WATCH_FIRST_S, _WATCH_MAX_S = 0.05, 0.5
_HOLD_S = 5.0
"""How long a replica is asked to hold an answer at most. Below the time that an answer may take."""


class AsyncWorkflowRun(WorkflowCreated, kw_only=True, dict=True):
    """A workflow that was submitted: its id, warnings, and what `AsyncClient` can say of it.

    >>> async def root():
    ...     async with raftflow.AsyncClient() as client:
    ...         task = {"id": "root", "python": "math:sqrt", "args": [16]}
    ...         run = await client.submit({"name": "roots", "tasks": [task]})
    ...         return await run.results()
    >>> asyncio.run(root())
    {'root': 4.0}
    """

    async def wait(self, *, timeout_s: float | None = None, check: bool = True) -> WorkflowView:
        """Wait until it has ended; see `WorkflowCalls.wait`."""
        return await self._client.wait(self.id, timeout_s=timeout_s, check=check)

    async def results(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait until it has succeeded, as `wait` does, and return all results by task id."""
        await self.wait(timeout_s=timeout_s)
        return await self._client.results(self.id)

    @property
    def _client(self) -> WorkflowCalls:
        client = self.__dict__["client"]
        assert isinstance(client, WorkflowCalls)  # noqa: S101 - `WorkflowCalls.submit` put it there
        return client


class WorkflowCalls(BundleCalls):
    """Methods of `AsyncClient`."""

    _transport: Transport

    async def submit(
        self, workflow: Mapping[str, Any] | HasDocument, *, idempotency_key: str | None = None
    ) -> AsyncWorkflowRun:
        """Submit a workflow document (or a `Workflow`). Return its id, its warnings, and methods to wait for it.

        Your own key makes the submission safe to repeat across calls and processes: the same key gives the same
        workflow. Raises `Refused` with every fault if the document is broken. The code of the client, if it has
        some, goes with the workflow, unless the document names its own.
        """
        if not isinstance(workflow, Mapping) and not hasattr(workflow, "document"):
            raise UsageError(f"a workflow is a dict or a `Workflow`, not {workflow!r:.80}")
        document = workflow if isinstance(workflow, Mapping) else workflow.document()
        main_files = getattr(workflow, "main_files", tuple)
        created = await self._submit(document, main_files, new_key() if idempotency_key is None else idempotency_key)
        run = AsyncWorkflowRun(id=created.id, warnings=created.warnings)
        run.__dict__["client"] = self
        return run

    async def _submit(
        self, document: Mapping[str, Any], main_files: Callable[[], tuple[BundleFile, ...]], key: str
    ) -> WorkflowCreated:
        """Submit a document, after its code: that of the client, and the files of the program that it needs."""
        bundle = None
        if document.get("code") is None:
            bundle = await asyncio.to_thread(self._bundle_with, main_files)
        if bundle is None:
            return await self._calls.call(operations.workflows.SUBMIT_WORKFLOW, body=document, idempotency_key=key)
        document = {**document, "code": bundle.digest}
        await self._ensure_bundle(bundle)
        try:
            return await self._calls.call(operations.workflows.SUBMIT_WORKFLOW, body=document, idempotency_key=key)
        except NotFound:  # the cluster has forgotten the bundle
            await self._send_bundle(bundle)
            return await self._calls.call(operations.workflows.SUBMIT_WORKFLOW, body=document, idempotency_key=key)

    def _bundle_with(self, main_files: Callable[[], tuple[BundleFile, ...]]) -> CodeBundle | None:
        """Return the code that goes with a workflow, None for none."""
        more = main_files()
        if self._code is not None:
            return self._code.bundle(more)
        return bundle_of(list(more)) if more else None

    async def workflow(self, workflow_id: str) -> WorkflowView:
        """Return one workflow: state, counts, times. Raises `NotFound`."""
        return await self._calls.call(operations.workflows.SHOW_WORKFLOW, workflow_id)

    async def _workflow_within(self, workflow_id: str, wait_s: float) -> tuple[WorkflowView, bool]:
        """Return a workflow as soon as it has ended, at the latest after `wait_s`.

        The second value tells whether the replica waited at all: it does not have to.
        """
        asked_s = time.monotonic()
        wait_s = min(wait_s, _HOLD_S, self._transport.timeout_s / 2)
        view = await self._calls.call(
            operations.workflows.SHOW_WORKFLOW, workflow_id, params={"wait_ms": int(wait_s * 1000)}
        )
        return view, time.monotonic() - asked_s >= wait_s / 2

    async def workflows_page(
        self, *, state: str | None = None, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> WorkflowPage:
        """Return one page of the workflows, newest first."""
        params = {"state": state, "limit": limit, "cursor": cursor}
        return await self._calls.call(operations.workflows.LIST_WORKFLOWS, params=params)

    def workflows(self, *, state: str | None = None, limit: int | None = None) -> AsyncGenerator[WorkflowView, None]:
        """Yield the workflows, newest first, all or at most `limit` of them."""
        return self._calls.entries(operations.workflows.LIST_WORKFLOWS, params={"state": state}, limit=limit)

    async def tasks_page(self, workflow_id: str, *, limit: int = PAGE_SIZE, cursor: str | None = None) -> TaskPage:
        """Return one page of a workflow's tasks, in document order."""
        return await self._calls.call(
            operations.tasks.LIST_TASKS, workflow_id, params={"limit": limit, "cursor": cursor}
        )

    async def tasks(self, workflow_id: str) -> list[TaskView]:
        """Return all tasks of a workflow, in document order. Raises `NotFound`."""
        return [task async for task in self._calls.entries(operations.tasks.LIST_TASKS, workflow_id)]

    async def results(self, workflow_id: str) -> dict[str, Any]:
        """Return the results of the tasks that have succeeded by now, by task id in document order; None for none."""
        tasks = await self.tasks(workflow_id)
        return {task.id: task.result for task in tasks if task.state == "succeeded"}

    async def task(self, workflow_id: str, task_id: str) -> TaskView:
        """Return one task with the history of its attempts. Raises `NotFound`."""
        return await self._calls.call(operations.tasks.SHOW_TASK, workflow_id, task_id)

    async def task_log(
        self,
        workflow_id: str,
        task_id: str,
        stream: Literal["stdout", "stderr"] = "stdout",
        *,
        attempt: int | None = None,
        offset: int = 0,
        since_ms: int | None = None,
    ) -> TaskLog:
        """Return at most `LOG_PIECE_BYTES` of an attempt's output, from a byte on; of the newest by default.

        `content()` of the answer gives the bytes, `next` the offset to ask for next. With `since_ms` (milliseconds
        since 1970) there are no bytes, and `next` is where output begins that came at this time or later.
        """
        params: dict[str, str | int | None] = {"stream": stream, "attempt": attempt, "offset": offset}
        params |= {"since_ms": since_ms, "limit": LOG_PIECE_BYTES}
        log = await self._calls.call(operations.tasks.FETCH_TASK_LOG, workflow_id, task_id, params=params)
        if log.next is None:  # of an older replica
            log.next = min(offset + len(log.text.encode()), max(log.size, offset))
        return log

    async def explain(self, workflow_id: str, task_id: str) -> TaskExplanation:
        """Explain why a task is in its state and place."""
        return await self._calls.call(operations.tasks.EXPLAIN_TASK, workflow_id, task_id)

    async def cancel(self, workflow_id: str) -> WorkflowView:
        """Cancel a workflow: what has not started never will, running attempts are told to stop."""
        return await self._calls.call(operations.workflows.CANCEL_WORKFLOW, workflow_id)

    async def pause(self, workflow_id: str) -> WorkflowView:
        """Start nothing new of a workflow; running attempts continue."""
        return await self._calls.call(operations.workflows.PAUSE_WORKFLOW, workflow_id)

    async def resume(self, workflow_id: str) -> WorkflowView:
        """Continue a paused workflow."""
        return await self._calls.call(operations.workflows.RESUME_WORKFLOW, workflow_id)

    async def retry(self, workflow_id: str) -> WorkflowView:
        """Run the failed and cancelled tasks of a finished workflow again."""
        return await self._calls.call(operations.workflows.RETRY_WORKFLOW, workflow_id)

    async def set_priority(self, workflow_id: str, priority: int) -> WorkflowView:
        """Change the priority of a workflow, 0 to 100. Tasks that have not started take their new place at once."""
        return await self._calls.call(
            operations.workflows.PRIORITIZE_WORKFLOW, workflow_id, body=PriorityRequest(priority=priority)
        )

    async def budget(self, workflow_id: str) -> BudgetView:
        """Return what a workflow may spend, what it has spent, and by which task. Raises `NotFound`."""
        return await self._calls.call(operations.budgets.SHOW_BUDGET, workflow_id)

    async def raise_budget(
        self,
        workflow_id: str,
        limits: Mapping[str, float | str] | None = None,
        *,
        add: Mapping[str, float | str] | None = None,
    ) -> BudgetView:
        """Raise budgets of a workflow: to new limits, or by how much comes to them. It goes on if it waited for that.

        Amounts are numbers or text, with at most six decimals: `{"usd": 30}` or `{"usd": "30.50"}`.
        """
        body = BudgetRequest(limits=dict(limits or {}), add=dict(add or {}))
        return await self._calls.call(operations.budgets.RAISE_BUDGET, workflow_id, body=body)

    async def wait(self, workflow_id: str, *, timeout_s: float | None = None, check: bool = True) -> WorkflowView:
        """Wait until a workflow has ended and return it.

        Raises `WorkflowFailed`, with the workflow in it, if it failed or was cancelled; with `check=False` it is
        returned then too. Raises `WaitTimeout` after `timeout_s`, None for never.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = _WATCH_FIRST_S
        while True:
            left_s = _HOLD_S if deadline is None else deadline - time.monotonic()
            view, waited = await self._workflow_within(workflow_id, max(0.0, left_s))
            if view.finished_at is not None:
                if check and view.state != "succeeded":
                    raise WorkflowFailed(view)
                return view
            if left_s <= 0:
                raise too_late(view, timeout_s)
            if not waited:
                await asyncio.sleep(min(pause_s, left_s))
                pause_s = min(pause_s * 1.5, _WATCH_MAX_S)

    async def watch(self, workflow_id: str, *, timeout_s: float | None = None) -> AsyncGenerator[WorkflowView, None]:
        """Yield a workflow now and whenever it has changed, the last time when it has ended.

        Raises `WaitTimeout` after `timeout_s`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        before: WorkflowView | None = None
        pause_s = _WATCH_FIRST_S
        view = await self.workflow(workflow_id)
        while True:
            if view != before:
                yield view
                if view.finished_at is not None:
                    return
                before, pause_s = view, _WATCH_FIRST_S
            if deadline is not None:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise too_late(view, timeout_s)
                pause_s = min(pause_s, left_s)
            view, waited = await self._workflow_within(workflow_id, pause_s)
            if not waited and view.finished_at is None:
                await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _WATCH_MAX_S)
