"""The client for ordinary code: the asynchronous one, driven on a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import html
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, Protocol, Self, overload

from raftflow.client.aio import AsyncClient
from raftflow.client.errors import ClientError, UsageError
from raftflow.client.executor import ClusterExecutor
from raftflow.client.function_calls import AsyncRun, ItemT, P, R, R_co, WorkflowState
from raftflow.client.operation_calls import T
from raftflow.domain.contract.operation import Operation
from raftflow.domain.contract.views import (
    CachedResultView,
    ClusterEvent,
    EffectView,
    WorkflowCreated,
    WorkflowView,
)
from raftflow.sdk.builder import HasDocument

__all__ = ["AsyncClient", "Client", "Run", "WorkflowRun"]


class WorkflowRun(WorkflowCreated, kw_only=True, dict=True):
    """A workflow that was submitted: its id, warnings, and what `Client` can say of it.

    >>> run = client.submit({"name": "roots", "tasks": [{"id": "root", "python": "math:sqrt", "args": [16]}]})
    >>> run.results()
    {'root': 4.0}
    >>> run.wait().state
    'succeeded'
    """

    def wait(self, *, timeout_s: float | None = None, check: bool = True) -> WorkflowView:
        """Wait until it has ended; see `AsyncClient.wait`."""
        return self._client.wait(self.id, timeout_s=timeout_s, check=check)

    def results(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait until it has succeeded, as `wait` does, and return all results by task id."""
        self.wait(timeout_s=timeout_s)
        return self._client.results(self.id)

    @property
    def _client(self) -> Client:
        client = self.__dict__["client"]
        assert isinstance(client, Client)  # noqa: S101 - `Client.submit` put it there
        return client


_NOTEBOOK_S = 2.0
"""How long a notebook waits for the state of a call that it shows."""


class _Drive(Protocol):
    def __call__(self, work: Coroutine[Any, Any, T]) -> T: ...


class Run(Generic[R_co]):
    """One call of a function that runs as a task of the cluster. `id` is its workflow.

    >>> run = client.start(math.sqrt, 16)
    >>> run.result(timeout=60)
    4.0
    >>> run.status()
    'succeeded'
    """

    def __init__(self, run: AsyncRun[R_co], drive: _Drive) -> None:
        """Made by `Client.start`; `drive` runs a coroutine on the client's thread."""
        self._run = run
        self._drive = drive
        self.id = run.id
        self.task_id = run.task_id

    def result(self, timeout: float | None = None) -> R_co:
        """Wait until the call has ended and return its result; see `AsyncRun.result`."""
        return self._drive(self._run.result(timeout))

    def cancel(self) -> None:
        """Cancel the call; see `AsyncRun.cancel`."""
        self._drive(self._run.cancel())

    def status(self) -> WorkflowState:
        """Return the state of the call now."""
        return self._drive(self._run.status())

    def __repr__(self) -> str:
        return repr(self._run)

    def _repr_html_(self) -> str:
        """Return a table for notebooks, with the state of the call if a replica tells it soon."""
        try:
            state: str = self._drive(asyncio.wait_for(self._run.status(), _NOTEBOOK_S))
        except (ClientError, TimeoutError):
            state = "unknown: no replica answers"
        cells = {"function": self.task_id, "workflow": self.id, "state": state}
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in cells.items())
        return f"<table>{rows}</table>"


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """Return the method of `Client` that runs a method of `AsyncClient` and returns its answer."""

    @functools.wraps(method)
    def run(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._client, *args, **kwargs))

    return run


class Client:
    """Talks to a cluster; every method does what its namesake of `AsyncClient` does, and blocks until it is done.

    Works in any thread, also beside a running event loop. Use as `with Client() as client`, or call `close`.

    >>> with raftflow.Client() as client:  # RAFTFLOW_PEERS says where the cluster is
    ...     client.map(math.sqrt, [1, 4, 9])
    [1.0, 2.0, 3.0]
    """

    def __init__(
        self,
        peers: str | Sequence[str] | None = None,
        *,
        token: str | None = None,
        token_file: Path | str | None = None,
        cacert: Path | str | None = None,
        client_cert: Path | str | None = None,
        client_key: Path | str | None = None,
        timeout_s: float | None = None,
        environ: Mapping[str, str] | None = None,
        cache_folder: Path | None = None,
        code: Path | str | None = None,
    ) -> None:
        """Check the settings as `AsyncClient` does, without connecting. Raises `UsageError`."""
        self._client = AsyncClient(
            peers,
            token=token,
            token_file=token_file,
            cacert=cacert,
            client_cert=client_cert,
            client_key=client_key,
            timeout_s=timeout_s,
            environ=environ,
            cache_folder=cache_folder,
            code=code,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. Calls that other threads wait for end with a `ClientError`."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or self._process != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _end(self) -> None:
        """End the calls that are under way, then close the connections."""
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls)
        await self._client.close()

    @property
    def peers(self) -> list[str]:
        """The URLs of the replicas."""
        return self._client.peers

    # --- any operation

    def call(
        self,
        operation: Operation[T],
        *parts: str,
        params: Mapping[str, str | int | None] | None = None,
        body: Any = None,
    ) -> T:
        """Call any operation of `raftflow.domain.contract.operations`; see `AsyncClient.call`."""
        return self._run(self._client.call(operation, *parts, params=params, body=body))

    def entries(
        self,
        operation: Operation[Any],
        *parts: str,
        params: Mapping[str, str | int | None] | None = None,
        limit: int | None = None,
    ) -> Iterator[Any]:
        """Yield the entries of any listing, all or at most `limit` of them."""
        return self._iterate(self._client.entries(operation, *parts, params=params, limit=limit))

    # --- workflows

    def submit(self, workflow: Mapping[str, Any] | HasDocument, *, idempotency_key: str | None = None) -> WorkflowRun:
        """Submit a workflow document (or a `Workflow`); see `AsyncClient.submit`."""
        created = self._run(self._client.submit(workflow, idempotency_key=idempotency_key))
        run = WorkflowRun(id=created.id, warnings=created.warnings)
        run.__dict__["client"] = self
        return run

    workflow = _blocking(AsyncClient.workflow)

    def workflows(self, *, state: str | None = None, limit: int | None = None) -> Iterator[WorkflowView]:
        """Yield the workflows, newest first, all or at most `limit` of them."""
        return self._iterate(self._client.workflows(state=state, limit=limit))

    tasks = _blocking(AsyncClient.tasks)
    results = _blocking(AsyncClient.results)
    task = _blocking(AsyncClient.task)
    task_log = _blocking(AsyncClient.task_log)
    explain = _blocking(AsyncClient.explain)
    cancel = _blocking(AsyncClient.cancel)
    pause = _blocking(AsyncClient.pause)
    resume = _blocking(AsyncClient.resume)
    retry = _blocking(AsyncClient.retry)
    budget = _blocking(AsyncClient.budget)
    raise_budget = _blocking(AsyncClient.raise_budget)
    set_priority = _blocking(AsyncClient.set_priority)
    wait = _blocking(AsyncClient.wait)

    def watch(self, workflow_id: str, *, timeout_s: float | None = None) -> Iterator[WorkflowView]:
        """Yield a workflow now and whenever it has changed, the last time when it has ended."""
        return self._iterate(self._client.watch(workflow_id, timeout_s=timeout_s))

    bundles = _blocking(AsyncClient.bundles)
    bundle = _blocking(AsyncClient.bundle)
    bundle_content = _blocking(AsyncClient.bundle_content)
    send_bundle = _blocking(AsyncClient.send_bundle)

    # --- functions

    @overload
    def start(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Run[R]: ...
    @overload
    def start(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Run[R]: ...
    def start(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Run[Any]:
        """Submit one call of a function and return at once; see `AsyncClient.start`."""
        return Run(self._run(self._client.start(function, *args, **kwargs)), self._run)

    @overload
    def run(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run one call of a function on the cluster and return its result; see `AsyncClient.run`."""
        return self._run(self._client.run(function, *args, **kwargs))

    @overload
    def map(
        self,
        function: Callable[[ItemT], Coroutine[Any, Any, R]],
        items: Iterable[ItemT],
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> list[R]: ...
    @overload
    def map(
        self,
        function: Callable[[ItemT], R],
        items: Iterable[ItemT],
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> list[R]: ...
    def map(
        self,
        function: Callable[..., Any],
        items: Iterable[Any],
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Call a function once for each item, and return the results in order; see `AsyncClient.map`."""
        return self._run(self._client.map(function, items, timeout=timeout, return_exceptions=return_exceptions))

    def executor(self) -> ClusterExecutor:
        """Return an executor (`concurrent.futures.Executor`) whose calls run on the cluster."""
        return ClusterExecutor(self._client, self._spawn)

    # --- agents

    agents = _blocking(AsyncClient.agents)
    agent = _blocking(AsyncClient.agent)
    drain = _blocking(AsyncClient.drain)
    resume_agent = _blocking(AsyncClient.resume_agent)
    forget_agent = _blocking(AsyncClient.forget_agent)

    # --- events

    events_page = _blocking(AsyncClient.events_page)

    def events(
        self,
        after: str | None = None,
        *,
        workflow: str | None = None,
        task: str | None = None,
        agent: str | None = None,
        kind: str | None = None,
    ) -> Iterator[ClusterEvent]:
        """Yield events behind the id `after`, and those that happen; see `AsyncClient.events`."""
        return self._iterate(self._client.events(after, workflow=workflow, task=task, agent=agent, kind=kind))

    # --- ledger and audit

    ledger = _blocking(AsyncClient.ledger)
    ledger_verify = _blocking(AsyncClient.ledger_verify)
    audit = _blocking(AsyncClient.audit)
    refusals = _blocking(AsyncClient.refusals)
    audit_verify = _blocking(AsyncClient.audit_verify)
    take_snapshot = _blocking(AsyncClient.take_snapshot)
    read_snapshot = _blocking(AsyncClient.read_snapshot)
    status = _blocking(AsyncClient.status)
    host = _blocking(AsyncClient.host)
    cluster_status = _blocking(AsyncClient.cluster_status)

    # --- what is remembered of work that is done

    def cached_results(self, *, prefix: str = "", limit: int | None = None) -> Iterator[CachedResultView]:
        """Yield the cached results, in order of the keys, all or at most `limit` of them."""
        return self._iterate(self._client.cached_results(prefix=prefix, limit=limit))

    clear_cache = _blocking(AsyncClient.clear_cache)

    def effects(
        self, *, everything: bool = False, workflow: str | None = None, limit: int | None = None
    ) -> Iterator[EffectView]:
        """Yield the effects that have no outcome, or with `everything` all of them; at most `limit`."""
        return self._iterate(self._client.effects(everything=everything, workflow=workflow, limit=limit))

    effect = _blocking(AsyncClient.effect)
    resolve_effect = _blocking(AsyncClient.resolve_effect)
    send_signal = _blocking(AsyncClient.send_signal)
    approvals = _blocking(AsyncClient.approvals)
    approval = _blocking(AsyncClient.approval)
    decide = _blocking(AsyncClient.decide)
    limits = _blocking(AsyncClient.limits)
    set_limit = _blocking(AsyncClient.set_limit)
    remove_limit = _blocking(AsyncClient.remove_limit)
    create_token = _blocking(AsyncClient.create_token)
    tokens = _blocking(AsyncClient.tokens)
    rotate_token = _blocking(AsyncClient.rotate_token)
    revoke_token = _blocking(AsyncClient.revoke_token)
    identity = _blocking(AsyncClient.identity)
    kinds = _blocking(AsyncClient.kinds)

    # --- the members

    members = _blocking(AsyncClient.members)
    add_member = _blocking(AsyncClient.add_member)
    remove_member = _blocking(AsyncClient.remove_member)
    transfer_leadership = _blocking(AsyncClient.transfer_leadership)
    openapi = _blocking(AsyncClient.openapi)

    # --- inside

    def _spawn(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start work on the client's thread."""
        try:
            with self._lock:  # so that `close` either refuses the work or ends it
                return asyncio.run_coroutine_threadsafe(work, self._ensure_loop())
        except BaseException:
            work.close()
            raise

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the client's thread; an interrupt of the caller cancels the work."""
        future = self._spawn(work)
        try:
            return future.result()
        except CancelledError:
            raise ClientError(
                "the client was closed while the call was under way: its outcome is not known"
            ) from None
        except BaseException:
            future.cancel()
            raise

    def _iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        # A step that was interrupted may still be ending when the generator is closed.
        one_at_a_time = asyncio.Lock()

        async def step() -> tuple[T] | None:
            # StopAsyncIteration cannot pass through a future.
            async with one_at_a_time:
                try:
                    return (await anext(items),)
                except StopAsyncIteration:
                    return None

        async def close() -> None:
            async with one_at_a_time:
                await items.aclose()

        try:
            while (item := self._run(step())) is not None:
                yield item[0]
        finally:
            if not self._closed:
                self._run(close())

    def _ensure_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise UsageError("the client is closed")
        if self._loop is not None and self._process != os.getpid():
            raise UsageError("the client was used before this process was forked: make one in each process")
        if self._loop is None:
            self._process = os.getpid()
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="raftflow-client", daemon=True)
            self._thread.start()
        return self._loop
