"""After a fault writes are acknowledged again within a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.chaos.checker.history.reader import number, text

if TYPE_CHECKING:
    from raftflow.chaos.checker.findings import Findings
    from raftflow.chaos.checker.history.bounds import Bounds, FaultWindows
    from raftflow.chaos.checker.history.reader import HistoryLine

_WRITES = frozenset({"submit", "cancel", "pause", "resume", "retry", "write", "cas"})
_PAUSES = 4
"""A part of the bound; clients that are silent for so long have paused."""


class RecoveryChecks:
    """Watches how long writes are tried in vain while no fault is active."""

    def __init__(self, findings: Findings, bounds: Bounds, faults: FaultWindows) -> None:
        self._findings = findings
        self._bounds = bounds
        self._faults = faults
        self._tried_since: float | None = None
        self._last = 0.0
        """When a write last began or ended."""
        self._open = 0
        self.seconds: dict[str, list[float]] = {}

    def recovered(self, line: HistoryLine, at: float) -> None:
        """The harness measured a recovery."""
        kind, seconds = text(line, "kind"), number(line, "seconds")
        self.seconds.setdefault(kind, []).append(seconds)
        if seconds > self._bounds.recovery_s:
            told = f"the first write after {kind} took {seconds:.3f} s, more than {self._bounds.recovery_s:g} s"
            self._findings.add("recovery", told, at)

    def invoked(self, verb: str, at: float) -> None:
        """An operation begins."""
        if verb not in _WRITES:
            return
        if not self._open and at - self._last > self._bounds.recovery_s / _PAUSES:
            self._tried_since = None
        self._open += 1
        self._look(at)
        if self._tried_since is None and not self._faults.active:
            self._tried_since = at

    def completed(self, verb: str, at: float, *, acknowledged: bool) -> None:
        """An operation ended."""
        if verb not in _WRITES:
            return
        self._open -= 1
        self._look(at)
        if acknowledged:
            self._tried_since = None

    def faulted(self) -> None:
        """A fault begins or ends: from now on writes have the time of a recovery again."""
        self._tried_since = None

    def _look(self, at: float) -> None:
        self._last = at
        if self._tried_since is not None and at - self._tried_since > self._bounds.recovery_s:
            told = (
                f"no fault is active, and no write was acknowledged since {self._tried_since:.3f}, for more than "
                f"{self._bounds.recovery_s:g} s"
            )
            self._findings.add("recovery", told, at)
            self._tried_since = None
