"""The client for asyncio."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import msgspec

from raftflow.client.errors import ClientError, Refused, UsageError
from raftflow.client.function_calls import FunctionCalls
from raftflow.client.operation_calls import PAGE_SIZE, OperationCalls, T
from raftflow.client.settings import TIMEOUT_S, resolve
from raftflow.client.signal_calls import SignalCalls
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
    ClusterEvent,
    DrainRequest,
    EffectDecision,
    EffectView,
    EventPage,
    IdentityView,
    KindView,
    LedgerCheck,
    LedgerView,
    MemberList,
    RateLimitRequest,
    RateLimitView,
    RefusalPage,
    RotateRequest,
    TokenMade,
    TokenRequest,
    TokenView,
    TransferRequest,
)
from raftflow.domain.tasks.effects import EffectResolution
from raftflow.domain.values.roles import Role
from raftflow.sdk.code import FolderCode
from raftflow.sdk.script_import import end_of_script

_STALE: Final = {STALE.name: "1"}


class AsyncClient(SnapshotCalls, StatusCalls, SignalCalls, FunctionCalls):
    """Talks to a cluster from asyncio; every method raises a `ClientError` when it fails.

    Knows all peers and retries until `timeout_s` (per call): a failover costs time, never a lost or a doubled call.
    Use as `async with AsyncClient() as client`, or call `close`. Belongs to the event loop where it is used first.

    >>> async def roots():
    ...     async with raftflow.AsyncClient() as client:
    ...         return await client.map(math.sqrt, [1, 4, 9])
    >>> asyncio.run(roots())
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
        """Check the settings without connecting. Raises `UsageError`.

        Settings that are not given are looked up as the command line does: in the environment (`RAFTFLOW_PEERS`,
        `RAFTFLOW_TOKEN` or `RAFTFLOW_TOKEN_FILE`, `RAFTFLOW_CACERT`, `RAFTFLOW_CLIENT_CERT`, `RAFTFLOW_CLIENT_KEY`,
        `RAFTFLOW_REQUEST_TIMEOUT`), then in the table `[client]` of the file that `RAFTFLOW_CONFIG` names.
        `environ` replaces `os.environ`; with `{}` only the arguments count. `timeout_s` is how long one
        call is retried, 30 s by default. `cache_folder` is where the peer that answered is remembered for the next
        process; None: it is not remembered. `code` is a folder whose files travel with every workflow of this
        client: python tasks find their modules there first. A token in a file (`token_file`) is read again when
        the file has changed, and when the token is refused.
        """
        end_of_script()
        given = {
            "peers": peers,
            "token": token,
            "token_file": token_file,
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
            token_file=settings.get("token_file"),
            cacert=settings.get("cacert"),
            client_cert=settings.get("client_cert"),
            client_key=settings.get("client_key"),
            timeout_s=settings.get("request_timeout", TIMEOUT_S) if timeout_s is None else timeout_s,
            cache_folder=cache_folder,
        )
        self._calls = OperationCalls(self._transport)
        self._code = None if code is None else FolderCode(code)
        self._sent = set()

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
        return await self._calls.call(operation, *parts, params=params, body=body)

    def entries(
        self,
        operation: Operation[Any],
        *parts: str,
        params: Mapping[str, str | int | None] | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield the entries of any listing, all or at most `limit` of them."""
        return self._calls.entries(operation, *parts, params=params, limit=limit)

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

    # --- events

    async def events_page(
        self,
        after: str | None = None,
        *,
        workflow: str | None = None,
        task: str | None = None,
        agent: str | None = None,
        kind: str | None = None,
        limit: int = PAGE_SIZE,
        wait_s: float = 0.0,
    ) -> EventPage:
        """Return events behind the id `after`, of any replica; with `wait_s` it waits so long for one.

        Begins now if `after` is None, with the oldest that is kept if it is "0". Raises `Refused` with the word
        `gone` if events behind that id are not kept any more.
        """
        params: dict[str, str | int | None] = {
            "from": after,
            "workflow": workflow,
            "task": task,
            "agent": agent,
            "kind": kind,
            "limit": limit,
            "wait_ms": round(wait_s * 1000),
        }
        return await self.call(operations.events.LIST_EVENTS, params=params)

    async def events(
        self,
        after: str | None = None,
        *,
        workflow: str | None = None,
        task: str | None = None,
        agent: str | None = None,
        kind: str | None = None,
    ) -> AsyncGenerator[ClusterEvent, None]:
        """Yield events behind the id `after`, and go on with those that happen, until the caller stops.

        It goes on exactly behind the last event at another replica if one is lost, or keeps less than others. See
        `events_page`.
        """
        filters: dict[str, Any] = {"workflow": workflow, "task": task, "agent": agent, "kind": kind}
        while True:
            try:
                page = await self.events_page(after, **filters, limit=1_000, wait_s=10.0)
            except Refused as refusal:
                if refusal.kind != "gone":
                    raise
                page = await self._events_elsewhere(refusal, {"from": after, **filters, "limit": 1_000})
            for event in page.events:
                yield event
            after = page.next

    async def _events_elsewhere(self, gone: Refused, params: Mapping[str, str | int | None]) -> EventPage:
        """Ask each replica for a page that one does not keep. Raises `gone` if none has it."""
        for url in self.peers:
            try:
                return await self._ask(operations.events.LIST_EVENTS, url, params=params)
            except ClientError:
                continue
        raise gone

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

    async def refusals(self, replica_url: str) -> RefusalPage:
        """Return what one replica has refused because of who sent it, since it was started; the last first."""
        return await self._ask(operations.audit.LIST_REFUSALS, replica_url)

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

    def effects(
        self, *, everything: bool = False, workflow: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[EffectView, None]:
        """Yield the effects that have no outcome, or with `everything` all of them; at most `limit`."""
        params = {"show": "all" if everything else None, "workflow": workflow}
        return self.entries(operations.effects.LIST_EFFECTS, params=params, limit=limit)

    async def effect(self, number: int) -> EffectView:
        """Return one effect. Raises `NotFound`."""
        return await self.call(operations.effects.SHOW_EFFECT, str(number))

    async def resolve_effect(
        self, number: int, resolution: EffectResolution, *, result: Any = None, detail: str = ""
    ) -> EffectView:
        """Decide about an effect of which nobody can tell whether it was done.

        `done`: it has happened, and returned `result`. `retry`: it is called again, with the same idempotency key.
        `fail`: every attempt that comes to it gets `EffectFailed`. Raises `Refused` if it needs no decision, or
        another person was first.
        """
        value = cast("msgspec.Raw", result)  # written as JSON with the rest of the body
        body = EffectDecision(resolution=resolution, result=value, detail=detail)
        return await self.call(operations.effects.RESOLVE_EFFECT, str(number), body=body)

    async def limits(self) -> list[RateLimitView]:
        """Return the rate limits, in order of the names."""
        return (await self.call(operations.rates.LIST_LIMITS)).limits

    async def set_limit(self, name: str, rate: str, *, burst: int | None = None) -> RateLimitView:
        """Set or change a rate limit: `rate` is like `100/min`, with `s`, `min`, `h` or `d`.

        `burst` units can be taken at once after a quiet time; by default as many as come in the unit of time.
        """
        body = RateLimitRequest(rate=rate, burst=burst)
        return await self.call(operations.rates.SET_LIMIT, name, body=body)

    async def remove_limit(self, name: str) -> None:
        """Remove a rate limit. Tasks that take from it wait until it is set again. Raises `NotFound`."""
        await self.call(operations.rates.REMOVE_LIMIT, name)

    async def create_token(
        self,
        name: str,
        role: Role,
        *,
        expires_s: float | None = None,
        agents: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> TokenMade:
        """Create a token; its secret is shown this once.

        Args:
            name: how lists and the audit name it.
            role: what its holder may do.
            expires_s: how long it is valid; for ever by default.
            agents: with role `agent`: which agents its holder may be, a name or how names begin (`gpu-*`).
            labels: with role `agent`: its holder may claim these labels and no others.

        Raises `Refused` if there is a token of this name, or if the cluster lets everybody in.
        """
        body = TokenRequest(name=name, role=role, expires_s=expires_s, agents=agents, labels=dict(labels or {}))
        return await self.call(operations.tokens.CREATE_TOKEN, body=body)

    async def tokens(self) -> list[TokenView]:
        """Return all tokens without their secrets, in order of the names."""
        return (await self.call(operations.tokens.LIST_TOKENS)).tokens

    async def rotate_token(self, name: str, *, overlap_s: float = 3600.0) -> TokenMade:
        """Give a token a new secret. The old one stays valid for `overlap_s` seconds. Raises `NotFound`."""
        return await self.call(operations.tokens.ROTATE_TOKEN, name, body=RotateRequest(overlap_s=overlap_s))

    async def revoke_token(self, name: str) -> None:
        """Revoke a token: those who have it are let in no more. Raises `NotFound`."""
        await self.call(operations.tokens.REVOKE_TOKEN, name)

    async def identity(self) -> IdentityView:
        """Return who this client is to the cluster, and its role."""
        return await self.call(operations.tokens.SHOW_IDENTITY)

    async def kinds(self) -> list[KindView]:
        """Return what was learnt of kinds of tasks, in order of the names."""
        return (await self.call(operations.tasks.LIST_KINDS)).kinds

    # --- the members

    async def members(self, *, stale: bool = False, replica_url: str | None = None) -> MemberList:
        """Return the replicas of the cluster; `stale` returns the view of any replica without asking the leader.

        With `replica_url` it is the view of that replica, which is asked once.
        """
        stale = stale or replica_url is not None
        return await self._calls.call(
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
        return await self._calls.call(operation, params=params, replica=url, timeout_s=timeout_s)
