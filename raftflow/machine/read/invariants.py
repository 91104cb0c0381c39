"""What must hold after every command, checked from scratch: each table against the facts that it follows from.

For `ledger verify` and for tests. The invariants of a table are part of its declaration (`schema`). They read
everything, so they cost time in proportion to the state.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from raftflow.machine.schema.registry import problems

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine

PROBLEMS_MAX = 100
"""Reported at most; more of the same does not help."""


def check(machine: Machine) -> list[str]:
    """Return what is wrong, at most `PROBLEMS_MAX` faults. The list is empty if nothing is wrong."""
    return list(islice(problems(machine.state, machine.clock_ms), PROBLEMS_MAX))
