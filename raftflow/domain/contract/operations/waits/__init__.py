"""Operations of signals and approvals."""

from __future__ import annotations

from typing import Final, get_args

import msgspec

from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import CURSOR, PAGE_SIZE, Access, AnsweredBy, Operation, Param, Verb
from raftflow.domain.contract.views import ApprovalPage, ApprovalState, ApprovalView, DecisionRequest, SignalSent
from raftflow.domain.values.results import STEP_NAME_PATTERN

SEND_SIGNAL: Final = Operation(
    name="send_signal",
    method="POST",
    path="/v1/workflows/{id}/signals/{name}",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.SUBMIT,
    summary="Send a signal to a workflow",
    details=(
        "The task that began first to wait for a signal of this name gets the payload, any JSON. Without one the "
        "signal is kept for a task that will wait. A signal is counted once for its idempotency key."
    ),
    answer=SignalSent,
    body=msgspec.Raw,
    body_required=False,
    path_rules={"name": {"pattern": STEP_NAME_PATTERN}},
    extra_problems=(problems.CONFLICT, problems.TOO_LARGE),
    verb=Verb(noun="signal", name="send", by_hand=True),
)
LIST_APPROVALS: Final = Operation(
    name="list_approvals",
    method="GET",
    path="/v1/approvals",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List what tasks ask people to decide, oldest first",
    answer=ApprovalPage,
    items="approvals",
    params=(
        Param("state", "string", "only approvals in this state", get_args(ApprovalState)),
        PAGE_SIZE,
        CURSOR,
    ),
    verb=Verb(noun="approval", name="list", by_hand=True),
)
SHOW_APPROVAL: Final = Operation(
    name="show_approval",
    method="GET",
    path="/v1/approvals/{id}",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Show an approval: what is asked, and who decided what",
    answer=ApprovalView,
    verb=Verb(noun="approval", name="show"),
)
DECIDE_APPROVAL: Final = Operation(
    name="decide_approval",
    method="POST",
    path="/v1/approvals/{id}",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.APPROVE,
    summary="Decide an approval",
    details="The first decision counts. A later one is refused, and told who decided what, and when.",
    answer=ApprovalView,
    body=DecisionRequest,
    extra_problems=(problems.CONFLICT, problems.TOO_LARGE),
    verb=Verb(noun="approval", name="approve", by_hand=True),
)
