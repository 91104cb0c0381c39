"""The client for ordinary code: the asynchronous one, driven on a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from raftflow.client.aio import AsyncClient
from raftflow.client.builder import HasDocument
from raftflow.client.errors import ClientError, UsageError
from raftflow.client.overview import ClusterStatus
from raftflow.domain.contract.views import (
    AgentView,
    AuditCheck,
    AuditPage,
    CacheCleared,
    CachedResultView,
    KindView,
    LedgerCheck,
    LedgerView,
    MemberList,
    ReplicaStatus,
    SnapshotView,
    TaskExplanation,
    TaskLog,
    TaskView,
    WorkflowCreated,
    WorkflowView,
)

__all__ = ["AsyncClient", "Client", "WorkflowRun"]

T = TypeVar("T")


class WorkflowRun(WorkflowCreated, kw_only=True, dict=True):
    """A workflow that was submitted: its id, warnings, and what `Client` can say of it."""

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


class Client:
    """Talks to a cluster; every method does what its namesake of `AsyncClient` does, and blocks until it is done.

    Works in any thread, also beside a running event loop. Use as `with Client() as client`, or call `close`.
    """

    def __init__(
        self,
        peers: str | Sequence[str] | None = None,
        *,
        token: str | None = None,
        cacert: Path | str | None = None,
        client_cert: Path | str | None = None,
        client_key: Path | str | None = None,
        timeout_s: float | None = None,
        environ: Mapping[str, str] | None = None,
        cache_folder: Path | None = None,
    ) -> None:
        """Check the settings as `AsyncClient` does, without connecting. Raises `UsageError`."""
        self._client = AsyncClient(
            peers,
            token=token,
            cacert=cacert,
            client_cert=client_cert,
            client_key=client_key,
            timeout_s=timeout_s,
            environ=environ,
            cache_folder=cache_folder,
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

    # --- workflows

    def submit(self, workflow: Mapping[str, Any] | HasDocument, *, idempotency_key: str | None = None) -> WorkflowRun:
        """Submit a workflow document (or a `Workflow`); see `AsyncClient.submit`."""
        created = self._run(self._client.submit(workflow, idempotency_key=idempotency_key))
        run = WorkflowRun(id=created.id, warnings=created.warnings)
        run.__dict__["client"] = self
        return run

    def workflow(self, workflow_id: str) -> WorkflowView:
        """Return one workflow: state, counts, times. Raises `NotFound`."""
        return self._run(self._client.workflow(workflow_id))

    def workflows(self, *, state: str | None = None, limit: int | None = None) -> Iterator[WorkflowView]:
        """Yield the workflows, newest first, all or at most `limit` of them."""
        return self._iterate(self._client.workflows(state=state, limit=limit))

    def tasks(self, workflow_id: str) -> list[TaskView]:
        """Return all tasks of a workflow, in document order. Raises `NotFound`."""
        return self._run(self._client.tasks(workflow_id))

    def results(self, workflow_id: str) -> dict[str, Any]:
        """Return the results of the tasks that have succeeded by now, by task id in document order; None for none."""
        return self._run(self._client.results(workflow_id))

    def task(self, workflow_id: str, task_id: str) -> TaskView:
        """Return one task with the history of its attempts. Raises `NotFound`."""
        return self._run(self._client.task(workflow_id, task_id))

    def task_log(
        self,
        workflow_id: str,
        task_id: str,
        stream: Literal["stdout", "stderr"] = "stdout",
        *,
        attempt: int | None = None,
        offset: int = 0,
        since_ms: int | None = None,
    ) -> TaskLog:
        """Return a piece of an attempt's output; see `AsyncClient.task_log`."""
        log = self._client.task_log(workflow_id, task_id, stream, attempt=attempt, offset=offset, since_ms=since_ms)
        return self._run(log)

    def explain(self, workflow_id: str, task_id: str) -> TaskExplanation:
        """Explain why a task is in its state and place."""
        return self._run(self._client.explain(workflow_id, task_id))

    def cancel(self, workflow_id: str) -> WorkflowView:
        """Cancel a workflow: what has not started never will, running attempts are told to stop."""
        return self._run(self._client.cancel(workflow_id))

    def pause(self, workflow_id: str) -> WorkflowView:
        """Start nothing new of a workflow; running attempts continue."""
        return self._run(self._client.pause(workflow_id))

    def resume(self, workflow_id: str) -> WorkflowView:
        """Continue a paused workflow."""
        return self._run(self._client.resume(workflow_id))

    def retry(self, workflow_id: str) -> WorkflowView:
        """Run the failed and cancelled tasks of a finished workflow again."""
        return self._run(self._client.retry(workflow_id))

    def set_priority(self, workflow_id: str, priority: int) -> WorkflowView:
        """Change the priority of a workflow, 0 to 100. Tasks that have not started take their new place at once."""
        return self._run(self._client.set_priority(workflow_id, priority))

    def wait(self, workflow_id: str, *, timeout_s: float | None = None, check: bool = True) -> WorkflowView:
        """Wait until a workflow has ended and return it; see `AsyncClient.wait`.

        Raises `WorkflowFailed` unless it succeeded or `check` is false, `WaitTimeout` after `timeout_s`.
        """
        return self._run(self._client.wait(workflow_id, timeout_s=timeout_s, check=check))

    def watch(self, workflow_id: str, *, timeout_s: float | None = None) -> Iterator[WorkflowView]:
        """Yield a workflow now and whenever it has changed, the last time when it has ended."""
        return self._iterate(self._client.watch(workflow_id, timeout_s=timeout_s))

    # --- agents

    def agents(self) -> list[AgentView]:
        """Return every agent that is known."""
        return self._run(self._client.agents())

    def agent(self, name: str) -> AgentView:
        """Return one agent. Raises `NotFound`."""
        return self._run(self._client.agent(name))

    def drain(self, name: str, deadline_s: float | None = None) -> AgentView:
        """Give an agent no new work until it is resumed. Attempts end, or move to other agents after `deadline_s`."""
        return self._run(self._client.drain(name, deadline_s))

    def resume_agent(self, name: str) -> AgentView:
        """Let a draining agent work again."""
        return self._run(self._client.resume_agent(name))

    def forget_agent(self, name: str) -> None:
        """Remove an agent that is lost or has left from the list. Raises `Refused` while it is present."""
        self._run(self._client.forget_agent(name))

    # --- ledger and audit

    def ledger(self, *, stale: bool = False) -> LedgerView:
        """Return the account of every agent; `stale` returns the view of any replica without asking the leader."""
        return self._run(self._client.ledger(stale=stale))

    def ledger_verify(self, replica_url: str) -> LedgerCheck:
        """Have one replica check every invariant of its state."""
        return self._run(self._client.ledger_verify(replica_url))

    def audit(self, replica_url: str, from_index: int = 0, limit: int = 500) -> AuditPage:
        """Return audit records of one replica in log order, from a log index on; `next` leads to the rest."""
        return self._run(self._client.audit(replica_url, from_index, limit))

    def audit_verify(self, replica_url: str) -> AuditCheck:
        """Have one replica read its whole audit and check the chain."""
        return self._run(self._client.audit_verify(replica_url))

    def take_snapshot(self, replica_url: str | None = None, *, stale: bool = False) -> SnapshotView:
        """Have a replica write a snapshot, and return what it is. Read it soon: an idle one is closed.

        It is the leader's, and holds every write that was acknowledged before the call. With `stale` it is that of
        the replica which is asked, which may be behind.
        """
        return self._run(self._client.take_snapshot(replica_url, stale=stale))

    def read_snapshot(self, snapshot: SnapshotView, offset: int = 0) -> bytes:
        """Return the next bytes of a snapshot; none at its end. Raises `NotFound` if it was closed."""
        return self._run(self._client.read_snapshot(snapshot, offset))

    def status(self, replica_url: str) -> ReplicaStatus:
        """Return how one replica sees itself and the cluster. Raises `Unreachable` at once if it does not answer."""
        return self._run(self._client.status(replica_url))

    def cluster_status(self) -> ClusterStatus:
        """Ask every peer, and the leader for the agents. Raises `Unreachable` if not one of them answers."""
        return self._run(self._client.cluster_status())

    # --- what is remembered of work that is done

    def cached_results(self, *, prefix: str = "", limit: int | None = None) -> Iterator[CachedResultView]:
        """Yield the cached results, in order of the keys, all or at most `limit` of them."""
        return self._iterate(self._client.cached_results(prefix=prefix, limit=limit))

    def clear_cache(self, *, key: str | None = None, prefix: str | None = None) -> CacheCleared:
        """Forget cached results: the one under `key`, those whose key begins with `prefix`, or all."""
        return self._run(self._client.clear_cache(key=key, prefix=prefix))

    def kinds(self) -> list[KindView]:
        """Return what was learnt of kinds of tasks, in order of the names."""
        return self._run(self._client.kinds())

    # --- the members

    def members(self, *, stale: bool = False) -> MemberList:
        """Return the replicas of the cluster; `stale` returns the view of any replica without asking the leader."""
        return self._run(self._client.members(stale=stale))

    def add_member(self, name: str, peer: str, url: str) -> MemberList:
        """Add a replica that runs on an empty disk with `join = true`; see `AsyncClient.add_member`."""
        return self._run(self._client.add_member(name, peer, url))

    def remove_member(self, name: str) -> MemberList:
        """Remove a replica permanently; its name is never used again. Raises `Refused`. May be repeated."""
        return self._run(self._client.remove_member(name))

    def transfer_leadership(self, to: str | None = None) -> MemberList:
        """Hand leadership to a member, or to the most caught-up one. Raises `Refused` if it did not take over."""
        return self._run(self._client.transfer_leadership(to))

    def openapi(self) -> dict[str, Any]:
        """Return the API's own description."""
        return self._run(self._client.openapi())

    # --- inside

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the client's thread; an interrupt of the caller cancels the work."""
        try:
            with self._lock:  # so that `close` either refuses the work or ends it
                future = asyncio.run_coroutine_threadsafe(work, self._ensure_loop())
        except BaseException:
            work.close()
            raise
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
