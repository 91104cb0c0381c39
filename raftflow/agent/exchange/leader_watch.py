"""Who leads, told by another replica: a leader whose machine is silent answers nothing, not even that it is gone.

Besides its polls an agent keeps one request at a replica that does not lead. That replica answers when it knows the
leader of a later term, some moments after the election. What the agent has under way to the old leader is given up
then and sent to the new one. While all is well this costs the leader nothing, and the other replica one request in
`HOLD_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from raftflow.domain.contract.views import LeaderNotice

_log = logging.getLogger("raftflow.agent.leader_watch")

HOLD_S: Final = 30.0
"""How long a replica is asked to hold the question."""
FIRST_S: Final = 1.0
"""How long another replica may still take to answer once it is known for the first time who leads."""
UNKNOWN_S: Final = 30.0
"""Pause after a replica that does not know the question: it is of an older version."""
_PAUSE_MIN_S: Final = 0.1
_PAUSE_MAX_S: Final = 5.0
_EARLY_S: Final = 1.0
"""An answer without news that comes faster than this is followed by a pause: the replica holds nothing."""


class NotHeldError(Exception):
    """The replica does not know the question."""


class PendingRequests:
    """Requests that wait for an answer, each with the replica that was asked."""

    def __init__(self) -> None:
        self._limits: dict[asyncio.Timeout, str] = {}

    @contextlib.contextmanager
    def asking(self, peer: str, timeout_s: float) -> Iterator[asyncio.Timeout]:
        """Count a request while it waits. It is to end with the limit that is given."""
        limit = asyncio.timeout(timeout_s)
        self._limits[limit] = peer
        try:
            yield limit
        finally:
            del self._limits[limit]

    def give_up(self, leader: str, after_s: float) -> None:
        """End what waits for any other replica than the leader, unless it is answered within `after_s`."""
        until_s = asyncio.get_running_loop().time() + after_s
        for limit, peer in self._limits.items():
            if peer != leader and not limit.expired():
                limit.reschedule(min(until_s, limit.when() or until_s))


class LeaderWatch:
    """Keeps the question at some replica. `run` it in a task for as long as the agent lives.

    Args:
        ask: asks one replica, named as in `peers`, who leads after a term, and waits up to `HOLD_S` for the answer.
            Raises `OSError` or `TimeoutError` if none comes, `NotHeldError`.
        peers: the replicas.
        leader: the replica that is thought to lead; it is not asked.
        moved: called with a replica and what it told about a later term than any before.
    """

    def __init__(
        self,
        *,
        ask: Callable[[str, int], Awaitable[LeaderNotice]],
        peers: Callable[[], Sequence[str]],
        leader: Callable[[], str | None],
        moved: Callable[[str, LeaderNotice], None],
    ) -> None:
        self._ask = ask
        self._peers = peers
        self._leader = leader
        self._moved = moved
        self._last: str | None = None
        """The replica that was of no use last."""
        self._asking: str | None = None
        self._scope: asyncio.Timeout | None = None
        self.term = 0
        """The highest term whose leader is known."""

    async def run(self) -> None:
        """Ask until cancelled."""
        loop = asyncio.get_running_loop()
        pause_s = _PAUSE_MIN_S
        while True:
            peer = self._choose()
            asked_s = loop.time()
            try:
                if peer is not None and await self._ask_one(peer):
                    pause_s = _PAUSE_MIN_S
                    continue
            except NotHeldError:
                await asyncio.sleep(UNKNOWN_S)
                continue
            except (OSError, TimeoutError) as error:
                _log.debug("%s does not tell who leads: %s", peer, error)
            if peer is not None and loop.time() - asked_s >= _EARLY_S:
                pause_s = _PAUSE_MIN_S
                continue
            self._last = peer
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    def leader_known(self) -> None:
        """Note that another replica is thought to lead: if that is the one that is asked, ask another one."""
        scope = self._scope
        if scope is not None and self._asking == self._leader() and not scope.expired():
            scope.reschedule(asyncio.get_running_loop().time())

    async def _ask_one(self, peer: str) -> bool:
        """Ask one replica. True if it had news. Raises what `ask` raises."""
        self._asking = peer
        try:
            async with asyncio.timeout(None) as self._scope:
                notice = await self._ask(peer, self.term)
        finally:
            self._asking = self._scope = None
        if notice.leader is None or notice.term <= self.term:
            return False
        self._moved(peer, notice)
        self.term = notice.term
        return True

    def _choose(self) -> str | None:
        """Return a replica to ask: not the leader, and not the one that failed last if there is another."""
        leader = self._leader()
        others = [peer for peer in self._peers() if peer != leader]
        return random.choice([peer for peer in others if peer != self._last] or others or [None])  # noqa: S311
