"""What the leader remembers of each agent between its polls. A new leader begins without it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raftflow.coordinator.commit.submitter import BusyError
from raftflow.domain import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.coordinator.sessions.instructions import Instructions
    from raftflow.coordinator.sessions.poll import Poll
    from raftflow.domain.contract.views import AgentLoad

SESSIONS_MAX = 2 * limits.AGENTS_MAX
DELIVERIES_MAX = 16
DELIVERIES_APART_S = 0.1
"""Answers that follow each other faster than this count as one delivery."""

_NO_FENCES: frozenset[int] = frozenset()


class AgentSession:
    """What the leader remembers of one agent."""

    __slots__ = (
        "_delivered_before",
        "deliveries",
        "draining_told",
        "incarnation",
        "load",
        "name",
        "orders_told",
        "pid",
        "polls",
        "seen",
        "seq",
        "told_s",
        "version",
    )

    def __init__(self, name: str, incarnation: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.seq = -1
        """The largest sequence number of a poll."""
        self.seen = -1
        """The largest fence that the agent has said it was sent."""
        self.deliveries: list[tuple[int, float]] = []
        """The last answers that brought attempts: the largest fence, and when that was, in seconds of the loop."""
        self._delivered_before = -1
        """Fences up to this one were sent before the first of `deliveries`."""
        self.polls: dict[int, Poll] = {}
        """Polls that wait for news, by their sequence numbers."""
        self.orders_told: frozenset[int] = frozenset()
        self.draining_told = False
        self.told_s = 0.0
        """When the last answer was made, on the loop's clock."""
        self.pid: int | None = None
        self.version = ""
        self.load: AgentLoad | None = None

    def note_answer(self, told: Instructions, now_s: float) -> None:
        """Remember what an answer tells the agent."""
        self.orders_told = frozenset((*told.stop, *told.release)) if told.stop or told.release else _NO_FENCES
        self.draining_told = told.draining
        self.told_s = now_s
        if told.assign:
            self._note_delivery(told.assign[-1].fence, now_s)

    def note_seen(self, seen: int) -> None:
        """Note the largest fence that a poll says the agent was sent.

        The first poll of a session tells what the agent was sent before the session began.
        """
        if self.seen < 0:
            self._delivered_before = seen
        self.seen = max(self.seen, seen)

    def delivered_s(self, fence: int) -> float | None:
        """Return when the agent was sent an attempt: -inf if that was long ago, None if it was not sent yet."""
        if fence <= self._delivered_before:
            return -math.inf
        for last, at_s in self.deliveries:
            if fence <= last:
                return at_s
        return -math.inf if fence <= self.seen else None

    def _note_delivery(self, fence: int, now_s: float) -> None:
        deliveries = self.deliveries
        if deliveries and now_s - deliveries[-1][1] < DELIVERIES_APART_S:
            deliveries[-1] = (fence, deliveries[-1][1])
            return
        deliveries.append((fence, now_s))
        if len(deliveries) > DELIVERIES_MAX:
            self._delivered_before = deliveries.pop(0)[0]


class AgentSessions:
    """The sessions of all agents, by name."""

    def __init__(self) -> None:
        self._sessions: dict[str, AgentSession] = {}

    def __contains__(self, name: str) -> bool:
        """Return True if the agent has a session."""
        return name in self._sessions

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the agents."""
        return iter(self._sessions)

    def get(self, name: str) -> AgentSession | None:
        """Return the session of an agent, None if there is none."""
        return self._sessions.get(name)

    def polls_of(self, name: str) -> tuple[Poll, ...]:
        """Return the polls of an agent that wait for news."""
        session = self._sessions.get(name)
        return () if session is None else tuple(session.polls.values())

    def begin(self, name: str, incarnation: int) -> AgentSession:
        """Replace an agent's session by a new one. Raises `BusyError` if there are too many."""
        before = self._sessions.get(name)
        if before is None and len(self._sessions) >= SESSIONS_MAX:
            raise BusyError(f"there are {SESSIONS_MAX} sessions of agents already")
        session = AgentSession(name, incarnation)
        if before is not None:
            session.pid, session.version = before.pid, before.version
        self._sessions[name] = session
        return session

    def forget(self, name: str) -> None:
        """Forget an agent that said goodbye."""
        self._sessions.pop(name, None)

    def forget_idle(self) -> None:
        """Forget every agent that has no poll waiting."""
        self._sessions = {name: session for name, session in self._sessions.items() if session.polls}
