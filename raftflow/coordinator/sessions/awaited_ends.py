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

    A read may also be woken early: when too many are held, when this replica stops leading and may never hear of the
    end, and when it stops. So the read must look at the workflow again.
    """

    def __init__(self) -> None:
        self.count = 0
        """Reads that are held."""
        self._held: dict[str, dict[asyncio.Future[None], None]] = {}
        """The held reads of each workflow."""
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
        """Wake every read: this replica no longer leads."""
        for workflow_id in tuple(self._held):
            self._wake(workflow_id)

    def close(self) -> None:
        """Wake every read, and hold none from now on."""
        self._closed = True
        self.wake_all()
