"""How much is done with polls in one turn of the event loop.

Thousands of agents may be woken, and report, at once. Without a bound, a turn would be so long that the replica's
heartbeats came too late.
"""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from raftflow.coordinator.sessions.agent_session import Poll

WAKES_PER_TURN = 128
"""Agents whose held polls are looked at in one turn of the event loop. An answer takes some 0.05 ms: thousands of
them in one turn would delay the replica's heartbeats for so long that it lost its term."""
POLLS_PER_TURN = 128
"""Polls that are taken in within one turn of the loop, for the same reason; of those with ends as many again."""
REPORTS_MIN = 8
"""Polls with ends that are taken in within one turn while there is work to be placed or to be told. What is placed
goes out before what is done comes in: a fleet that is woken at once may report at once."""


class PollTurns:
    """Continues polls, a share of those that wait in each turn of the loop.

    Args:
        continue_poll: takes a poll as far as it goes.
        polls_of: returns the held polls of an agent.
        placing: returns True while placements are being decided or committed.
    """

    def __init__(
        self,
        continue_poll: Callable[[Poll], None],
        polls_of: Callable[[str], Iterable[Poll]],
        placing: Callable[[], bool],
    ) -> None:
        self._continue_poll = continue_poll
        self._polls_of = polls_of
        self._placing = placing
        self._woken: dict[str, None] = {}
        """Agents whose held polls are looked at, in order."""
        self._arrived: deque[Poll] = deque()
        """Polls without ends that are taken in, in order."""
        self._reporting: deque[Poll] = deque()
        """Polls with ends. Those without may overtake them: theirs may be the answers with work."""
        self._scheduled = False

    def add(self, poll: Poll) -> None:
        """Take a poll in, in one of the next turns."""
        (self._reporting if poll.request.ends else self._arrived).append(poll)
        self._schedule()

    def wake(self, agent: str) -> None:
        """Continue an agent's held polls in one of the next turns."""
        self._woken[agent] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Do one turn's share: tell agents their news, and take polls in."""
        self._scheduled = False
        try:
            for agent in list(islice(self._woken, WAKES_PER_TURN)):
                del self._woken[agent]
                for poll in self._polls_of(agent):
                    self._continue_poll(poll)
            for _ in range(min(POLLS_PER_TURN, len(self._arrived))):
                self._continue_poll(self._arrived.popleft())
            busy = self._woken or self._arrived or self._placing()
            for _ in range(min(REPORTS_MIN if busy else POLLS_PER_TURN, len(self._reporting))):
                self._continue_poll(self._reporting.popleft())
        finally:
            if self._woken or self._arrived or self._reporting:
                self._schedule()
