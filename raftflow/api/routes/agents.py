"""Routes of agents."""

from __future__ import annotations

from raftflow.api.dispatch.requests import (
    Cost,
    Request,
    Response,
    Route,
    as_json,
    encode,
    require_accepted,
    require_found,
)
from raftflow.api.http import problems
from raftflow.api.http.bodies import decode
from raftflow.api.http.problems import ProblemError, from_rejection
from raftflow.api.http.slices import in_slices
from raftflow.coordinator.clock import SystemClock
from raftflow.coordinator.replica import Replica
from raftflow.domain import limits
from raftflow.domain.commands import DrainAgent, ForgetAgent, ResumeAgent
from raftflow.domain.contract import operations
from raftflow.domain.contract.reportable import first_fault
from raftflow.domain.contract.views import (
    HEADER_CLOCK,
    AgentView,
    CallsRequest,
    CallsResponse,
    DrainRequest,
    FieldProblem,
    ForgottenAgent,
    PollRequest,
    PollResponse,
    RegisterRequest,
    RegisterResponse,
    ReportedEnd,
)
from raftflow.domain.rejections import Rejection
from raftflow.domain.tasks.resources import parse_amount
from raftflow.machine.read import queries

_CLOCK_DIGITS_MAX = 16
"""Digits of a clock: more is not a time."""


async def register_agent(call: Request) -> Response:
    """Register an agent or a new instance of one."""
    clock_skew_ms = _clock_skew_ms(call)  # first, because the log takes a while
    request = decode(call.body, RegisterRequest)
    call.identity.require_agent(request.name, request.labels)
    _check_results("offers", request.offers)
    registration = call.replica.registration
    command = registration.command(
        request, _capacity(request), at_ms=call.replica.clock.now_ms(), request_id=call.idempotency_key
    )
    reply, verdicts = await registration.register(command, request.offers)
    reply = require_accepted(reply)
    call.replica.poll_service.note_registration(request, reply.incarnation, clock_skew_ms)
    timing = call.replica.config.timing
    return Response(
        RegisterResponse(
            id=reply.name,
            incarnation=reply.incarnation,
            lease_ms=timing.lease_ms,
            poll_wait_ms=timing.poll_wait_ms,
            result_bytes_max=limits.RESULT_BYTES_MAX,
            feature_level=call.replica.machine.tables.feature_level,
            verdicts=verdicts,
        )
    )


def _clock_skew_ms(call: Request) -> int | None:
    """Return how far the clock of the agent is ahead of this machine's, None if it does not say."""
    told = call.request.headers.get(HEADER_CLOCK, "")
    if not (told.isascii() and told.isdigit() and len(told) < _CLOCK_DIGITS_MAX):
        return None
    return int(told) - SystemClock().now_ms()


def _capacity(request: RegisterRequest) -> dict[str, int]:
    capacity: dict[str, int] = {}
    errors: list[FieldProblem] = []
    for name, value in request.resources.items():
        try:
            capacity[name] = parse_amount(name, value)
        except ValueError as error:
            errors.append(FieldProblem(f"resources.{name[:80]}", str(error)[:500]))
    if errors:
        raise ProblemError(problems.INVALID_DOCUMENT, "the agent's resources are invalid", errors=errors)
    return capacity


async def poll(call: Request) -> Response:
    """Take reports; return a renewed lease, assignments and orders."""
    return Response(await answer_poll(call.replica, call.path("id"), call.body))


async def answer_poll(replica: Replica, name: str, body: bytes) -> PollResponse:
    """Answer one poll on the leader. Raises `ProblemError`s and `ProposeError`s."""
    request = read_poll(body)
    return poll_answer(replica, request, await replica.poll_service.poll(name, request))


def read_poll(body: bytes) -> PollRequest:
    """Read a poll. Raises `ProblemError`."""
    request = decode(body, PollRequest)
    if request.ends:
        _check_results("ends", request.ends)
    return request


def poll_answer(replica: Replica, request: PollRequest, reply: PollResponse | Rejection) -> PollResponse:
    """Return the answer to a poll. Raises `ProblemError` if the poll was refused."""
    if isinstance(reply, Rejection):
        raise from_rejection(reply, current_attempt=_current_attempt(replica, request))
    return reply


def _check_results(path: str, ends: list[ReportedEnd]) -> None:
    fault = first_fault(end.result for end in ends)
    if fault is not None:
        where = f"{path}[{fault[0]}].result"
        raise ProblemError(problems.INVALID_DOCUMENT, f"{where}: {fault[1]}", errors=[FieldProblem(where, fault[1])])


def _current_attempt(replica: Replica, request: PollRequest) -> int | None:
    """Return the current attempt of the first task of a report that was refused as a whole."""
    if not request.ends:
        return None
    view = queries.task_view(replica.machine, request.ends[0].workflow_id, request.ends[0].task_id)
    return None if view is None else view.attempt


async def send_calls(call: Request) -> Response:
    """Answer what running attempts of an agent ask."""
    return Response(await answer_calls(call.replica, call.path("id"), call.body))


async def answer_calls(replica: Replica, name: str, body: bytes) -> CallsResponse:
    """Answer calls of attempts on the leader. Raises `ProblemError`s and `ProposeError`s."""
    return await replica.attempt_calls.answer(name, decode(body, CallsRequest))


async def list_agents(call: Request) -> Response:
    """List agents in order of their names, each as it is when its line is made."""
    machine = call.replica.machine

    def encode_agent(name: str) -> bytes | None:
        view = queries.agent_view(machine, name)
        if view is None:
            return None
        _add_leader_view(call, view)
        return encode(view)

    views = await in_slices(sorted(machine.tables.agents), encode_agent)
    return as_json(b'{"agents":[%s]}' % b",".join(view for view in views if view is not None))


async def show_agent(call: Request) -> Response:
    """Show an agent."""
    name = call.path("id")
    view = require_found(queries.agent_view(call.replica.machine, name), f"agent {name!r}")
    _add_leader_view(call, view)
    return Response(view)


def _add_leader_view(call: Request, view: AgentView) -> None:
    """Add what only the leader's memory has."""
    leader = call.replica.leader
    if leader.leading:
        view.state = leader.liveness.public_state(view.id, view.state)
        view.trouble = leader.liveness.status.unfit.get(view.id, "")
        view.last_seen_s = leader.liveness.silent_s(view.id)
        view.pid, view.version, view.load = call.replica.poll_service.process_info(view.id)
        skew_ms = call.replica.poll_service.clock_skew_ms(view.id)
        view.clock_skew_s = None if skew_ms is None else skew_ms / 1000


async def drain_agent(call: Request) -> Response:
    """Give an agent no new work until it is resumed. With a deadline, running attempts move to other agents then."""
    request = decode(call.body, DrainRequest) if call.body else DrainRequest()
    command = DrainAgent(
        at_ms=call.replica.clock.now_ms(),
        actor=call.actor,
        request_id=call.idempotency_key,
        name=call.path("id"),
        deadline_ms=round((request.deadline_s or 0) * 1000),
    )
    require_accepted(await call.replica.propose(command, call.client))
    return await show_agent(call)


async def resume_agent(call: Request) -> Response:
    """Let an agent work again."""
    command = ResumeAgent(
        at_ms=call.replica.clock.now_ms(), actor=call.actor, request_id=call.idempotency_key, name=call.path("id")
    )
    require_accepted(await call.replica.propose(command, call.client))
    return await show_agent(call)


async def forget_agent(call: Request) -> Response:
    """Remove an agent that is gone from the list."""
    name = call.path("id")
    command = ForgetAgent(
        at_ms=call.replica.clock.now_ms(), actor=call.actor, request_id=call.idempotency_key, name=name
    )
    require_accepted(await call.replica.propose(command, call.client))
    return Response(ForgottenAgent(name=name))


POLL_ROUTE = Route(operations.agents.POLL, poll)

ROUTES: tuple[Route, ...] = (
    Route(
        operations.agents.REGISTER_AGENT,
        register_agent,
        small=True,
        cure=f"labels: at most {limits.LABELS_MAX}, resources: at most {limits.RESOURCES_PER_TASK_MAX}, "
        f"version: at most {limits.VERSION_CHARS_MAX} characters, offers: as many as fit",
    ),
    Route(operations.agents.LIST_AGENTS, list_agents, cost=Cost.LARGE),
    Route(operations.agents.SHOW_AGENT, show_agent),
    POLL_ROUTE,
    Route(operations.agents.SEND_CALLS, send_calls),
    Route(operations.agents.DRAIN_AGENT, drain_agent),
    Route(operations.agents.RESUME_AGENT, resume_agent),
    Route(operations.agents.FORGET_AGENT, forget_agent),
)
