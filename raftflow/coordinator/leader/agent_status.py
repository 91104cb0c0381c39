"""How an agent stands with the leader: what the replicas do not record, since a new leader finds out by itself.

suspect    silent for a good part of its lease: it keeps its work and gets no more until it is heard again
unfit      it says that it can run nothing, and why: it keeps what runs and gets no more until it says that it can
returned   up again after a loss, until its first success or for `RETURNED_S`
"""

from __future__ import annotations

from raftflow.domain.contract.views import AgentWord
from raftflow.machine.rows import AgentRow

RETURNED_S = 60.0


class AgentStatus:
    """Suspects and those that returned. Times are seconds on the event loop's clock."""

    def __init__(self) -> None:
        self.suspects: dict[str, None] = {}
        self.unfit: dict[str, str] = {}
        """Agents that are unfit, and why."""
        self._incarnations: dict[str, int] = {}
        """The last one that was seen of each agent."""
        self._returned_s: dict[str, float] = {}

    def clear(self) -> None:
        """Forget everything: another replica leads."""
        self.suspects.clear()
        self.unfit.clear()
        self._incarnations.clear()
        self._returned_s.clear()

    def known(self, agent: AgentRow) -> None:
        """Take an agent as it was when this replica began to lead."""
        self._incarnations[agent.name] = agent.incarnation

    def changed(self, agent: AgentRow, now_s: float) -> None:
        """Look whether an agent that changed is a new incarnation of one that was lost."""
        if self._incarnations.get(agent.name) != agent.incarnation:
            self._incarnations[agent.name] = agent.incarnation
            if agent.losses:
                self._returned_s[agent.name] = now_s

    def settled(self, name: str) -> None:
        """Note that an attempt succeeded on an agent, or that it is gone again."""
        self._returned_s.pop(name, None)

    def word(self, name: str, state: AgentWord, now_s: float) -> AgentWord:
        """Return the agent's state as users see it, given the one that the replicas know."""
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
