"""Operations of the resource ledger."""

from __future__ import annotations

from typing import Final

from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Verb
from raftflow.domain.contract.views import LedgerCheck, LedgerView

SHOW_LEDGER: Final = Operation(
    name="show_ledger",
    method="GET",
    path="/v1/ledger",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Show capacity and allocation of every agent",
    answer=LedgerView,
    items="agents",
    verb=Verb(noun="ledger", name="show", by_hand=True),
)
VERIFY_LEDGER: Final = Operation(
    name="verify_ledger",
    method="GET",
    path="/v1/ledger/verify",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.READ,
    summary="Check this replica's invariants",
    answer=LedgerCheck,
    answer_s=60.0,
    verb=Verb(noun="ledger", name="verify", by_hand=True),
)
