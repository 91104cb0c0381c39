"""Reads that are held until a workflow has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from raftflow.domain.events import Event, WorkflowFinished

HELD_MAX: Final = 10_000
"""Reads that may be held at one time."""


class AwaitedEnds:
    """Wakes reads when the workflow that they wait for has ended.

    Nobody may rely on having waited: a read goes on at once when too many are held, when this replica stops to lead
    and may never hear of the end, and when it stops.
    """

    def __init__(self) -> None:
        self.count = 0
        """Reads that are held."""
        self._held: dict[str, dict[asyncio.Future[None], None]] = {}
        """By workflow."""
        self._closed = False

    async def wait(self, workflow_id: str, wait_s: float) -> None:
        """Return when a workflow has ended or after `wait_s`. It must not have ended yet."""
        if self._closed or self.count >= HELD_MAX:
            return
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.setdefault(workflow_id, {})[end] = None
        self.count += 1
        try:
            await asyncio.wait((end,), timeout=wait_s)
        finally:
            self.count -= 1
            held = self._held.get(workflow_id, {})
            held.pop(end, None)
            if not held:
                self._held.pop(workflow_id, None)

    def on_applied(self, events: Iterable[Event]) -> None:
        """Take note of an applied entry."""
        for event in events:
            if isinstance(event, WorkflowFinished):
                self._wake(event.workflow_id)

    def _wake(self, workflow_id: str) -> None:
        for end in self._held.pop(workflow_id, {}):
            end.set_result(None)

    def wake_all(self) -> None:
        """Let every read go on: this replica is no longer the one to ask."""
        for workflow_id in tuple(self._held):
            self._wake(workflow_id)

    def close(self) -> None:
        """Let every read go on, and hold none any more."""
        self._closed = True
        self.wake_all()
