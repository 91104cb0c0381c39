"""The part of the client that runs functions as tasks: one call, or one call for each item of a list."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Generic, Literal, ParamSpec, TypeVar, overload

from raftflow.client.errors import ClientError, Refused, TaskFailed, WaitTimeout, WorkflowFailed
from raftflow.client.workflow_calls import WorkflowCalls
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import TaskView, WorkflowView
from raftflow.sdk.calls import CodedDocument, TaskCalls

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
ItemT = TypeVar("ItemT")

MAP_WORKFLOWS_MAX: Final = 4
"""Workflows of one map that are unfinished at a time."""
_FAILURES_ASKED_MAX = 32
"""Failed tasks of which the error is asked for at a time."""

WorkflowState = Literal["pending", "running", "paused", "succeeded", "failed", "cancelled"]


class AsyncRun(Generic[R_co]):
    """One call of a function that runs as a task of the cluster. `id` is its workflow.

    >>> async def root():
    ...     async with raftflow.AsyncClient() as client:
    ...         run = await client.start(math.sqrt, 16)
    ...         return await run.result()
    >>> asyncio.run(root())
    4.0
    """

    def __init__(self, client: FunctionCalls, workflow_id: str, task_id: str) -> None:
        """Made by `AsyncClient.start`."""
        self._client = client
        self.id = workflow_id
        self.task_id = task_id

    async def result(self, timeout: float | None = None) -> R_co:  # noqa: ASYNC109 - as `Future.result`
        """Wait until the call has ended and return its result.

        Raises `TaskFailed` with the error of the last attempt, `WorkflowFailed` if the call was cancelled, and
        `WaitTimeout` after `timeout` seconds (None: never); the call continues then.
        """
        view = await self._client.wait(self.id, timeout_s=timeout, check=False)
        found = await self._client.task(self.id, self.task_id)
        if found.state != "succeeded":
            raise failure_of(view, found)
        result: R_co = found.result
        return result

    async def cancel(self) -> None:
        """Cancel the call: it does not start, or its attempt is told to stop. One that has ended stays as it is."""
        try:
            await self._client.cancel(self.id)
        except Refused:
            if (await self._client.workflow(self.id)).finished_at is None:
                raise

    async def status(self) -> WorkflowState:
        """Return the state of the call now."""
        return (await self._client.workflow(self.id)).state

    def __repr__(self) -> str:
        return f"<run {self.task_id} {self.id}>"


class FunctionCalls(WorkflowCalls):
    """Methods of `AsyncClient`."""

    @overload
    async def start(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncRun[R]: ...
    @overload
    async def start(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> AsyncRun[R]: ...
    async def start(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncRun[Any]:
        """Submit one call of a function and return at once.

        The function is one that agents can import; `@raftflow.task` gives it options. Arguments are JSON values of at
        most 64 KiB. Raises `UsageError` if the function or its arguments cannot be sent.
        """
        calls = TaskCalls(function)
        created = await self.submit(CodedDocument(calls.document(args, kwargs), calls.main_files))
        return AsyncRun(self, created.id, calls.name)

    @overload
    async def run(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run one call of a function on the cluster and return its result; see `start` and `AsyncRun.result`."""
        return await (await self.start(function, *args, **kwargs)).result()

    @overload
    async def map(
        self,
        function: Callable[[ItemT], Coroutine[Any, Any, R]],
        items: Iterable[ItemT],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        return_exceptions: bool = False,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        function: Callable[[ItemT], R],
        items: Iterable[ItemT],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        return_exceptions: bool = False,
    ) -> list[R]: ...
    async def map(
        self,
        function: Callable[..., Any],
        items: Iterable[Any],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as `Executor.map`
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Call a function once for each item, on all agents, and return the results in the order of the items.

        The calls are the tasks of one workflow; more than 50,000 items, or 8 MiB of them, become several. The
        first call without success cancels the others: `TaskFailed` has the index of its item and its error. With
        `return_exceptions` all calls run, and a `TaskFailed` is the result of each that failed. Raises `WaitTimeout`
        after `timeout` seconds (None: never); the calls continue then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = TaskCalls(function)
        documents = calls.map_documents(items, on_failure="continue" if return_exceptions else "stop")
        results: list[Any] = []
        unfinished: deque[str] = deque()
        try:
            for document in documents:
                unfinished.append((await self.submit(CodedDocument(document, calls.main_files))).id)
                if len(unfinished) == MAP_WORKFLOWS_MAX:
                    results += await self._collect(unfinished[0], deadline, return_exceptions=return_exceptions)
                    unfinished.popleft()
            while unfinished:
                results += await self._collect(unfinished[0], deadline, return_exceptions=return_exceptions)
                unfinished.popleft()
        except WaitTimeout:
            raise WaitTimeout(f"the map has not ended within {timeout:g} s; its calls continue") from None
        except Exception:  # also one of the caller's iterable
            await asyncio.gather(*map(self.cancel, unfinished), return_exceptions=True)
            raise
        return results

    async def _collect(self, workflow_id: str, deadline: float | None, *, return_exceptions: bool) -> list[Any]:
        """Wait for a workflow of a map and return its results, failures among them if they are wanted."""
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        view = await self.wait(workflow_id, timeout_s=left_s, check=False)
        results: list[Any] = []
        failed: list[tuple[int, TaskView]] = []
        async for task in self._calls.entries(operations.tasks.LIST_TASKS, workflow_id):
            if task.parent is not None:
                break  # children, which come behind the calls
            if task.state != "succeeded":
                failed.append((len(results), task))
            results.append(task.result)
        if failed and not return_exceptions:
            # A task that was cancelled says nothing: the one that failed does.
            first = next((task for _, task in failed if task.state == "failed"), failed[0][1])
            raise failure_of(view, await self.task(workflow_id, first.id), index=int(first.id))
        for begin in range(0, len(failed), _FAILURES_ASKED_MAX):
            some = failed[begin : begin + _FAILURES_ASKED_MAX]
            views = await asyncio.gather(*(self.task(workflow_id, task.id) for _, task in some))
            for (place, _), shown in zip(some, views, strict=True):
                results[place] = failure_of(view, shown, index=int(shown.id))
        return results


def failure_of(view: WorkflowView, task: TaskView, *, index: int | None = None) -> ClientError:
    """Return the error of a task that ended without success. `task` has the history of its attempts."""
    if task.state != "failed":
        return WorkflowFailed(view)
    error = next((each.error for each in reversed(task.history) if each.error), task.detail)
    return TaskFailed(view.id, task.id, error, name=view.name, index=index)
