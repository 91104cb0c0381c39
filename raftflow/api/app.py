"""The HTTP application: every request takes the same way through it.

    request id ─► token ─► same site ─► its turn ─► body within its limit ─► who answers? ─┬─► handler ─► answer
                                                                               ├─► leader (one hop)
                                                                               └─► 307 for an agent's poll
Whatever goes wrong on that way ends as a problem document, and every answer carries the replica's index, term and
leader.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from aiohttp import web
from yarl import URL

from raftflow.api import metrics, openapi
from raftflow.api.admission.gated_connection import AdmissionControl
from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.figures.request_counts import OTHER, Operation, now_s
from raftflow.api.forwarding.forwarder import Forwarder, LeaderUnreachableError, redirect
from raftflow.api.forwarding.proof import ForwardingProof
from raftflow.api.http import bodies, problems
from raftflow.api.http.hosts import Hosts, check_origin
from raftflow.api.http.problems import ProblemError, from_error
from raftflow.api.http.requests import (
    LEADER_LOOK_S,
    LEADER_WAIT_S,
    SMALL_PAGE,
    UNKNOWN_CLIENT,
    Access,
    Cost,
    Request,
    Response,
    Route,
    check_query,
    encode,
)
from raftflow.api.routes import agents, cache, cluster, inputs, large_submissions, logs, members, workflows
from raftflow.coordinator.commit.submitter import NoLeaderError, NotLeaderError, ProposeError
from raftflow.coordinator.replica import Replica
from raftflow.coordinator.sessions.log_relay import LogUnavailableError
from raftflow.domain.contract.views import (
    HEADER_FORWARDED,
    HEADER_FORWARDED_PROOF,
    HEADER_INDEX,
    HEADER_LEADER,
    HEADER_PEERS,
    HEADER_REQUEST_ID,
    HEADER_TERM,
)

_log = logging.getLogger(__name__)

BODIES_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of large bodies that may be in memory at one time."""
SMALL_BODY_BYTES = 64 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:@+/=-]{1,128}")
_request_id: ContextVar[str] = ContextVar("request_id", default="")

_DESCRIBED = (
    *workflows.ROUTES,
    *logs.ROUTES,
    *agents.ROUTES,
    *inputs.ROUTES,
    *cluster.ROUTES,
    *members.ROUTES,
    *cache.ROUTES,
    *metrics.ROUTES,
    openapi.SCHEMA_ROUTE,
)
ROUTES: tuple[Route, ...] = (*_DESCRIBED, openapi.route_of(_DESCRIBED))
_OPEN_PATHS = frozenset(route.path for route in ROUTES if route.is_open)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """Serves one replica. `application()` is given to aiohttp's runner."""

    def __init__(
        self,
        replica: Replica,
        forwarder: Forwarder,
        admission: AdmissionControl,
        hosts: Hosts,
        proof: ForwardingProof,
    ) -> None:
        self._replica = replica
        self._hosts = hosts
        self._proof = proof
        self._forwarder = forwarder
        self._admission = admission
        self._shedder = admission.shedder
        token = replica.config.token
        self._token = None if token is None else token.encode()
        self._limits = replica.config.limits
        self._bodies_bytes = 0

    def application(self) -> web.Application:
        """Return the aiohttp application with every route."""
        app = web.Application(middlewares=[self._frame], client_max_size=0)
        for route in ROUTES:
            serve = self._serve(route)
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                app.router.add_route(method, route.path, serve, expect_handler=_expect_nothing)
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
        except ProblemError as error:
            response = error.response()
        except (ProposeError, LogUnavailableError) as error:
            response = from_error(error).response()
        except web.HTTPException as error:
            response = _options(request, error) or _from_http(error).response()
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - logged; the client gets no more than the request id
            _log.exception("request %s: %s %s failed", request_id, request.method, request.path)
            response = ProblemError(
                problems.INTERNAL, f"the replica failed; its log has the reason under request id {request_id}"
            ).response()
        self._stamp(response, request_id)
        self._admission.figures.answered(_operation(request), response.status, began_s)
        return response

    def _stamp(self, response: web.StreamResponse, request_id: str) -> None:
        stamp = self._replica.log.stamp()
        headers = response.headers
        headers[HEADER_REQUEST_ID] = request_id
        # An answer that was passed on keeps what the leader said.
        headers.setdefault(HEADER_INDEX, str(stamp.applied_index))
        headers.setdefault(HEADER_TERM, str(stamp.term))
        headers.setdefault(HEADER_LEADER, stamp.leader or "")
        headers[HEADER_PEERS] = self._replica.peer_urls()

    async def _admit(self, request: web.Request) -> None:
        """Wait for this request's turn; one that will be refused waits elsewhere. Raises `ProblemError`."""
        refusal: ProblemError | None = None
        try:
            self._check_caller(request)
        except ProblemError as error:
            refusal = error
        if refusal is None and request.match_info.http_exception is None:
            await self._shedder.enter(QueueClass.ORDINARY)
            return
        await self._shedder.enter(QueueClass.REFUSED)
        if refusal is not None:
            raise refusal

    def _check_caller(self, request: web.Request) -> None:
        bodies.require_plain(request)
        if request.method == "CONNECT":
            raise ProblemError(
                problems.METHOD_NOT_ALLOWED, "a replica is not a proxy", headers={"Allow": "", "Connection": "close"}
            )
        self._check_host(request)
        if self._token is not None and request.path not in _OPEN_PATHS:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            good = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token)
            if scheme.lower() != "bearer" or not good:
                raise ProblemError(
                    problems.UNAUTHORIZED,
                    "send Authorization: Bearer and the cluster's token (RAFTFLOW_TOKEN)",
                    headers={"WWW-Authenticate": 'Bearer realm="raftflow"'},
                )
        check_origin(request.headers.getall("Origin", []), request.headers.get("Host"))

    def _check_host(self, request: web.Request) -> None:
        """Refuse a name that is not this replica's; whether it is well says it under any name."""
        host, target = request.headers.get("Host"), request.raw_path
        # A target that begins with "/" names no host.
        if not target.startswith("/") and _authority_of(target) not in {None, (host or "").lower()}:
            raise ProblemError(problems.INVALID_DOCUMENT, "the request line and Host name different hosts")
        if request.path not in _OPEN_PATHS:
            name = request.transport.get_extra_info("sockname") if request.transport is not None else None
            self._hosts.check(host, str(name[0]) if isinstance(name, tuple) else "")

    def _client_of(self, request: web.Request) -> str:
        """Return the address of the client; of one that another replica passes on, if that proves itself."""
        client, named = request.remote or UNKNOWN_CLIENT, request.headers.get(HEADER_FORWARDED)
        if named is None:
            return client
        proof, request_id = (
            request.headers.get(HEADER_FORWARDED_PROOF, ""),
            request.headers.get(HEADER_REQUEST_ID, ""),
        )
        good = self._proof.holds(proof, named, request.method, request.rel_url.raw_path_qs, request_id)
        return named if good else client

    # --- one request

    def _serve(self, route: Route) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            check_query(route, request)
            with self._room_for_body(request):
                body = await self._body(route, request)
                client = self._client_of(request)
                call = Request(self._replica, route, request, body, self._admission, client)
                if route.access is Access.WRITE:
                    _ = call.idempotency_key  # refused where it cannot be one, whether this operation needs it or not
                return await self._dispatch(call)

        return serve

    @contextmanager
    def _room_for_body(self, request: web.Request) -> Iterator[None]:
        """Keep the bodies that are in memory at one time within a bound. Raises `ProblemError`."""
        size = request.content_length
        if size is None:
            size = self._limits.body_bytes if request.can_read_body else 0
        size = min(size, self._limits.body_bytes)  # a larger one is refused without being read
        if size <= SMALL_BODY_BYTES:
            yield
            return
        if self._bodies_bytes and self._bodies_bytes + size > BODIES_BYTES_MAX:
            raise ProblemError(problems.QUEUE_FULL, "too many large requests are being worked on; try again later")
        self._bodies_bytes += size
        try:
            yield
        finally:
            self._bodies_bytes -= size

    async def _body(self, route: Route, request: web.Request) -> bytes:
        if not request.can_read_body and (route.body is None or not route.body_required):
            return b""
        if route.body is not None:
            bodies.require_json(request)
        small = route.small or route.access is Access.POLL or route.body is None
        limit = self._limits.poll_bytes if small else self._limits.body_bytes
        return await bodies.read_body(request, limit, route.cure)

    async def _dispatch(self, call: Request) -> web.StreamResponse:
        """Answer here, or pass on; while a leader is elected, wait for it a little."""
        access = call.route.access
        if access is Access.LOCAL or (access is Access.READ and "stale" in call.request.query):
            return await self._answer(call)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + LEADER_WAIT_S
        while True:
            try:
                if self._replica.leader.leading:
                    if access is Access.READ:
                        await self._replica.read_barrier()
                        # One barrier lets all go on that have waited for it, which would be one long turn.
                        await self._shedder.enter(QueueClass.ORDINARY)
                    return await self._answer(call)
                return await self._elsewhere(call, self._replica.submitter.no_leader_error())
            except NotLeaderError as error:
                # Leadership was lost on the way. The command is in no log, so it can be sent to the new leader.
                failure: ProposeError | ProblemError = error
            except NoLeaderError as error:
                failure = error
            except LeaderUnreachableError as error:
                failure = error
                if error.replaced:
                    until_s = loop.time() + LEADER_WAIT_S
            if loop.time() >= until_s or HEADER_FORWARDED in call.request.headers:
                raise failure
            await asyncio.sleep(LEADER_LOOK_S)

    async def _answer(self, call: Request) -> web.StreamResponse:
        """Answer here; calls that make much work run one at a time. Raises `ProblemError`."""
        cost = call.route.cost
        if cost is Cost.USUAL or (cost is Cost.PAGE and call.require_number("limit") <= SMALL_PAGE):
            return _respond(await call.route.handler(call))
        async with self._shedder.long() if cost is Cost.LONG else self._shedder.heavy():
            return _respond(await call.route.handler(call))

    async def _elsewhere(self, call: Request, leader: NoLeaderError | NotLeaderError) -> web.StreamResponse:
        if isinstance(leader, NoLeaderError):
            raise leader
        if call.route.access is Access.POLL:
            return redirect(call.request, leader.leader_url)
        if HEADER_FORWARDED in call.request.headers:
            raise leader
        return await self._forwarder.forward(
            call.route, call.request, call.body, leader.leader_url, _request_id.get()
        )


def _authority_of(target: str) -> str | None:
    """Return the host and port that the target of a request names in lower case, None if it names none."""
    url = URL(target, encoded=True)  # aiohttp has read the target in the same way before
    return url.raw_authority.lower() if url.absolute else None


def _operation(request: web.Request) -> Operation:
    """Return which operation a request asks for, as metrics name it."""
    match = request.match_info
    resource = match.route.resource
    return OTHER if match.http_exception is not None or resource is None else (request.method, resource.canonical)


async def _expect_nothing(request: web.Request) -> None:
    """Say nothing yet to a client that waits before it sends a body: it may be refused."""


def _respond(answer: Response) -> web.Response:
    if isinstance(answer.content, bytes):
        return web.Response(status=answer.status, body=answer.content, headers=answer.headers)
    return web.Response(
        status=answer.status, body=encode(answer.content), content_type="application/json", headers=answer.headers
    )


def _options(request: web.Request, error: web.HTTPException) -> web.Response | None:
    """Return the answer to OPTIONS: which methods apply there, or anywhere. None if that was not the question."""
    if request.method != "OPTIONS":
        return None
    if isinstance(error, web.HTTPMethodNotAllowed):
        return web.Response(status=204, headers={"Allow": _allowed(error)})
    if request.raw_path == "*":
        methods = {route.method for route in ROUTES} | {"HEAD", "OPTIONS"}
        return web.Response(status=204, headers={"Allow": ", ".join(sorted(methods))})
    return None


def _allowed(error: web.HTTPMethodNotAllowed) -> str:
    return ", ".join(sorted({*error.allowed_methods, "OPTIONS"}))


def _from_http(error: web.HTTPException) -> ProblemError:
    """Turn what aiohttp itself refuses into a problem."""
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
