"""The sessions of all agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.coordinator.commit.submitter import BusyError
from raftflow.coordinator.sessions.agent_session import AgentSession
from raftflow.domain import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.coordinator.sessions.agent_session import Poll

SESSIONS_MAX = 2 * limits.AGENTS_MAX


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
        """Return the session of an agent, None without one."""
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
            session.clock_skew_ms = before.clock_skew_ms
        self._sessions[name] = session
        return session

    def forget(self, name: str) -> None:
        """Forget an agent that said goodbye."""
        self._sessions.pop(name, None)

    def forget_idle(self) -> None:
        """Forget every agent that has no poll waiting."""
        self._sessions = {name: session for name, session in self._sessions.items() if session.polls}
