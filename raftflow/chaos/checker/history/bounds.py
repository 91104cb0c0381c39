"""What the header promises, and when faults were active."""

from __future__ import annotations

import collections
import math
from typing import TYPE_CHECKING, NamedTuple

from raftflow.chaos.checker.history.reader import fail, items, number, optional_text, table, text

if TYPE_CHECKING:
    from raftflow.chaos.checker.history.reader import HistoryLine

_FREEZES = ("pause", "freeze", "stop", "starve")
"""Parts of the names of faults after which a process may still do what it was about to do."""


class Bounds(NamedTuple):
    """The stated bounds, in seconds."""

    recovery_s: float
    """A write is acknowledged within this time after a fault."""
    backups: bool
    """True if tasks that allow a backup may have two attempts at a time."""
    overlap_s: float
    """How long an older attempt may be heard beside a newer one: its last messages are under way."""
    cancel_s: float
    """How long after an acknowledged cancel an attempt may still start, or its task succeed: an agent that is cut off
    knows nothing of the cancel until its lease ends."""


def read_bounds(header: HistoryLine) -> Bounds:
    """Read the bounds of a header."""
    given = table(header, "bounds")

    def bound(key: str, default: float) -> float:
        return default if given.get(key) is None else number(given, key)

    overlap = optional_text(given, "overlap") or "never"
    if overlap not in {"never", "backups"}:
        fail(f"{overlap!r} is not a rule of overlaps")
    # A collector on this machine hears everything within milliseconds; some time is for a machine without free cores.
    late_s = 0.2 if header.get("collector") == "local" else 1.0
    return Bounds(
        bound("recovery_s", 30.0), overlap == "backups", bound("overlap_s", late_s), bound("cancel_s", 15.0)
    )


class FaultWindow:
    """When one fault was active on its targets."""

    __slots__ = ("began", "ended", "freezes")

    def __init__(self, began: float, *, freezes: bool) -> None:
        self.began = began
        self.ended = math.inf
        self.freezes = freezes


class FaultWindows:
    """When which fault was active."""

    def __init__(self) -> None:
        self.active: dict[str, FaultWindow] = {}
        self._ending: dict[str, FaultWindow] = {}
        self._of_target: dict[str, list[FaultWindow]] = collections.defaultdict(list)
        self.counts: collections.Counter[str] = collections.Counter()

    def note(self, line: HistoryLine, at: float) -> None:
        """A fault begins, takes effect, ends or is undone."""
        fault, event, kind = text(line, "id"), text(line, "event"), text(line, "kind")
        if event == "effect":
            self.counts[kind] += 1
        if event in {"begin", "effect"}:
            if fault not in self.active:
                window = self.active[fault] = FaultWindow(at, freezes=any(part in kind for part in _FREEZES))
                for target in items(line, "targets"):
                    self._of_target[str(target)].append(window)
        elif event in {"end", "undone"}:
            ended = self.active.pop(fault, None) or self._ending.pop(fault, None)
            if ended is not None:
                ended.ended = at
            if ended is not None and event == "end":
                self._ending[fault] = ended  # undoing it may take longer
        else:
            fail(f"{event!r} is not an event of a fault")

    def excuses(self, target: str, since: float, until: float, grace_s: float, *, late: bool) -> bool:
        """Tell whether a process may be heard at `until` though it had to be gone before.

        It was frozen meanwhile, and has just been thawed. Where only the arrival of its message is known, any fault
        may have delayed the message: for as long again as the fault lasted, because retries back off.
        """
        for window in self._of_target.get(target, ()):
            if window.began > until or window.ended < since:
                continue
            if window.freezes and until <= window.ended + grace_s:
                return True
            if late and until <= window.ended + grace_s + (window.ended - window.began):
                return True
        return False
