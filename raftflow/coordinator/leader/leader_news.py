"""Requests that are held until this replica knows the leader of a later term.

An agent or a client that waits for the leader cannot see whether the leader is busy or its machine silent: in both
cases nothing comes. The other replicas can: an election ends within about an election timeout. So an agent that waits
for the leader keeps one request at another replica, which answers it when leadership has moved. In a healthy cluster
such a request costs only its renewal.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.domain import limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.contract.views import LeaderNotice

ANSWERS_PER_TURN: Final = 128
"""Held requests that are answered in one turn of the event loop: thousands at once would hold back heartbeats."""
BEHIND_S: Final = 0.8
"""Longest time for which a replica holds a question with a later term than its own.

It may hear the leader of that term soon. If it does not, it has no contact with the cluster. After an answer that
comes so early and brings no news, agents ask another replica (`agent/exchange/leader_watch.py`).
"""
HOLD_MAX_S: Final = limits.LEADER_WAIT_MS_MAX / 1000
"""Longest time that a request is held."""


class _Held:
    """A request that waits."""

    __slots__ = ("answered", "term", "timer")

    def __init__(self, term: int, answered: Callable[[LeaderNotice], None]) -> None:
        self.term = term
        self.answered = answered
        self.timer: asyncio.TimerHandle | None = None


class LeaderNews:
    """Answers who leads: at once, or when that has changed.

    Args:
        now: what this replica knows at the moment.
        held_max: requests that may be held at one time; what comes above that is answered at once.
    """

    def __init__(self, now: Callable[[], LeaderNotice], held_max: int) -> None:
        self._now = now
        self._held_max = held_max
        self._held: dict[_Held, None] = {}
        self._telling = False
        self._again = False
        """Leadership moved again while requests were being answered."""
        self._closed = False

    @property
    def term(self) -> int:
        """The term that this replica is in."""
        return self._now().term

    @property
    def count(self) -> int:
        """Requests that are held."""
        return len(self._held)

    def ask(self, term: int, wait_s: float, answered: Callable[[LeaderNotice], None]) -> Callable[[], None]:
        """Have `answered` called once a leader of a later term than `term` is known, or after `wait_s`.

        A replica that is in an earlier term than `term` answers after `BEHIND_S`.

        It may be called before this returns. Returns what forgets the request.
        """
        notice = self._now()
        if wait_s <= 0 or self._closed or len(self._held) >= self._held_max or _is_news(notice, term):
            answered(notice)
            return _nothing
        held = _Held(term, answered)
        self._held[held] = None
        hold_s = min(wait_s, BEHIND_S if notice.term < term else HOLD_MAX_S)
        held.timer = asyncio.get_running_loop().call_later(hold_s, self._over, held)

        def forget() -> None:
            self._drop(held)

        return forget

    async def wait(self, term: int, wait_s: float) -> LeaderNotice:
        """Do as `ask` does, and return what it would tell."""
        told: asyncio.Future[LeaderNotice] = asyncio.get_running_loop().create_future()
        forget = self.ask(term, wait_s, told.set_result)
        try:
            return await told
        finally:
            forget()

    def changed(self) -> None:
        """Answer the requests that wait for a later term, in one of the next turns of the loop."""
        self._again = self._telling
        if self._held and not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell, list(self._held))

    def close(self) -> None:
        """Answer everything that is held, and hold nothing any more."""
        self._closed = True
        for held in tuple(self._held):
            self._over(held)

    def _tell(self, waiting: list[_Held]) -> None:
        """Answer one turn's share of the requests that waited when the change came."""
        notice = self._now()
        share, rest = waiting[:ANSWERS_PER_TURN], waiting[ANSWERS_PER_TURN:]
        for held in share:
            if held in self._held and _is_news(notice, held.term):
                self._drop(held)
                held.answered(notice)
        if rest:
            asyncio.get_running_loop().call_soon(self._tell, rest)
            return
        self._telling = False
        if self._again:
            self.changed()

    def _over(self, held: _Held) -> None:
        if self._drop(held):
            held.answered(self._now())

    def _drop(self, held: _Held) -> bool:
        """Forget a request. False if it was forgotten before."""
        if held not in self._held:
            return False
        del self._held[held]
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        return True


def _is_news(notice: LeaderNotice, term: int) -> bool:
    return notice.leader is not None and notice.term > term


def _nothing() -> None:
    """Forget a request that has been answered."""
