"""The turnstile: how much of the API's work goes into one turn of the event loop.

A replica is one thread. Whatever the API does in a turn, the log waits for: its frames are read, its heartbeats leave
and its timers fire between turns. A thousand requests that are ready at once would be a turn of a fifth of a second,
and three of those an election. So every step that a client can cause goes through here:

- *reading*: what arrived on a connection is parsed when it is its turn (`gate`); until then nothing more is read
  from it, and what the client sends on waits in the kernel, which is all the back-pressure that it needs;
- *entering*: a request whose head was read goes on when it is its turn. Agents' polls and small submissions, other
  requests, and those that will be refused wait in lines of their own and are let in in turn, so that none of them
  waits behind all of another kind.

How many steps a turn has room for is learnt: fewer while turns take long, more while they are short and others wait.
Without a line nobody waits at all.

*Heavy* calls (large listings, the whole ledger) run one at a time, and while others wait they leave the loop to
everybody else for as long as they took. Their line is short: who finds it full is told to come back later.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from raftflow.api.http.problems import QUEUE_FULL, ProblemError

STEPS_MIN: Final = 2
STEPS_MAX: Final = 32
"""Steps of one turn. One takes 0.02 to 0.2 ms, as far as it is not heavy."""
TURN_SHORT_S: Final = 0.002
TURN_LONG_S: Final = 0.005
"""CPU time of the loop's thread for one turn, above which the next one gets fewer steps."""
HEAVY_WAITING_MAX: Final = 64
HEAVY_REST_MAX_S: Final = 0.1
LONG_WAITING_MAX: Final = 4


class QueueClass(enum.IntEnum):
    """Where a step waits for its turn."""

    AGENT_DATA = 0
    """Something arrived that looks like an agent's poll."""
    DATA = 1
    EXPRESS = 2
    """A poll or a small submission."""
    ORDINARY = 3
    REFUSED = 4
    """A request of which it is known already that it will be refused."""
    HANDSHAKE = 5
    """A TLS handshake is begun."""


WAITING_MAX: Final = {
    QueueClass.AGENT_DATA: 50_000,
    QueueClass.DATA: 8_000,
    QueueClass.EXPRESS: 50_000,
    QueueClass.ORDINARY: 4_000,
    QueueClass.REFUSED: 1_000,
    QueueClass.HANDSHAKE: 1_000,
}
"""Steps that may wait in each line; the number of agents, or else of about a second's work."""
_ROUND: Final = (
    QueueClass.AGENT_DATA,
    QueueClass.EXPRESS,
    QueueClass.DATA,
    QueueClass.ORDINARY,
    QueueClass.AGENT_DATA,
    QueueClass.EXPRESS,
    QueueClass.DATA,
    QueueClass.REFUSED,
    QueueClass.HANDSHAKE,
)
"""In which order the lines are asked; one without anybody is passed over."""


class LoadShedder:
    """Deals out the turns of the loop. One for each replica.

    Args:
        clock: CPU seconds of this thread: a machine that gives it to others must not look like a long turn.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._lines: tuple[deque[Callable[[], None]], ...] = tuple(deque() for _ in QueueClass)
        self._next = 0
        """Place in the round."""
        self._room = STEPS_MAX
        """Steps that a turn has room for."""
        self._left = STEPS_MAX
        """Those that are left of this turn."""
        self._turning = False
        self._began_s = 0.0
        self._heavy = asyncio.Lock()
        self._heavy_waiting = 0
        self._long = asyncio.Lock()
        self._long_waiting = 0
        self.waits = 0
        """Steps that had to wait for their turn."""
        self.refused = 0
        """Steps that found their line full."""
        self.longest_s = 0.0
        """CPU time of the longest turn so far in which the API did anything."""

    @property
    def waiting(self) -> int:
        """Steps that wait for their turn, and heavy calls that wait for theirs."""
        return sum(map(len, self._lines)) + self._heavy_waiting

    def waiting_in(self, line: QueueClass) -> int:
        """Return how many steps wait in one line."""
        return len(self._lines[line])

    # --- steps

    def at_once(self, line: QueueClass) -> bool:
        """Take a step of this turn if nobody stands in line for it; False if the step has to wait."""
        if self._lines[line] or self._left <= 0:
            return False
        self._left -= 1
        self._keep_turning()
        return True

    def line_up(self, line: QueueClass, step: Callable[[], None]) -> bool:
        """Have `step` called when it is its turn. False if the line is full: it will not be called."""
        waiting = self._lines[line]
        if len(waiting) >= WAITING_MAX[line]:
            self.refused += 1
            return False
        waiting.append(step)
        self.waits += 1
        self._keep_turning()
        return True

    async def enter(self, line: QueueClass) -> None:
        """Return when it is this request's turn. Raises `ProblemError` if too many wait."""
        if self.at_once(line):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def step() -> None:
            if not turn.done():  # the client may have gone
                turn.set_result(None)

        if not self.line_up(line, step):
            raise ProblemError(QUEUE_FULL, f"{WAITING_MAX[line]} requests wait already; try again later")
        await turn

    def _keep_turning(self) -> None:
        if not self._turning:
            self._turning = True
            self._began_s = self._clock()
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Begin another turn: see how long the last one was, and let in whoever it has room for."""
        now_s = self._clock()
        used_s, self._began_s = now_s - self._began_s, now_s
        self.longest_s = max(self.longest_s, used_s)
        if used_s > TURN_LONG_S:
            self._room = max(STEPS_MIN, self._room // 2)
        elif used_s < TURN_SHORT_S:
            self._room = min(STEPS_MAX, self._room + max(1, self._room // 4))
        self._left = self._room
        while self._left > 0 and (step := self._pop()) is not None:
            self._left -= 1
            step()
        if any(self._lines):
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self._turning = False

    def _pop(self) -> Callable[[], None] | None:
        for _ in _ROUND:
            line = self._lines[_ROUND[self._next]]
            self._next = (self._next + 1) % len(_ROUND)
            if line:
                return line.popleft()
        return None

    # --- calls that take long

    @asynccontextmanager
    async def heavy(self) -> AsyncIterator[None]:
        """Hold the one place for heavy calls. Raises `ProblemError` if too many wait for it."""
        if self._heavy_waiting >= HEAVY_WAITING_MAX:
            self.refused += 1
            raise ProblemError(QUEUE_FULL, f"{HEAVY_WAITING_MAX} large requests wait already; try again later")
        self._heavy_waiting += 1
        try:
            await self._heavy.acquire()
        finally:
            self._heavy_waiting -= 1
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            yield
        finally:
            if self._heavy_waiting:
                loop.call_later(min(loop.time() - began_s, HEAVY_REST_MAX_S), self._heavy.release)
            else:
                # In the next turn: others may be about to come in this one, as when a barrier lets many reads go on.
                loop.call_soon(self._heavy.release)

    @asynccontextmanager
    async def long(self) -> AsyncIterator[None]:
        """Hold the one place for calls that read everything, beside the loop. Raises `ProblemError` as `heavy`."""
        if self._long_waiting >= LONG_WAITING_MAX:
            self.refused += 1
            raise ProblemError(QUEUE_FULL, f"{LONG_WAITING_MAX} verifications wait already; try again later")
        self._long_waiting += 1
        try:
            async with self._long:
                yield
        finally:
            self._long_waiting -= 1
