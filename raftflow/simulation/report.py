"""What came of a run."""

from __future__ import annotations

import msgspec

from raftflow.simulation.checkers.history import Violation


class Report(msgspec.Struct, kw_only=True):
    """The outcome of a run."""

    seed: int
    violations: list[Violation]
    faults: dict[str, int]
    """How many faults of each kind took effect."""
    commands: dict[str, int]
    """How many commands of each kind had an effect, by tag."""
    acknowledged: int
    entries: int
    reads: int
    simulated_s: float
    digest: str
    trace: list[str] = []
