"""Operations of the resource ledger."""

from __future__ import annotations

from typing import Final

from raftflow.domain.contract.operation import AnsweredBy, Operation
from raftflow.domain.contract.views import LedgerCheck, LedgerView

SHOW_LEDGER: Final = Operation(
    name="show_ledger",
    method="GET",
    path="/v1/ledger",
    answered_by=AnsweredBy.LEADER_READ,
    summary="Show the account of every agent",
    answer=LedgerView,
    items="agents",
)
VERIFY_LEDGER: Final = Operation(
    name="verify_ledger",
    method="GET",
    path="/v1/ledger/verify",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Check this replica's invariants",
    answer=LedgerCheck,
)
