"""The HTTP application: the path of every request that the fast path does not answer.

    request id ─► access ─► its turn ─► body within its limit ─► who answers? ─┬─► handler ─► answer
                                                                               ├─► leader (one hop)
                                                                               └─► 307 for an agent's poll
Every error on that path ends as a problem document. Every answer carries the replica's index, term and leader.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, Final, cast

from aiohttp import web

from raftflow.api.admission.body_budget import BodyBudget
from raftflow.api.admission.gated_connection import AdmissionControl
from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.diagnostics.host_facts import HostFacts
from raftflow.api.dispatch.dispatcher import Dispatcher
from raftflow.api.dispatch.requests import Request, Route, body_bytes_max, check_query
from raftflow.api.figures.refusals import RefusedRequests
from raftflow.api.figures.request_counts import OTHER, OperationKey, now_s
from raftflow.api.forwarding.forwarder import Forwarder
from raftflow.api.forwarding.proof import ForwardingProof
from raftflow.api.http import bodies, problems
from raftflow.api.http.access_control import AccessControl
from raftflow.api.http.answer_headers import AnswerHeaders
from raftflow.api.http.identity import ANYBODY, ClientIdentity
from raftflow.api.http.problems import ProblemError
from raftflow.api.routes import large_submissions
from raftflow.api.routes.table import routes_of
from raftflow.coordinator.replica import Replica
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.contract.views import HEADER_REQUEST_ID

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:@+/=-]{1,128}")
_request_id: ContextVar[str] = ContextVar("request_id", default="")
_identity: ContextVar[ClientIdentity] = ContextVar("identity", default=ANYBODY)
"""Who sends a request. Operations that are open to everybody do not look at it."""

TOKEN_WAIT_STEP_S: Final = 0.02
TOKEN_WAIT_STEPS: Final = 15
"""A replica that follows waits so often for a token that it does not know."""
TOKEN_WAITS_MAX: Final = 16
"""Requests that may wait for that at a time; others are refused at once."""

REFUSED_STATUSES: Final = frozenset({401, 403})
"""What those get who may not ask."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Serves one replica. `application()` is given to aiohttp's runner."""

    def __init__(  # noqa: PLR0917 - all of them are needed
        self,
        replica: Replica,
        forwarder: Forwarder,
        admission: AdmissionControl,
        access: AccessControl,
        proof: ForwardingProof,
        host_facts: HostFacts,
    ) -> None:
        self._replica = replica
        self._access = access
        self._proof = proof
        self._forwarder = forwarder
        self._dispatcher = Dispatcher(replica, forwarder)
        self._shedder = admission.shedder
        self._figures = admission.figures
        self._limits = replica.config.limits
        self._budget = BodyBudget()
        self._refusals = RefusedRequests(replica.config.name, replica.clock.now_ms)
        self._routes = routes_of(admission, host_facts, self._refusals)
        self._answer_headers = AnswerHeaders(replica)
        self._operations = _operations_by_key(route.operation for route in self._routes)
        self._waiting_for_tokens = 0

    def application(self) -> web.Application:
        """Return the aiohttp application with every route."""
        app = web.Application(middlewares=[self._frame], client_max_size=0)
        for route in self._routes:
            operation, serve = route.operation, self._serve(route)
            for method in ("GET", "HEAD") if operation.method == "GET" else (operation.method,):
                app.router.add_route(method, operation.path, serve, expect_handler=_send_no_continue)
        app[large_submissions.KEY] = large_submissions.LargeSubmissions()
        app.on_cleanup.append(self._cleanup)
        return app

    async def _cleanup(self, app: web.Application) -> None:
        await app[large_submissions.KEY].reader.close()
        await self._forwarder.close()

    # --- around every request

    @web.middleware
    async def _frame(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = request.headers.get(HEADER_REQUEST_ID, "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = self._replica.ids.request_id()
        _request_id.set(request_id)
        began_s = now_s()
        try:
            await self._admit(request)
            response = await handler(request)
        except web.HTTPException as error:
            response = _options_answer(request, error) or _problem_of(error).response()
        except Exception as error:  # noqa: BLE001 - explained
            response = problems.explain(error, request_id, f"{request.method} {request.path}").response()
        sender = self._access.sender_of(request)
        if response.status in REFUSED_STATUSES:
            self._note_refusal(request, sender, response.status, request_id)
        self._answer_headers.add(response.headers, request_id, trusted=sender is not None)
        self._figures.answered(_operation_of(request), response.status, began_s)
        return response

    def _note_refusal(
        self, request: web.Request, sender: ClientIdentity | None, status: int, request_id: str
    ) -> None:
        """Note who was refused. A replica that passes requests on refuses them itself, and notes it there."""
        operation = self._operations.get(_operation_of(request))
        name = "another path" if operation is None else operation.name
        address = self._proof.client_of(request)
        self._refusals.note("" if sender is None else sender.name, address, name, status, request_id)

    async def _admit(self, request: web.Request) -> None:
        """Wait for this request's turn. One that will be refused waits in another queue. Raises `ProblemError`."""
        refusal: ProblemError | None = None
        try:
            await self._let_in(request)
        except ProblemError as error:
            refusal = error
        if refusal is None and request.match_info.http_exception is None:
            await self._shedder.enter(QueueClass.ORDINARY)
            return
        await self._shedder.enter(QueueClass.REFUSED)
        if refusal is not None:
            raise refusal

    async def _let_in(self, request: web.Request) -> None:
        """Check who sends a request, and whether it may. Raises `ProblemError`."""
        if self._access.may_be_new(request):
            await self._wait_for_token(request)
        identity = self._access.check(request, self._operations.get(_operation_of(request)))
        if identity is not None:
            _identity.set(identity)
            cast("Any", request.protocol).identity = identity  # of an `ApiConnection`

    async def _wait_for_token(self, request: web.Request) -> None:
        """Wait for a moment: a replica that follows hears of a new token a little later than the leader."""
        if self._replica.leader.leading or self._waiting_for_tokens >= TOKEN_WAITS_MAX:
            return
        self._waiting_for_tokens += 1
        try:
            for _ in range(TOKEN_WAIT_STEPS):
                await asyncio.sleep(TOKEN_WAIT_STEP_S)
                if self._access.sender_of(request) is not None:
                    return
        finally:
            self._waiting_for_tokens -= 1

    # --- one request

    def _serve(self, route: Route) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            check_query(route, request)
            if route.operation.access is Access.REPLICA and not self._proof.is_of_a_replica(request):
                raise ProblemError(problems.FORBIDDEN, "only replicas of this cluster may ask for this")
            limit = body_bytes_max(route, self._limits)
            with self._budget.reserve(self._expected_bytes(request)):
                body = await _read(route, request, limit)
                client = self._proof.client_of(request)
                call = Request(
                    self._replica, route, request, body, self._shedder, client, _identity.get(), _request_id.get()
                )
                if route.operation.answered_by is AnsweredBy.LEADER_WRITE:
                    _ = call.idempotency_key  # an invalid key is refused even if the operation ignores it
                return await self._dispatcher.dispatch(call)

        return serve

    def _expected_bytes(self, request: web.Request) -> int:
        """Return how many bytes of a body may come. A body above the limit is refused without being read."""
        size = request.content_length
        if size is None:
            size = self._limits.body_bytes if request.can_read_body else 0
        return min(size, self._limits.body_bytes)


async def _read(route: Route, request: web.Request, limit: int) -> bytes:
    operation = route.operation
    if not request.can_read_body and (operation.body is None or not operation.body_required):
        return b""
    if operation.body is not None:
        bodies.require_media_type(request, operation.body_media_type)
    return await bodies.read_body(request, limit, route.cure)


def _operations_by_key(operations: Iterable[Operation[Any]]) -> dict[OperationKey, Operation[Any]]:
    """Return operations by what metrics call them. HEAD is answered as GET."""
    by_key: dict[OperationKey, Operation[Any]] = {(each.method, each.path): each for each in operations}
    heads = {("HEAD", path): operation for (method, path), operation in by_key.items() if method == "GET"}
    return {**by_key, **heads}


def _operation_of(request: web.Request) -> OperationKey:
    """Return the operation that a request asks for, as metrics name it."""
    match = request.match_info
    resource = match.route.resource
    return OTHER if match.http_exception is not None or resource is None else (request.method, resource.canonical)


async def _send_no_continue(request: web.Request) -> None:
    """Send no `100 Continue` yet: the request may be refused before its body comes."""


def _options_answer(request: web.Request, error: web.HTTPException) -> web.Response | None:
    """Return the answer to OPTIONS: the methods that apply there, or anywhere. None for another method."""
    if request.method != "OPTIONS":
        return None
    if isinstance(error, web.HTTPMethodNotAllowed):
        return web.Response(status=204, headers={"Allow": _allowed(error)})
    if request.raw_path == "*":
        methods = {operation.method for operation in OPERATIONS} | {"HEAD", "OPTIONS"}
        return web.Response(status=204, headers={"Allow": ", ".join(sorted(methods))})
    return None


def _allowed(error: web.HTTPMethodNotAllowed) -> str:
    return ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))


def _problem_of(error: web.HTTPException) -> ProblemError:
    """Return the problem for what aiohttp itself refuses."""
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = _allowed(error)
        return ProblemError(
            problems.METHOD_NOT_ALLOWED,
            f"{error.method} does not apply here; use {allowed}",
            headers={"Allow": allowed},
        )
    if error.status == 404:
        return ProblemError(problems.NOT_FOUND, "there is nothing at this path; see /v1/openapi.json")
    if error.status == 413:
        return ProblemError(problems.TOO_LARGE, "the request is too large")
    if error.status >= 500:
        return ProblemError(problems.INTERNAL, "the replica failed")
    return ProblemError(problems.INVALID_DOCUMENT, error.reason or "the request cannot be understood")
