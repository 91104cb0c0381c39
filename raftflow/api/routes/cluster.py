"""Routes of the cluster: status, health, ledger, audit. The replica that was asked answers most of them."""

from __future__ import annotations

import asyncio

from raftflow.api.dispatch.requests import Cost, Request, Response, Route, as_json, encode
from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.api.http.slices import in_slices
from raftflow.coordinator.audit.frames import GAP, AuditError, Frame, record_of
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import AuditLine, AuditPage, HealthView, LedgerCheck
from raftflow.domain.values.times import iso_utc
from raftflow.machine.machine import Machine
from raftflow.machine.read import invariants, queries

_OFF_LOOP_TASKS = 3_000
"""Above it a check runs in a thread: it takes about 3 microseconds a task, and the loop sends heartbeats."""
_CHECK_TRIES = 5


async def show_status(call: Request) -> Response:
    """Show this replica."""
    return Response(call.replica.status())


async def show_leader(call: Request) -> Response:
    """Name the leader, at once or when a leader of a later term is known."""
    return Response(await call.replica.news.wait(call.require_number("term"), call.hold_s("wait_ms")))


async def check_health(call: Request) -> Response:
    """Tell whether the process is alive."""
    view = call.replica.status()
    return Response(HealthView(ok=True, name=view.name, role=view.role))


async def check_readiness(call: Request) -> Response:
    """Tell whether this replica serves."""
    view = call.replica.status()
    if not view.ready:
        raise ProblemError(
            problems.NO_LEADER,
            f"replica {view.name} is not ready: {view.role} in term {view.term}, leader {view.leader or 'unknown'}",
        )
    return Response(HealthView(ok=True, name=view.name, role=view.role))


async def show_ledger(call: Request) -> Response:
    """Show the account of every agent, all at one index."""
    index, accounts = queries.ledger_accounts(call.replica.machine)
    lines = await in_slices(accounts, lambda account: encode(queries.ledger_line(account)))
    return as_json(b'{"index":%d,"agents":[%s]}' % (index, b",".join(lines)))


async def verify_ledger(call: Request) -> Response:
    """Check every invariant of the state machine on this replica."""
    machine = call.replica.machine
    index, found = await _check_invariants(machine)
    return Response(LedgerCheck(ok=not found, index=index, problems=found[:100], replica=call.replica.config.name))


async def _check_invariants(machine: Machine) -> tuple[int, list[str]]:
    """Check at one index.

    A large state is read in a thread, and the result is used only if nothing was applied meanwhile. Raises
    `ProblemError` if entries were applied during every try: a check on the loop would stop the replica.
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
            continue  # the tables changed during the check
        if machine.applied_index == index:
            return index, found
    raise ProblemError(
        problems.QUEUE_FULL,
        f"the state changed each of the {_CHECK_TRIES} times that it was read; try again when it changes less",
    )


async def list_audit(call: Request) -> Response:
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


async def verify_audit(call: Request) -> Response:
    """Check this replica's audit file."""
    return Response(await call.replica.verify_audit())


ROUTES: tuple[Route, ...] = (
    Route(operations.replicas.SHOW_STATUS, show_status),
    Route(operations.replicas.SHOW_LEADER, show_leader),
    Route(operations.replicas.CHECK_HEALTH, check_health),
    Route(operations.replicas.CHECK_READINESS, check_readiness),
    Route(operations.ledger.SHOW_LEDGER, show_ledger, cost=Cost.LARGE),
    Route(operations.ledger.VERIFY_LEDGER, verify_ledger, cost=Cost.LONG),
    Route(operations.audit.LIST_AUDIT, list_audit, cost=Cost.LARGE),
    Route(operations.audit.VERIFY_AUDIT, verify_audit, cost=Cost.LONG),
)
