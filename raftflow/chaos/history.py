"""The recorded history of a run: JSON lines, in the order in which things happened, in a file outside the cluster.

`README.md` has the format. Times are seconds of one monotonic clock since the start of the run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

FORMAT = 1


class HistoryWriter:
    """Writes a history from several threads, and knows when writes were acknowledged."""

    def __init__(self, path: Path) -> None:
        """Create the file. Raises `OSError`, also when it exists."""
        self.path = path
        self._file = path.open("xb")
        self._lock = threading.Lock()
        self._acknowledged = threading.Condition(self._lock)
        self._started_s = time.monotonic()
        self._operations = 0
        self._begun: dict[str, float] = {}
        """When each write that has no answer was invoked."""
        self._writes: list[tuple[float, float]] = []
        """Of acknowledged writes: when they were invoked, and when they were acknowledged."""
        self._encode = msgspec.json.Encoder().encode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left. Later lines are ignored: threads may still be ending."""
        with self._lock:
            self._file.close()

    def now_s(self) -> float:
        """Return the time on the clock of the history."""
        return round(time.monotonic() - self._started_s, 6)

    @property
    def acknowledged(self) -> int:
        """How many writes were acknowledged so far."""
        return len(self._writes)

    def write(self, kind: str, /, **fields: Any) -> float:
        """Write one line; returns its time."""
        with self._lock:
            return self._write(kind, fields)

    def invoke(self, process: str, function: str, value: Mapping[str, Any], *, is_write: bool) -> str:
        """Write that an operation begins; returns its id."""
        with self._lock:
            self._operations += 1
            operation = str(self._operations)
            fields = {"op": operation, "process": process, "f": function, "value": value}
            at_s = self._write("invoke", fields)
            if is_write:
                self._begun[operation] = at_s
        return operation

    def ok(self, operation: str, value: Mapping[str, Any]) -> None:
        """Write that an operation was done."""
        with self._acknowledged:
            at_s = self._write("ok", {"op": operation, "value": value})
            begun_s = self._begun.pop(operation, None)
            if begun_s is not None:
                self._writes.append((begun_s, at_s))
                self._acknowledged.notify_all()

    def fail(self, operation: str, error: str) -> None:
        """Write that an operation was certainly not done."""
        with self._lock:
            self._begun.pop(operation, None)
            self._write("fail", {"op": operation, "error": error})

    def unknown(self, operation: str, error: str) -> None:
        """Write that an operation may have been done."""
        with self._lock:
            self._begun.pop(operation, None)
            self._write("unknown", {"op": operation, "error": error})

    def acknowledged_after(self, at_s: float) -> float | None:
        """Return when the first write that was invoked at `at_s` or later was acknowledged, None if none was yet."""
        with self._lock:
            return self._first_after(at_s)

    def wait_acknowledged(self, at_s: float, timeout_s: float) -> float | None:
        """Wait until a write that was invoked at `at_s` or later is acknowledged; returns when, None if none is."""
        deadline_s = time.monotonic() + timeout_s
        with self._acknowledged:
            while (found := self._first_after(at_s)) is None and (left_s := deadline_s - time.monotonic()) > 0:
                self._acknowledged.wait(left_s)
            return found

    def _first_after(self, at_s: float) -> float | None:
        found: float | None = None
        for begun_s, ended_s in reversed(self._writes):
            if ended_s < at_s:
                break
            if begun_s >= at_s:
                found = ended_s if found is None else min(found, ended_s)
        return found

    def _write(self, kind: str, fields: Mapping[str, Any]) -> float:
        at_s = self.now_s()
        if not self._file.closed:
            self._file.write(self._encode({"type": kind, "t": at_s, **fields}) + b"\n")
            self._file.flush()
        return at_s
