"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from raftflow.client.errors import UsageError, WorkflowFailed, too_late
from raftflow.client.operation_calls import PAGE_SIZE, OperationCalls, T
from raftflow.client.settings import TIMEOUT_S, resolve
from raftflow.client.snapshots import SnapshotCalls
from raftflow.client.status_calls import StatusCalls
from raftflow.client.transport import Transport
from raftflow.domain.contract import operations
from raftflow.domain.contract.operation import STALE, Operation
from raftflow.domain.contract.views import (
    AddMemberRequest,
    AgentView,
    AuditCheck,
    AuditPage,
    CacheCleared,
    CachedResultView,
    CachePage,
    DrainRequest,
    KindView,
    LedgerCheck,
    LedgerView,
    MemberList,
    PriorityRequest,
    TaskExplanation,
    TaskLog,
    TaskPage,
    TaskView,
    TransferRequest,
    WorkflowCreated,
    WorkflowPage,
    WorkflowView,
)
from raftflow.sdk.builder import HasDocument

LOG_PIECE_BYTES = 256 * 1024
"""Bytes of one piece of output."""

_WATCH_FIRST_S, _WATCH_MAX_S = 0.05, 0.5
_HOLD_S = 5.0
"""How long a replica is asked to hold an answer at most. Below the time that an answer may take."""
_STALE: Final = {STALE.name: "1"}


class AsyncWorkflowRun(WorkflowCreated, kw_only=True, dict=True):
    """A workflow that was submitted: its id, warnings, and what `AsyncClient` can say of it."""

    async def wait(self, *, timeout_s: float | None = None, check: bool = True) -> WorkflowView:
        """Wait until it has ended; see `AsyncClient.wait`."""
        return await self._client.wait(self.id, timeout_s=timeout_s, check=check)

    async def results(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait until it has succeeded, as `wait` does, and return all results by task id."""
        await self.wait(timeout_s=timeout_s)
        return await self._client.results(self.id)

    @property
    def _client(self) -> AsyncClient:
        client = self.__dict__["client"]
        assert isinstance(client, AsyncClient)  # noqa: S101 - `AsyncClient.submit` put it there
        return client


class AsyncClient(SnapshotCalls, StatusCalls):
    """Talks to a cluster from asyncio; every method raises a `ClientError` when it fails.

    Knows all peers and retries until `timeout_s` (per call): a failover costs time, never a lost or a doubled call.
    Use as `async with AsyncClient() as client`, or call `close`. Belongs to the event loop where it is used first.
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
        """Check the settings without connecting. Raises `UsageError`.

        Settings that are not given are looked up as the command line does: in the environment (`RAFTFLOW_PEERS`,
        `RAFTFLOW_TOKEN`, `RAFTFLOW_CACERT`, `RAFTFLOW_CLIENT_CERT`, `RAFTFLOW_CLIENT_KEY`,
        `RAFTFLOW_REQUEST_TIMEOUT`), then in the table `[client]` of the file that `RAFTFLOW_CONFIG` names.
        `environ` replaces `os.environ`; with `{}` only the arguments count. `timeout_s` is how long one
        call is retried, 30 s by default. `cache_folder` is where the peer that answered is remembered for the next
        process; None: it is not remembered.
        """
        given = {
            "peers": peers,
            "token": token,
            "cacert": cacert,
            "client_cert": client_cert,
            "client_key": client_key,
        }
        settings = resolve(given, os.environ if environ is None else environ)
        if "peers" not in settings:
            raise UsageError("where is the cluster? Give `peers`, or set RAFTFLOW_PEERS=URL,URL,URL")
        self._transport = Transport(
            settings["peers"],
            token=settings.get("token"),
            cacert=settings.get("cacert"),
            client_cert=settings.get("client_cert"),
            client_key=settings.get("client_key"),
            timeout_s=settings.get("request_timeout", TIMEOUT_S) if timeout_s is None else timeout_s,
            cache_folder=cache_folder,
        )
        self._calls = OperationCalls(self._transport)
        self._call = self._calls.call

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    @property
    def peers(self) -> list[str]:
        """The URLs of the replicas: those that were given, or the members as the cluster told them since."""
        return list(self._transport.peers)

    async def call(
        self,
        operation: Operation[T],
        *parts: str,
        params: Mapping[str, str | int | None] | None = None,
        body: Any = None,
    ) -> T:
        """Call any operation of `raftflow.domain.contract.operations`. The methods below are such calls.

        `parts` are the variable parts of its path in order, `params` query parameters, `body` is of its type of body.
        """
        return await self._call(operation, *parts, params=params, body=body)

    def entries(
        self,
        operation: Operation[Any],
        *parts: str,
        params: Mapping[str, str | int | None] | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield the entries of any listing, all or at most `limit` of them."""
        return self._calls.entries(operation, *parts, params=params, limit=limit)

    # --- workflows

    async def submit(
        self, workflow: Mapping[str, Any] | HasDocument, *, idempotency_key: str | None = None
    ) -> AsyncWorkflowRun:
        """Submit a workflow document (or a `Workflow`). Return its id, its warnings, and methods to wait for it.

        Your own key makes the submission safe to repeat across calls and processes: the same key gives the same
        workflow. Raises `Refused` with every fault if the document is broken.
        """
        if not isinstance(workflow, Mapping) and not hasattr(workflow, "document"):
            raise UsageError(f"a workflow is a dict or a `Workflow`, not {workflow!r:.80}")
        document = workflow if isinstance(workflow, Mapping) else workflow.document()
        created = await self._call(
            operations.workflows.SUBMIT_WORKFLOW, body=document, idempotency_key=idempotency_key
        )
        run = AsyncWorkflowRun(id=created.id, warnings=created.warnings)
        run.__dict__["client"] = self
        return run

    async def workflow(self, workflow_id: str) -> WorkflowView:
        """Return one workflow: state, counts, times. Raises `NotFound`."""
        return await self.call(operations.workflows.SHOW_WORKFLOW, workflow_id)

    async def _workflow_later(self, workflow_id: str, wait_s: float) -> tuple[WorkflowView, bool]:
        """Return a workflow as soon as it has ended, at the latest after `wait_s`.

        The second value tells whether the replica waited at all: it does not have to.
        """
        asked_s = time.monotonic()
        wait_s = min(wait_s, _HOLD_S, self._transport.timeout_s / 2)
        view = await self._call(
            operations.workflows.SHOW_WORKFLOW, workflow_id, params={"wait_ms": int(wait_s * 1000)}
        )
        return view, time.monotonic() - asked_s >= wait_s / 2

    async def workflows_page(
        self, *, state: str | None = None, limit: int = PAGE_SIZE, cursor: str | None = None
    ) -> WorkflowPage:
        """Return one page of the workflows, newest first."""
        params = {"state": state, "limit": limit, "cursor": cursor}
        return await self.call(operations.workflows.LIST_WORKFLOWS, params=params)

    def workflows(self, *, state: str | None = None, limit: int | None = None) -> AsyncGenerator[WorkflowView, None]:
        """Yield the workflows, newest first, all or at most `limit` of them."""
        return self.entries(operations.workflows.LIST_WORKFLOWS, params={"state": state}, limit=limit)

    async def tasks_page(self, workflow_id: str, *, limit: int = PAGE_SIZE, cursor: str | None = None) -> TaskPage:
        """Return one page of a workflow's tasks, in document order."""
        return await self.call(operations.tasks.LIST_TASKS, workflow_id, params={"limit": limit, "cursor": cursor})

    async def tasks(self, workflow_id: str) -> list[TaskView]:
        """Return all tasks of a workflow, in document order. Raises `NotFound`."""
        return [task async for task in self.entries(operations.tasks.LIST_TASKS, workflow_id)]

    async def results(self, workflow_id: str) -> dict[str, Any]:
        """Return the results of the tasks that have succeeded by now, by task id in document order; None for none."""
        tasks = await self.tasks(workflow_id)
        return {task.id: task.result for task in tasks if task.state == "succeeded"}

    async def task(self, workflow_id: str, task_id: str) -> TaskView:
        """Return one task with the history of its attempts. Raises `NotFound`."""
        return await self.call(operations.tasks.SHOW_TASK, workflow_id, task_id)

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
        log = await self.call(operations.tasks.FETCH_TASK_LOG, workflow_id, task_id, params=params)
        if log.next is None:  # of an older replica
            log.next = min(offset + len(log.text.encode()), max(log.size, offset))
        return log

    async def explain(self, workflow_id: str, task_id: str) -> TaskExplanation:
        """Explain why a task is in its state and place."""
        return await self.call(operations.tasks.EXPLAIN_TASK, workflow_id, task_id)

    async def cancel(self, workflow_id: str) -> WorkflowView:
        """Cancel a workflow: what has not started never will, running attempts are told to stop."""
        return await self.call(operations.workflows.CANCEL_WORKFLOW, workflow_id)

    async def pause(self, workflow_id: str) -> WorkflowView:
        """Start nothing new of a workflow; running attempts continue."""
        return await self.call(operations.workflows.PAUSE_WORKFLOW, workflow_id)

    async def resume(self, workflow_id: str) -> WorkflowView:
        """Continue a paused workflow."""
        return await self.call(operations.workflows.RESUME_WORKFLOW, workflow_id)

    async def retry(self, workflow_id: str) -> WorkflowView:
        """Run the failed and cancelled tasks of a finished workflow again."""
        return await self.call(operations.workflows.RETRY_WORKFLOW, workflow_id)

    async def set_priority(self, workflow_id: str, priority: int) -> WorkflowView:
        """Change the priority of a workflow, 0 to 100. Tasks that have not started take their new place at once."""
        return await self._call(
            operations.workflows.PRIORITIZE_WORKFLOW, workflow_id, body=PriorityRequest(priority=priority)
        )

    async def wait(self, workflow_id: str, *, timeout_s: float | None = None, check: bool = True) -> WorkflowView:
        """Wait until a workflow has ended and return it.

        Raises `WorkflowFailed`, with the workflow in it, if it failed or was cancelled; with `check=False` it is
        returned then too. Raises `WaitTimeout` after `timeout_s`, None for never.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = _WATCH_FIRST_S
        while True:
            left_s = _HOLD_S if deadline is None else deadline - time.monotonic()
            view, waited = await self._workflow_later(workflow_id, max(0.0, left_s))
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
            view, waited = await self._workflow_later(workflow_id, pause_s)
            if not waited and view.finished_at is None:
                await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _WATCH_MAX_S)

    # --- agents

    async def agents(self, *, stale: bool = False) -> list[AgentView]:
        """Return every agent that is known; `stale` returns the view of any replica without asking the leader."""
        return (await self.call(operations.agents.LIST_AGENTS, params=_STALE if stale else None)).agents

    async def agent(self, name: str) -> AgentView:
        """Return one agent. Raises `NotFound`."""
        return await self.call(operations.agents.SHOW_AGENT, name)

    async def drain(self, name: str, deadline_s: float | None = None) -> AgentView:
        """Give an agent no new work until it is resumed. Attempts end, or move to other agents after `deadline_s`."""
        body = None if deadline_s is None else DrainRequest(deadline_s=deadline_s)
        return await self.call(operations.agents.DRAIN_AGENT, name, body=body)

    async def resume_agent(self, name: str) -> AgentView:
        """Let a draining agent work again."""
        return await self.call(operations.agents.RESUME_AGENT, name)

    async def forget_agent(self, name: str) -> None:
        """Remove an agent that is lost or has left from the list. Raises `Refused` while it is present."""
        await self.call(operations.agents.FORGET_AGENT, name)

    # --- ledger and audit

    async def ledger(self, *, stale: bool = False) -> LedgerView:
        """Return the account of every agent; `stale` returns the view of any replica without asking the leader."""
        return await self.call(operations.ledger.SHOW_LEDGER, params=_STALE if stale else None)

    async def ledger_verify(self, replica_url: str) -> LedgerCheck:
        """Have one replica check every invariant of its state."""
        return await self._ask(operations.ledger.VERIFY_LEDGER, replica_url)

    async def audit(self, replica_url: str, from_index: int = 0, limit: int = PAGE_SIZE) -> AuditPage:
        """Return audit records of one replica in log order, from a log index on; `next` leads to the rest."""
        params = {"from": from_index, "limit": limit}
        return await self._ask(operations.audit.LIST_AUDIT, replica_url, params=params)

    async def audit_verify(self, replica_url: str) -> AuditCheck:
        """Have one replica read its whole audit and check the chain."""
        return await self._ask(operations.audit.VERIFY_AUDIT, replica_url)

    # --- what is remembered of work that is done

    async def cache_page(self, *, prefix: str = "", limit: int = PAGE_SIZE, cursor: str | None = None) -> CachePage:
        """Return one page of the cached results whose keys begin with `prefix`, in order of the keys."""
        params = {"prefix": prefix or None, "limit": limit, "cursor": cursor}
        return await self.call(operations.cache.LIST_CACHE, params=params)

    def cached_results(self, *, prefix: str = "", limit: int | None = None) -> AsyncGenerator[CachedResultView, None]:
        """Yield the cached results, in order of the keys, all or at most `limit` of them."""
        return self.entries(operations.cache.LIST_CACHE, params={"prefix": prefix or None}, limit=limit)

    async def clear_cache(self, *, key: str | None = None, prefix: str | None = None) -> CacheCleared:
        """Forget cached results: the one under `key`, those whose key begins with `prefix`, or all."""
        return await self.call(operations.cache.CLEAR_CACHE, params={"key": key, "prefix": prefix})

    async def kinds(self) -> list[KindView]:
        """Return what was learnt of kinds of tasks, in order of the names."""
        return (await self.call(operations.tasks.LIST_KINDS)).kinds

    # --- the members

    async def members(self, *, stale: bool = False, replica_url: str | None = None) -> MemberList:
        """Return the replicas of the cluster; `stale` returns the view of any replica without asking the leader.

        With `replica_url` it is the view of that replica, which is asked once.
        """
        stale = stale or replica_url is not None
        return await self._call(
            operations.members.LIST_MEMBERS,
            params=_STALE if stale else None,
            replica=replica_url,
            once=replica_url is not None,
        )

    async def add_member(self, name: str, peer: str, url: str) -> MemberList:
        """Add a replica that runs on an empty disk with `join = true`; returns when it counts for majorities.

        `peer` is `host:port` for the other replicas, `url` is for clients. Raises `Refused`. May be repeated.
        """
        member = AddMemberRequest(name=name, peer=peer, url=url)
        return await self.call(operations.members.ADD_MEMBER, body=member)

    async def remove_member(self, name: str) -> MemberList:
        """Remove a replica permanently; its name is never used again. Raises `Refused`. May be repeated."""
        return await self.call(operations.members.REMOVE_MEMBER, name)

    async def transfer_leadership(self, to: str | None = None) -> MemberList:
        """Hand leadership to a member, or to the most caught-up one. Raises `Refused` if it did not take over."""
        return await self.call(operations.members.TRANSFER_LEADERSHIP, body=TransferRequest(to=to))

    async def openapi(self) -> dict[str, Any]:
        """Return the API's own description."""
        return await self.call(operations.descriptions.DESCRIBE_API)

    # --- inside

    async def _ask(
        self, operation: Operation[T], url: str, *, params: Mapping[str, str | int | None] | None = None
    ) -> T:
        """Ask one replica, at least until it has had time for one answer."""
        timeout_s = max(operation.answer_s, self._transport.timeout_s)
        return await self._call(operation, params=params, replica=url, timeout_s=timeout_s)
