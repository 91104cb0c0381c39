"""Load shedding: how much of the API's work goes into one turn of the event loop.

A replica is one thread. The log waits while the API works: between turns its frames are read, its heartbeats are sent
and its timers fire. A thousand requests that are ready at once would make a turn of a fifth of a second, and three
such turns an election. So every step that a client can cause waits for its turn here:

- *reading*: a connection's data is parsed when its turn comes (`gated_connection`). Until then nothing more is read
  from that connection. What the client sends next waits in the kernel, and that is enough back-pressure;
- *entering*: a request whose head was read continues when its turn comes. There is a queue for agents' polls and
  small submissions, one for other requests, and one for requests that will be refused. The queues are served in
  rotation, so no request waits behind all requests of another class.

The number of steps in a turn adapts: it falls while turns take long, and rises while they are short and steps wait.
With empty queues nothing waits at all.

*Heavy* calls (large listings, the whole ledger) run one at a time. While others wait, each leaves the loop to
everybody else for as long as it took. Their queue is short: a call that finds it full is told to come back later.
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
"""Steps of one turn. A step takes 0.02 to 0.2 ms unless it is heavy."""
TURN_SHORT_S: Final = 0.002
TURN_LONG_S: Final = 0.005
"""CPU time of the loop's thread for one turn. Above it the next turn gets fewer steps."""
HEAVY_WAITING_MAX: Final = 64
HEAVY_REST_MAX_S: Final = 0.1
LONG_WAITING_MAX: Final = 4


class QueueClass(enum.IntEnum):
    """The queue in which a step waits for its turn."""

    AGENT_DATA = 0
    """Data arrived that looks like an agent's poll."""
    DATA = 1
    """Other data arrived."""
    FAST_PATH = 2
    """A poll or a small submission."""
    ORDINARY = 3
    """Any other request."""
    REFUSED = 4
    """A request that will be refused."""
    HANDSHAKE = 5
    """The start of a TLS handshake."""


WAITING_MAX: Final = {
    QueueClass.AGENT_DATA: 50_000,
    QueueClass.DATA: 8_000,
    QueueClass.FAST_PATH: 50_000,
    QueueClass.ORDINARY: 4_000,
    QueueClass.REFUSED: 1_000,
    QueueClass.HANDSHAKE: 1_000,
}
"""Steps that may wait in each queue: as many as there may be agents, or about a second of work."""
_ROUND: Final = (
    QueueClass.AGENT_DATA,
    QueueClass.FAST_PATH,
    QueueClass.DATA,
    QueueClass.ORDINARY,
    QueueClass.AGENT_DATA,
    QueueClass.FAST_PATH,
    QueueClass.DATA,
    QueueClass.REFUSED,
    QueueClass.HANDSHAKE,
)
"""The order in which the queues are served. An empty queue is skipped."""


class LoadShedder:
    """Shares the turns of the loop out. There is one for each replica.

    Args:
        clock: CPU seconds of this thread, so that a busy machine does not look like a long turn.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._queues: tuple[deque[Callable[[], None]], ...] = tuple(deque() for _ in QueueClass)
        self._next = 0
        """Position in `_ROUND`."""
        self._steps_max_now = STEPS_MAX
        """Steps that fit into a turn."""
        self._steps_left = STEPS_MAX
        """Steps that are left of this turn."""
        self._turn_scheduled = False
        self._began_s = 0.0
        self._heavy = asyncio.Lock()
        self._heavy_waiting = 0
        self._long = asyncio.Lock()
        self._long_waiting = 0
        self.waits = 0
        """Steps that had to wait for their turn."""
        self.refused = 0
        """Steps that found their queue full."""
        self.longest_s = 0.0
        """CPU time of the longest turn so far in which the API worked."""

    @property
    def waiting(self) -> int:
        """Number of steps and heavy calls that wait for their turn."""
        return sum(map(len, self._queues)) + self._heavy_waiting

    def waiting_for(self, queue: QueueClass) -> int:
        """Return how many steps of one class wait."""
        return len(self._queues[queue])

    # --- steps

    def try_enter(self, queue: QueueClass) -> bool:
        """Take a step of this turn if no other of its class waits. Returns False if the step has to wait."""
        if self._queues[queue] or self._steps_left <= 0:
            return False
        self._steps_left -= 1
        self._schedule_turn()
        return True

    def enqueue(self, queue: QueueClass, step: Callable[[], None]) -> bool:
        """Have `step` called when its turn comes. Returns False if the queue is full: it will not be called."""
        waiting = self._queues[queue]
        if len(waiting) >= WAITING_MAX[queue]:
            self.refused += 1
            return False
        waiting.append(step)
        self.waits += 1
        self._schedule_turn()
        return True

    async def enter(self, queue: QueueClass) -> None:
        """Return when the turn of this request comes. Raises `ProblemError` if too many wait."""
        if self.try_enter(queue):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def step() -> None:
            if not turn.done():  # the client may be gone
                turn.set_result(None)

        if not self.enqueue(queue, step):
            raise ProblemError(QUEUE_FULL, f"{WAITING_MAX[queue]} requests wait already; try again later")
        await turn

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._began_s = self._clock()
            asyncio.get_running_loop().call_soon(self._run_turn)

    def _run_turn(self) -> None:
        """Begin another turn: measure the last one, and run as many waiting steps as fit."""
        now_s = self._clock()
        used_s, self._began_s = now_s - self._began_s, now_s
        self.longest_s = max(self.longest_s, used_s)
        if used_s > TURN_LONG_S:
            self._steps_max_now = max(STEPS_MIN, self._steps_max_now // 2)
        elif used_s < TURN_SHORT_S:
            self._steps_max_now = min(STEPS_MAX, self._steps_max_now + max(1, self._steps_max_now // 4))
        self._steps_left = self._steps_max_now
        while self._steps_left > 0 and (step := self._pop_step()) is not None:
            self._steps_left -= 1
            step()
        if any(self._queues):
            asyncio.get_running_loop().call_soon(self._run_turn)
        else:
            self._turn_scheduled = False

    def _pop_step(self) -> Callable[[], None] | None:
        for _ in _ROUND:
            waiting = self._queues[_ROUND[self._next]]
            self._next = (self._next + 1) % len(_ROUND)
            if waiting:
                return waiting.popleft()
        return None

    # --- expensive calls

    @asynccontextmanager
    async def heavy(self) -> AsyncIterator[None]:
        """Hold the one slot for heavy calls. Raises `ProblemError` if too many wait for it."""
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
                # In the next turn: others may be about to come in this one, as when a barrier releases many reads.
                loop.call_soon(self._heavy.release)

    @asynccontextmanager
    async def long(self) -> AsyncIterator[None]:
        """Hold the one slot for calls that read everything beside the loop. Raises `ProblemError` as `heavy` does."""
        if self._long_waiting >= LONG_WAITING_MAX:
            self.refused += 1
            raise ProblemError(QUEUE_FULL, f"{LONG_WAITING_MAX} verifications wait already; try again later")
        self._long_waiting += 1
        try:
            async with self._long:
                yield
        finally:
            self._long_waiting -= 1
