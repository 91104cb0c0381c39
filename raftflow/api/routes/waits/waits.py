"""Routes of signals and approvals."""

from __future__ import annotations

from hashlib import sha256
from typing import cast

from raftflow.api.dispatch.requests import Cost, Request, Response, Route, require_accepted, require_found
from raftflow.api.http import problems
from raftflow.api.http.bodies import decode
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.calls.schemas import SCHEMA_TRIES
from raftflow.domain.commands import DecideApproval, SendSignal
from raftflow.domain.contract import operations
from raftflow.domain.contract.reportable import result_fault
from raftflow.domain.contract.views import ApprovalState, ApprovalView, DecisionRequest, FieldProblem, SignalSent
from raftflow.domain.limits import CURSOR_CHARS_MAX, SIGNAL_BYTES_MAX
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import SignalTaken
from raftflow.domain.values.exact import find_fault, write_json
from raftflow.machine.read import waits

_DIGEST_CHARS = 40
_DECISION_BYTES_MAX = 1024 * 1024
"""Of the body of a decision, which may be written with more bytes than are kept of it."""


async def send_signal(call: Request) -> Response:
    """Send a signal. If the wait that takes it has a schema, the payload is compared with it before."""
    workflow_id, name = call.path("id"), call.path("name")
    payload = bytes(call.body) or b"null"
    wrong = result_fault(payload, bytes_max=SIGNAL_BYTES_MAX)
    if wrong is not None:
        raise ProblemError(problems.INVALID_DOCUMENT, wrong.replace("the result", "the payload", 1))
    for _ in range(SCHEMA_TRIES):
        found = waits.schema_for(call.replica.machine, workflow_id, name)
        fault = None if found is None else await call.replica.attempt_calls.schemas.fault(found.schema, payload)
        if fault is not None:
            await call.replica.read_barrier()  # one that was counted before is not for this wait
            if not waits.knows_signal(call.replica.machine, workflow_id, call.idempotency_key):
                told = f"the payload does not fit what the task expects: {fault}"
                raise ProblemError(problems.INVALID_DOCUMENT, told)
        command = SendSignal(
            at_ms=call.replica.clock.now_ms(),
            actor=call.actor,
            request_id=_request_id(workflow_id, call.idempotency_key),
            workflow_id=workflow_id,
            name=name,
            payload=payload,
            key=call.idempotency_key,
            checked=0 if found is None else found.wait,
        )
        reply = await call.replica.propose(command, call.client)
        if not (isinstance(reply, Rejection) and reply.code is RejectionCode.PENDING):
            break
    taken: SignalTaken = require_accepted(reply)
    return Response(SignalSent(state=taken.state, task=taken.task_id or None))


def _request_id(workflow_id: str, key: str) -> str:
    """Return what a signal is remembered by. Keys belong to a workflow: two workflows may get signals of one key."""
    return f"signal-{sha256(f'{workflow_id} {key}'.encode()).hexdigest()[:_DIGEST_CHARS]}" if key else ""


async def list_approvals(call: Request) -> Response:
    """List approvals."""
    state = cast("ApprovalState | None", call.text("state"))
    cursor = call.text("cursor")
    if cursor is not None and not (cursor.isdecimal() and cursor.isascii() and len(cursor) <= CURSOR_CHARS_MAX):
        raise ProblemError(problems.INVALID_DOCUMENT, "query parameter 'cursor': it is not the `next` of a page")
    return Response(waits.approval_page(call.replica.machine, state, call.require_number("limit"), cursor))


def _number(call: Request) -> int:
    name = call.path("id")
    if not (name.isdecimal() and name.isascii() and len(name) <= CURSOR_CHARS_MAX):
        raise ProblemError(problems.NOT_FOUND, f"there is no approval {name[:80]!r}")
    return int(name)


def _view(call: Request, number: int) -> ApprovalView:
    view: ApprovalView = require_found(waits.approval_view(call.replica.machine, number), f"approval '{number}'")
    return view


async def show_approval(call: Request) -> Response:
    """Show an approval."""
    return Response(_view(call, _number(call)))


async def decide_approval(call: Request) -> Response:
    """Decide an approval."""
    if len(call.body) > _DECISION_BYTES_MAX:
        told = (
            f"the decision has {len(call.body)} bytes, which is too much: write the payload to a file, send its path"
        )
        raise ProblemError(problems.INVALID_DOCUMENT, told)
    wanted, number = decode(call.body, DecisionRequest), _number(call)
    fault = find_fault(wanted.payload)
    if fault is not None:
        path = ".".join(part for part in ("payload", fault.path) if part).replace(".[", "[")
        told = f"the payload is not a value: {path}: {fault.message}"
        raise ProblemError(problems.INVALID_DOCUMENT, told, errors=[FieldProblem(path, fault.message)])
    command = DecideApproval(
        at_ms=call.replica.clock.now_ms(),
        actor=call.actor,
        request_id=call.idempotency_key,
        number=number,
        choice=wanted.choice,
        comment=wanted.comment,
        payload=write_json(wanted.payload),
    )
    require_accepted(await call.replica.propose(command, call.client))
    return Response(_view(call, number))


ROUTES: tuple[Route, ...] = (
    Route(operations.waits.SEND_SIGNAL, send_signal),
    Route(operations.waits.LIST_APPROVALS, list_approvals, cost=Cost.LARGE),
    Route(operations.waits.SHOW_APPROVAL, show_approval),
    Route(operations.waits.DECIDE_APPROVAL, decide_approval),
)
