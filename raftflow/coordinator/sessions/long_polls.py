"""Polls that are held because there is nothing to tell their agents yet.

A held poll is an object, a timer, and an entry in its agent's session. It has no task of its own: whatever wakes it
looks at the state and answers in the same turn of the event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.sessions.agent_session import Poll


class LongPolls:
    """Counts the held polls and wakes each when its time is over.

    Args:
        held_max: how many polls may be held at one time.
        on_due: called with a held poll when its time is over.
    """

    def __init__(self, held_max: int, on_due: Callable[[Poll], None]) -> None:
        self.count = 0
        """Polls that are held."""
        self.held_max = held_max
        self._on_due = on_due

    def has_room(self, poll: Poll) -> bool:
        """Return True if a poll is held already or may be."""
        return poll.held or self.count < self.held_max

    def hold(self, poll: Poll, until_s: float) -> None:
        """Hold a poll until `until_s` on the loop's clock, or go on to hold it."""
        if not poll.held:
            poll.held = True
            self.count += 1
        if poll.timer is None or poll.due_s != until_s:
            if poll.timer is not None:
                poll.timer.cancel()
            poll.due_s = until_s
            poll.timer = asyncio.get_running_loop().call_at(until_s, self._wake, poll)

    def _wake(self, poll: Poll) -> None:
        poll.timer = None
        self._on_due(poll)

    def release(self, poll: Poll) -> None:
        """Hold a poll no longer."""
        if poll.timer is not None:
            poll.timer.cancel()
            poll.timer = None
        if poll.held:
            poll.held = False
            self.count -= 1
        polls = poll.session.polls
        if polls.get(poll.request.seq) is poll:
            del polls[poll.request.seq]
