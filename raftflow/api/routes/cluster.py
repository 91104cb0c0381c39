"""Routes about the cluster itself: status, health, ledger, audit. Most are answered by the replica that was asked."""

from __future__ import annotations

import asyncio

import msgspec

from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.api.http.requests import Access, Cost, Param, Request, Response, Route, as_json, encode
from raftflow.api.http.slices import in_slices
from raftflow.coordinator.audit.frames import GAP, AuditError, Frame, record_of
from raftflow.coordinator.leader.leader_news import HOLD_MAX_S
from raftflow.domain.contract.views import (
    AuditCheck,
    AuditLine,
    AuditPage,
    LeaderNotice,
    LedgerCheck,
    LedgerView,
    ReplicaStatus,
)
from raftflow.domain.values.times import iso_utc
from raftflow.machine.machine import Machine
from raftflow.machine.read import invariants, queries

_AUDIT_PAGE_MAX = 1_000
_OFF_LOOP_TASKS = 3_000
"""A check takes about 3 microseconds a task, during which the replica sends no heartbeat."""
_CHECK_TRIES = 5


class HealthView(msgspec.Struct):
    """`GET /healthz` and `GET /readyz`."""

    ok: bool
    name: str
    role: str


async def status(call: Request) -> Response:
    """Show this replica."""
    return Response(call.replica.status())


async def leader(call: Request) -> Response:
    """Say who leads, at once or when a leader of a later term is known."""
    return Response(await call.replica.news.wait(call.require_number("term"), call.hold_s("wait_ms")))


async def healthz(call: Request) -> Response:
    """Tell whether the process is alive."""
    view = call.replica.status()
    return Response(HealthView(ok=True, name=view.name, role=view.role))


async def readyz(call: Request) -> Response:
    """Tell whether this replica serves."""
    view = call.replica.status()
    if not view.ready:
        raise ProblemError(
            problems.NO_LEADER,
            f"replica {view.name} is not ready: {view.role} in term {view.term}, leader {view.leader or 'unknown'}",
        )
    return Response(HealthView(ok=True, name=view.name, role=view.role))


async def ledger(call: Request) -> Response:
    """Show every agent's account, all as of one index."""
    index, accounts = queries.ledger_accounts(call.replica.machine)
    lines = await in_slices(accounts, lambda account: encode(queries.ledger_line(account)))
    return as_json(b'{"index":%d,"agents":[%s]}' % (index, b",".join(lines)))


async def ledger_verify(call: Request) -> Response:
    """Check every invariant of the state machine on this replica."""
    machine = call.replica.machine
    index, found = await _check_invariants(machine)
    return Response(LedgerCheck(ok=not found, index=index, problems=found[:100], replica=call.replica.config.name))


async def _check_invariants(machine: Machine) -> tuple[int, list[str]]:
    """Check at one index. A large state is read in a thread, which counts only if nothing was applied meanwhile.

    Raises `ProblemError` if something always is: to read it on the spot would make the replica stand still.
    """
    if sum(len(workflow.tasks) for workflow in machine.tables.workflows.values()) <= _OFF_LOOP_TASKS:
        return machine.applied_index, invariants.check(machine)
    for _ in range(_CHECK_TRIES):
        index = machine.applied_index
        try:
            found = await asyncio.get_running_loop().run_in_executor(None, invariants.check, machine)
        except Exception:
            if machine.applied_index == index:
                raise
            continue  # the tables changed under the reader
        if machine.applied_index == index:
            return index, found
    raise ProblemError(
        problems.QUEUE_FULL,
        f"the state changed each of the {_CHECK_TRIES} times that it was read; try again when less is going on",
    )


async def audit(call: Request) -> Response:
    """List this replica's audit records in log order."""
    first, limit = call.require_number("from"), call.require_number("limit")
    try:
        frames, following = await call.replica.audit.read(first, limit)
    except AuditError as error:
        raise ProblemError(problems.INTERNAL, str(error)) from error
    lines = await in_slices((frame for frame in frames if frame.kind != GAP), _line)
    return Response(AuditPage(records=lines, next=following, replica=call.replica.config.name))


def _line(frame: Frame) -> AuditLine:
    record = record_of(frame)
    return AuditLine(
        index=record.index,
        position=record.position,
        term=record.term,
        at=iso_utc(record.at_ms),
        actor=record.actor,
        command=record.command,
        subject=record.subject,
        request_id=record.request_id,
        outcome=record.outcome,
        detail=record.detail,
        transitions=list(record.transitions),
        chain=record.chain.hex(),
    )


async def audit_verify(call: Request) -> Response:
    """Check this replica's audit file."""
    return Response(await call.replica.verify_audit())


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/status", Access.LOCAL, status, "Show this replica: role, term, leader, indexes", ReplicaStatus),
    Route(
        "GET",
        "/v1/leader",
        Access.LOCAL,
        leader,
        "Say who leads, as far as this replica knows; with `wait_ms` once that is the leader of a later term. "
        "Whoever waits for a leader that may be silent learns from another replica that there is a new one",
        LeaderNotice,
        params=(
            Param("term", "integer", "a leader of this term, or an earlier one, brings no news", default=0),
            Param("wait_ms", "integer", "how long to wait for news", most=int(HOLD_MAX_S * 1000), default=0),
        ),
    ),
    Route("GET", "/healthz", Access.LOCAL, healthz, "Tell whether the process is alive", HealthView, is_open=True),
    Route(
        "GET",
        "/readyz",
        Access.LOCAL,
        readyz,
        "Tell whether this replica serves",
        HealthView,
        is_open=True,
        problems=(problems.NO_LEADER,),
    ),
    Route("GET", "/v1/ledger", Access.READ, ledger, "Show every agent's account", LedgerView, cost=Cost.LARGE),
    Route(
        "GET",
        "/v1/ledger/verify",
        Access.LOCAL,
        ledger_verify,
        "Check this replica's invariants",
        LedgerCheck,
        cost=Cost.LONG,
    ),
    Route(
        "GET",
        "/v1/audit",
        Access.LOCAL,
        audit,
        "List this replica's audit records in log order",
        AuditPage,
        params=(
            Param("from", "integer", "log index to begin at", default=0),
            Param(
                "limit",
                "integer",
                "about how many records; those of one log entry stay together",
                least=1,
                most=_AUDIT_PAGE_MAX,
                default=100,
            ),
        ),
        cost=Cost.LARGE,
    ),
    Route(
        "GET",
        "/v1/audit/verify",
        Access.LOCAL,
        audit_verify,
        "Check this replica's audit file",
        AuditCheck,
        cost=Cost.LONG,
    ),
)
