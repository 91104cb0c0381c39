"""The events of a run: the last ones to read, and a digest of all to compare runs."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from raftflow.simulation.world.loop import START_S, current_process

if TYPE_CHECKING:
    from raftflow.simulation.world.loop import VirtualLoop

EVENTS_MAX: Final = 400
"""Events that are kept for the printed trace."""


class Trace:
    """The events of one run."""

    def __init__(self, loop: VirtualLoop, *, events_max: int = EVENTS_MAX) -> None:
        self._loop = loop
        self._digest = hashlib.blake2b(digest_size=16)
        self.events: deque[str] = deque(maxlen=events_max)
        self.faults: Counter[str] = Counter()
        """Faults that took effect, by kind."""

    def now_s(self) -> float:
        """Return the simulated time."""
        return self._loop.time()

    def note(self, who: str, what: str) -> None:
        """Add an event."""
        line = f"{self._loop.time() - START_S:10.6f} {who:>9} {what}"
        self._digest.update(line.encode())
        self.events.append(line)

    def fault(self, kind: str, who: str, what: str = "") -> None:
        """Add a fault and count it."""
        self.faults[kind] += 1
        self.note(who, f"! {kind} {what}".rstrip())

    def mix(self, data: bytes) -> None:
        """Add something to the digest that is too frequent to be shown."""
        self._digest.update(data)

    def remark(self, who: str, what: str) -> None:
        """Show something that is not part of the digest, such as a log line with an address in it."""
        self.events.append(f"{self._loop.time() - START_S:10.6f} {who:>9} {what}")

    def hexdigest(self) -> str:
        """Return the digest of all events so far: equal runs, equal digests."""
        return self._digest.hexdigest()


class TraceHandler(logging.Handler):
    """Puts the log lines of the code under test into the trace."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(logging.WARNING)
        self._trace = trace

    def emit(self, record: logging.LogRecord) -> None:
        """Add one line, with the process that wrote it."""
        process = current_process()
        name = "-" if process is None else process.name
        self._trace.remark(name, f"{record.levelname.lower()}: {record.getMessage()[:300]}")
