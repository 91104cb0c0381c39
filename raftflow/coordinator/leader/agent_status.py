"""The states of agents that only the leader knows. They are not in the log, since a new leader finds them out itself.

suspect    silent for a good part of its lease: it keeps its work and gets no more until it is heard again
unfit      it says that it cannot run anything, and why: it keeps what runs and gets no more until it says that it can
returned   up again after a loss, until its first success or for `RETURNED_S`
"""

from __future__ import annotations

from raftflow.domain.contract.views import AgentWord
from raftflow.machine.rows import AgentRow

RETURNED_S = 60.0


class AgentStatus:
    """Agents that are suspect, unfit or returned. Times are seconds on the event loop's clock."""

    def __init__(self) -> None:
        self.suspects: dict[str, None] = {}
        self.unfit: dict[str, str] = {}
        """Agents that are unfit, and why."""
        self._incarnations: dict[str, int] = {}
        """The last known incarnation of each agent."""
        self._returned_s: dict[str, float] = {}

    def clear(self) -> None:
        """Forget everything: another replica leads."""
        self.suspects.clear()
        self.unfit.clear()
        self._incarnations.clear()
        self._returned_s.clear()

    def note_agent(self, agent: AgentRow) -> None:
        """Note an agent that is known when this replica begins to lead."""
        self._incarnations[agent.name] = agent.incarnation

    def note_change(self, agent: AgentRow, now_s: float) -> None:
        """Note that an agent changed; it has returned if it is a new incarnation of one that was lost."""
        if self._incarnations.get(agent.name) != agent.incarnation:
            self._incarnations[agent.name] = agent.incarnation
            if agent.losses:
                self._returned_s[agent.name] = now_s

    def note_success(self, name: str) -> None:
        """Note that an attempt succeeded on an agent, or that the agent is gone."""
        self._returned_s.pop(name, None)

    def public_state(self, name: str, state: AgentWord, now_s: float) -> AgentWord:
        """Return the agent's state as users see it, given the state in the log."""
        if state != "up":
            return state
        if name in self.suspects:
            return "suspect"
        if name in self.unfit:
            return "unfit"
        returned_s = self._returned_s.get(name)
        if returned_s is not None and now_s < returned_s + RETURNED_S:
            return "returned"
        return state
