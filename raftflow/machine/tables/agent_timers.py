"""Timers of agents: at most one for each, and nothing here is state of its own.

A draining agent has its deadline, which a restored machine finds in the agent's record. The heap may hold timers that
were set again or cleared since; the table tells which ones count.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

_SLACK = 64


class AgentTimers:
    """Due times in ms by agent, earliest first; ties in order of the names."""

    def __init__(self) -> None:
        self._due_ms: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def set(self, name: str, due_ms: int) -> None:
        """Set an agent's timer, in place of the one that it has."""
        self._due_ms[name] = due_ms
        heappush(self._heap, (due_ms, name))
        if len(self._heap) > 2 * len(self._due_ms) + _SLACK:
            self._heap = [(due_ms, name) for name, due_ms in self._due_ms.items()]
            heapify(self._heap)

    def clear(self, name: str) -> None:
        """Drop an agent's timer, if it has one."""
        self._due_ms.pop(name, None)

    def by_name(self) -> dict[str, int]:
        """Return all of them, for checks."""
        return dict(self._due_ms)

    def next_due_ms(self) -> int | None:
        """Return when the earliest is due, None without one."""
        heap = self._heap
        while heap:
            due_ms, name = heap[0]
            if self._due_ms.get(name) == due_ms:
                return due_ms
            heappop(heap)
        return None

    def pop_due(self, now_ms: int) -> str | None:
        """Take the earliest one that is due and return its agent's name, None if none is due."""
        due_ms = self.next_due_ms()
        if due_ms is None or due_ms > now_ms:
            return None
        _, name = heappop(self._heap)
        del self._due_ms[name]
        return name
