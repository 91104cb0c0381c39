"""An executor of the standard library whose calls run on the cluster.

Calls that are submitted while a workflow is being sent go together into the next one, so a loop over thousands of
calls costs a few submissions. Each submission keeps its request id until it is answered: a leader that is lost on the
way delays futures, and no call is submitted twice.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from raftflow.client.aio import AsyncClient
from raftflow.client.errors import ClientError, Refused, Unreachable, WorkflowFailed
from raftflow.client.function_calls import failure_of
from raftflow.client.http.calls import new_key
from raftflow.client.operation_calls import T
from raftflow.domain.contract.views import WorkflowView
from raftflow.sdk.calls import CodedDocument, TaskCalls, files_of

P = ParamSpec("P")
R = TypeVar("R")

CALLS_PER_WORKFLOW_MAX: Final = 500
"""Calls that are sent together."""
WORKFLOWS_MAX: Final = 32
"""Workflows of one executor that are unfinished at a time. More calls wait in this process."""
_FUNCTIONS_MAX = 256
"""Functions whose checks are remembered."""
_AGAIN_S = 0.2
"""Pause after a call that no replica answered in time."""


class _PendingCall(NamedTuple):
    future: concurrent.futures.Future[Any]
    fields: dict[str, Any]
    function: Callable[..., Any] | None
    """If it is one of the program itself."""


class ClusterExecutor(concurrent.futures.Executor):
    """Runs calls on the cluster. Made by `Client.executor`; ends with `shutdown`, and with its client."""

    def __init__(
        self, client: AsyncClient, spawn: Callable[[Coroutine[Any, Any, None]], concurrent.futures.Future[None]]
    ) -> None:
        """`spawn` starts a coroutine on the loop of the client."""
        self._client = client
        self._spawn = spawn
        self._lock = threading.Lock()
        self._pending: deque[_PendingCall] = deque()
        self._unfinished: set[concurrent.futures.Future[Any]] = set()
        self._functions: dict[Callable[..., Any], TaskCalls] = {}
        self._is_sending = False
        self._is_shut_down = False
        self._is_cancelled = False
        self._sent: dict[str, list[concurrent.futures.Future[Any]]] = {}
        """By workflow that is unfinished: its futures. Only the loop of the client touches it and what follows."""
        self._followers: set[asyncio.Task[None]] = set()

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> concurrent.futures.Future[R]:
        """Send one call of a function and return its future.

        A future can be cancelled until its call is sent. It raises `TaskFailed` if the call failed. Raises
        `UsageError` if the function or its arguments cannot be sent, and `RuntimeError` after `shutdown`.
        """
        calls = self._calls_of(fn)
        fields = {**calls.fields, **calls.arguments(args, kwargs)}
        future: concurrent.futures.Future[R] = concurrent.futures.Future()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._pending.append(_PendingCall(future, fields, calls.main_function))
            self._unfinished.add(future)
            starts, self._is_sending = not self._is_sending, True
        future.add_done_callback(self._unfinished.discard)
        if starts:
            try:
                self._spawn(self._send())
            except ClientError as error:  # the client is closed
                self._fail_pending(error)
                raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base has it
        """Take no more calls. With `wait` return when all futures have ended.

        `cancel_futures` cancels the calls that have not been sent, and the workflows of those that were.
        """
        with self._lock:
            self._is_shut_down = True
            self._is_cancelled = self._is_cancelled or cancel_futures
            unsent = [call.future for call in self._pending] if cancel_futures else []
            left = list(self._unfinished)
        for future in unsent:
            future.cancel()
        if cancel_futures and left:
            with contextlib.suppress(ClientError):  # the client is closed
                self._spawn(self._cancel_sent())
        if wait:
            concurrent.futures.wait(left)

    def _calls_of(self, function: Callable[..., Any]) -> TaskCalls:
        try:
            found = self._functions.get(function)
        except TypeError:  # it cannot be hashed
            return TaskCalls(function)
        if found is None:
            found = TaskCalls(function)
            if len(self._functions) < _FUNCTIONS_MAX:
                self._functions[function] = found
        return found

    # --- on the loop of the client

    async def _send(self) -> None:
        """Send what is pending until nothing is."""
        try:
            while True:
                while len(self._followers) >= WORKFLOWS_MAX:
                    await asyncio.wait(self._followers, return_when=asyncio.FIRST_COMPLETED)
                calls = self._take_calls()
                if not calls:
                    return
                started = [call for call in calls if call.future.set_running_or_notify_cancel()]
                if started:
                    await self._send_workflow(started)
        except BaseException:
            self._fail_pending(_closed())
            raise

    def _take_calls(self) -> list[_PendingCall]:
        """Return the next calls; none if nothing is pending, and then this sender is the last to know."""
        with self._lock:
            count = min(len(self._pending), CALLS_PER_WORKFLOW_MAX)
            self._is_sending = count > 0
            return [self._pending.popleft() for _ in range(count)]

    async def _send_workflow(self, calls: list[_PendingCall]) -> None:
        """Submit a workflow of these calls, under one request id until it is answered, and follow it."""
        futures = [call.future for call in calls]
        tasks = [{"id": str(number), **call.fields} for number, call in enumerate(calls)]
        functions = dict.fromkeys(call.function for call in calls if call.function is not None)
        document = CodedDocument(
            {"name": "executor", "on_failure": "continue", "tasks": tasks}, lambda: files_of(functions)
        )
        key = new_key()
        try:
            created = await _patiently(lambda: self._client.submit(document, idempotency_key=key))
        except ClientError as error:
            _fail(futures, error)
            return
        except BaseException:
            _fail(futures, _closed())
            raise
        self._sent[created.id] = futures
        follower = asyncio.ensure_future(self._follow(created.id, futures))
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)
        if self._is_cancelled:
            await self._cancel_sent()

    async def _follow(self, workflow_id: str, futures: list[concurrent.futures.Future[Any]]) -> None:
        """Give each future of a workflow its result as soon as its task has ended."""
        try:
            await _patiently(lambda: self._watch(workflow_id, futures))
        except ClientError as error:
            _fail(futures, error)
        finally:
            del self._sent[workflow_id]
            _fail(futures, _closed())  # those that have no result: the client is being closed

    async def _watch(self, workflow_id: str, futures: list[concurrent.futures.Future[Any]]) -> None:
        ended = 0
        async for view in self._client.watch(workflow_id):
            counts = view.tasks
            now_ended = counts.succeeded + counts.failed + counts.cancelled
            if now_ended > ended:
                await self._give_results(view, futures)
                ended = now_ended

    async def _give_results(self, view: WorkflowView, futures: list[concurrent.futures.Future[Any]]) -> None:
        for number, task in enumerate(await self._client.tasks(view.id)):
            if task.parent is not None:
                break  # children, which come behind the calls
            future = futures[number]
            if future.done():
                continue
            if task.state == "succeeded":
                future.set_result(task.result)
            elif task.state == "failed":
                future.set_exception(failure_of(view, await self._client.task(view.id, task.id)))
            elif task.state == "cancelled":
                error = concurrent.futures.CancelledError() if self._is_cancelled else WorkflowFailed(view)
                future.set_exception(error)

    async def _cancel_sent(self) -> None:
        await asyncio.gather(*map(self._client.cancel, list(self._sent)), return_exceptions=True)

    def _fail_pending(self, error: ClientError) -> None:
        with self._lock:
            calls = list(self._pending)
            self._pending.clear()
            self._is_sending = False
        for call in calls:
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)


async def _patiently(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Make a call again until a replica answers it. Raises a `ClientError` for what stays as it is."""
    while True:
        try:
            return await call()
        except Unreachable:
            pass
        except Refused as refusal:
            if refusal.lasting:
                raise
        await asyncio.sleep(_AGAIN_S)


def _closed() -> ClientError:
    return ClientError("the client was closed while the call was under way: its outcome is not known")


def _fail(futures: list[concurrent.futures.Future[Any]], error: BaseException) -> None:
    """Give an error to the futures that have no result."""
    for future in futures:
        if not future.done():
            future.set_exception(error)
