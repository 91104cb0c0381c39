"""Operations of the audit."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Param, Verb
from raftflow.domain.contract.views import AuditCheck, AuditPage, RefusalPage

LIST_AUDIT: Final = Operation(
    name="list_audit",
    method="GET",
    path="/v1/audit",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.READ,
    summary="List this replica's audit records in log order",
    answer=AuditPage,
    items="records",
    params=(
        Param("from", "integer", "log index to begin at", default=0),
        Param(
            "limit",
            "integer",
            "about how many records; those of one log entry stay together",
            minimum=1,
            maximum=limits.AUDIT_PAGE_RECORDS_MAX,
            default=100,
        ),
    ),
    verb=Verb(noun="audit", name="list", by_hand=True),
)
VERIFY_AUDIT: Final = Operation(
    name="verify_audit",
    method="GET",
    path="/v1/audit/verify",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.READ,
    summary="Check this replica's audit file",
    answer=AuditCheck,
    answer_s=300.0,
    verb=Verb(noun="audit", name="verify", by_hand=True),
)
LIST_REFUSALS: Final = Operation(
    name="list_refusals",
    method="GET",
    path="/v1/refusals",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.READ,
    summary="List the requests that this replica has refused because of who sent them",
    answer=RefusalPage,
    items="refusals",
    no_verb="`audit list --refused` asks every replica",
)
