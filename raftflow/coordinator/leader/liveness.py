"""Which agents are alive: leases, suspects, agents that are unfit, and removals of those that are lost.

All of it is memory of one leader. A new leader begins again and gives every agent a full lease.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raftflow.coordinator.leader.agent_status import AgentStatus
from raftflow.coordinator.leader.leases import STALL_S, Leases
from raftflow.coordinator.leader.mass_loss import LostTogether, MassLossThrottle
from raftflow.coordinator.leader.pauses import PauseDetector

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.leader.planner_protocol import Planner
    from raftflow.coordinator.leader.removals import PendingRemovals
    from raftflow.domain.contract.views import AgentWord
    from raftflow.machine.machine import Machine

_log = logging.getLogger(__name__)

LEASE_CHECK_MIN_S = 0.05
"""Shortest time between two checks of the leases."""
MASS_LOSS_CHECK_MIN_S = 0.2
"""The same during a mass loss: removals are few at a time."""
UNHEARD_S = 0.5
"""A new leader fills no queues for this time while there are agents that it has not heard. What would wait in the
queue of a full agent may soon run at once on another. Agents find a new leader in far less time."""


class AgentLiveness:
    """The leader's view of which agents are alive.

    Args:
        removals: the removals of lost agents.
        replan: makes the leader plan again, since agents got or lost the right to work.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        planner: Planner,
        removals: PendingRemovals,
        lease_ms: int,
        poll_wait_ms: int,
        replan: Callable[[], None],
    ) -> None:
        self.leases = Leases(lease_ms, poll_wait_ms)
        self.status = AgentStatus()
        self.loss_throttle = MassLossThrottle()
        self.lost_together = LostTogether()
        self.pauses = PauseDetector()
        self.removals = removals
        self.unheard: dict[str, None] = {}
        """Agents that have said nothing since this replica leads. What is placed there would wait with them, while
        other agents could run it."""
        self._machine = machine
        self._planner = planner
        self._replan = replan
        self._active = False
        self._lease_timer: asyncio.TimerHandle | None = None
        self._queues_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start: this replica leads. The planner has just been reset."""
        self._active = True
        loop = asyncio.get_running_loop()
        self.pauses.start()
        self.leases.clear()
        for agent in self._machine.tables.agents.values():
            self.status.note_agent(agent)
            if agent.present:
                self.leases.contact(agent.name, loop.time())
                self.unheard[agent.name] = None
                self._planner.suspect(agent.name, silent=True)
        self._planner.hold_queues(held=bool(self.unheard))
        self._queues_timer = loop.call_later(UNHEARD_S, self._fill_queues)
        self._arm_leases()

    def stop(self) -> None:
        """Stop: this replica no longer leads."""
        self._active = False
        self.pauses.stop()
        self.removals.stop()
        for timer in (self._lease_timer, self._queues_timer):
            if timer is not None:
                timer.cancel()
        self._lease_timer = self._queues_timer = None
        self.leases.clear()
        self.status.clear()
        self.unheard = {}
        self.loss_throttle.reset()
        self.lost_together.clear()

    def note_contact(self, agent: str) -> None:
        """Note that an agent was heard."""
        if self._active:
            self.leases.contact(agent, asyncio.get_running_loop().time())
            if agent in self.status.suspects or agent in self.unheard:
                self._clear_suspicion(agent)
            if self._lease_timer is None:
                self._arm_leases()

    def note_trouble(self, agent: str, trouble: str) -> None:
        """Note why an agent says that it is unfit; an empty string says that it is fit."""
        unfit = self.status.unfit
        if not self._active or unfit.get(agent, "") == trouble:
            return
        if trouble:
            _log.warning("agent %s is unfit: %s", agent, trouble)
            unfit[agent] = trouble
            self._planner.suspect(agent, silent=True)
        else:
            _log.info("agent %s is fit again", agent)
            self._clear_trouble(agent)

    def _clear_trouble(self, agent: str) -> None:
        """Forget that an agent was unfit."""
        if self.status.unfit.pop(agent, "") and agent not in self.status.suspects and agent not in self.unheard:
            self._planner.suspect(agent, silent=False)
            self._replan()

    def silent_s(self, agent: str) -> float | None:
        """Return for how long an agent has been silent, None if it is not present."""
        heard_s = self.leases.last_heard_s(agent)
        return None if heard_s is None else round(asyncio.get_running_loop().time() - heard_s, 3)

    def public_state(self, agent: str, state: AgentWord) -> AgentWord:
        """Return an agent's state as users see it, given the state in the log. Only the leader knows it."""
        return self.status.public_state(agent, state, asyncio.get_running_loop().time())

    def follow_agent(self, name: str) -> None:
        """Take note that an agent changed in the state machine."""
        agent = self._machine.tables.agents.get(name)
        if agent is None or not agent.present:
            self.leases.forget(name)
            self.status.note_success(name)
            self._clear_trouble(name)
            if name in self.status.suspects or name in self.unheard:
                self._clear_suspicion(name)
            return
        self.status.note_change(agent, asyncio.get_running_loop().time())
        if self.leases.last_heard_s(name) is None:
            self.note_contact(name)

    def _arm_leases(self) -> None:
        loop = asyncio.get_running_loop()
        expiry_s = self.leases.next_expiry_s()
        if expiry_s is None:
            self._lease_timer = None
            return
        suspicion_s = self.leases.next_suspicion_s(self.status.suspects)
        due_s = expiry_s if suspicion_s is None else min(expiry_s, suspicion_s)
        least_s = MASS_LOSS_CHECK_MIN_S if self.loss_throttle.active else LEASE_CHECK_MIN_S
        due_s = max(due_s, loop.time() + least_s)
        self._lease_timer = loop.call_at(due_s, self._check_leases, due_s)

    def _check_leases(self, due_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        late_s = now_s - due_s
        if late_s > STALL_S:
            _log.warning("this replica was paused for %.1f s; every agent gets a full lease again", late_s)
            self.leases.renew_all(now_s)
            for name in tuple(self.status.suspects):
                self._clear_suspicion(name)
        self._note_suspects(now_s)
        over: list[tuple[str, int]] = []
        for name in self.leases.expired(now_s):
            agent = self._machine.tables.agents.get(name)
            if agent is None or not agent.present:
                self.leases.forget(name)
            elif (name, agent.incarnation) not in self.removals:
                over.append((name, agent.incarnation))
        for name, incarnation in over[: self._grant_removals(len(over), now_s)]:
            self.removals.begin(name, incarnation, together=name in self.lost_together)
        self._arm_leases()

    def _clear_suspicion(self, name: str) -> None:
        """Give an agent work again that was suspect, or that is heard for the first time."""
        self.status.suspects.pop(name, None)
        if self.unheard.pop(name, self) is None and not self.unheard:
            self._planner.hold_queues(held=False)
        self.lost_together.forget(name)
        if name not in self.status.unfit:
            self._planner.suspect(name, silent=False)
        self._replan()

    def _fill_queues(self) -> None:
        """Fill queues again, though some agents have not been heard yet."""
        self._planner.hold_queues(held=False)
        self._replan()

    def _note_suspects(self, now_s: float) -> None:
        """Give no more work to agents that have been silent for long."""
        suspects = self.status.suspects
        for name in self.leases.suspects(now_s):
            if name not in suspects:
                suspects[name] = None
                self._planner.suspect(name, silent=True)

    def _grant_removals(self, wanted: int, now_s: float) -> int:
        """Return how many of the agents whose leases are over may be removed now."""
        if not wanted:
            # Leases of agents that vanished together do not end together: each was heard at another time.
            if self.loss_throttle.active and not self.removals and not self.lost_together:
                _log.info("the mass loss of agents is over")
                self.loss_throttle.reset()
            return 0
        present = sum(agent.present for agent in self._machine.tables.agents.values())
        self.lost_together.note(self.status.suspects, present)
        begun = self.loss_throttle.begun
        granted = self.loss_throttle.grant(wanted, silent=len(self.status.suspects), present=present, now_s=now_s)
        if self.loss_throttle.begun != begun:
            _log.warning(
                "%d of %d agents are silent at once: they are given up slowly, and kept if they are heard again",
                len(self.status.suspects),
                present,
            )
        return granted
