"""The resource ledger as the API shows it."""

from __future__ import annotations

import msgspec


class LedgerLine(msgspec.Struct, kw_only=True):
    """One agent's account."""

    name: str
    capacity: dict[str, float]
    allocated: dict[str, float]


class LedgerView(msgspec.Struct, kw_only=True):
    """What `ledger show` prints."""

    index: int
    agents: list[LedgerLine]


class LedgerCheck(msgspec.Struct, kw_only=True):
    """What `ledger verify` prints: every invariant of the machine, checked on one replica at one index."""

    ok: bool
    index: int
    problems: list[str]
    replica: str = ""
