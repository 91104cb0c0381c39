"""What only the leader does: give up silent agents, fire timers, place tasks, forget old workflows, raise levels.

The loop is active between the role callbacks LEADER and FOLLOWER. It decides from the applied state and proposes
commands; nothing happens before the log has committed them, and `apply` checks each again. So a leader that was
replaced without knowing can do no harm, and a proposal that was lost is simply decided anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from raftflow.coordinator.clock import WallClock
from raftflow.coordinator.commit.coalesced_task import CoalescedTask
from raftflow.coordinator.commit.submitter import Submitter
from raftflow.coordinator.leader.agent_status import AgentStatus
from raftflow.coordinator.leader.leases import STALL_S, Leases
from raftflow.coordinator.leader.mass_loss import LostTogether, MassLossThrottle
from raftflow.coordinator.leader.removals import PendingRemovals
from raftflow.coordinator.leader.retention import Retention
from raftflow.domain.commands import (
    CommitPlacements,
    FireTimers,
    Placement,
    RaiseFeatureLevel,
    RetireWorkflows,
    Supported,
)
from raftflow.domain.contract.views import AgentWord, ReportedEnd
from raftflow.domain.events import (
    AgentChanged,
    Event,
    TaskNotReady,
    TaskReady,
    TimerSet,
    WorkflowNotReady,
    WorkflowReady,
)
from raftflow.domain.replies import AnyReply
from raftflow.machine.machine import Machine
from raftflow.replication.log import Role

_log = logging.getLogger(__name__)

LEASE_CHECK_MIN_S = 0.05
LOSS_CHECK_S = 0.2
"""The same during a mass loss: removals come a few at a time."""
RETIRE_EVERY_S = 30.0
RETIRE_COUNT_MAX = 1_000
UNHEARD_S = 0.5
"""How long a new leader fills no queues while there are agents that it has not heard: what would wait in the queue of
a full one may soon run at once on another. Agents find a new leader in far less."""
LEVEL_EVERY_S = 1.0
"""How often the leader looks whether all members understand a higher feature level than the cluster's."""
TIMER_SLEEP_MAX_S = 3600.0
"""Longest sleep towards a timer, so that a wall clock that was set is noticed."""


class Planner(Protocol):
    """Turns the state into placements. Follows the events of every entry that is applied while leading."""

    @property
    def behind(self) -> bool:
        """True while it lacks something of what `reset` or `observe` told, which `catch_up` takes in."""
        ...

    def reset(self) -> None:
        """Read everything anew from the state machine, or begin to."""
        ...

    def catch_up(self) -> None:
        """Take in a slice of what is lacking: no more than one turn of the event loop should do."""
        ...

    def observe(self, events: list[Event]) -> None:
        """Take note of what an applied entry changed."""
        ...

    def plan(self) -> tuple[Placement, ...]:
        """Propose placements for now; empty if there is nothing to place or no room."""
        ...

    def suspect(self, agent: str, *, silent: bool) -> None:
        """Give an agent nothing while it is silent, or take it into account again."""
        ...

    def hold_queues(self, *, held: bool) -> None:
        """Place nothing where it could not run at once for a while, or go on to fill queues."""
        ...

    def plan_speculatively(self, agent: str, ends: Sequence[ReportedEnd]) -> tuple[Placement, ...]:
        """Propose placements that will hold once these ends of the agent's attempts are applied."""
        ...


class LeaderLoop:
    """The leader's work on one replica.

    Args:
        member_levels: the highest feature level that each member of the cluster understands, as far as it is known;
            None while it is not known of all.
        on_bug: told about an exception that is none of the expected ones; the replica must stop.
    """

    def __init__(
        self,
        *,
        name: str,
        machine: Machine,
        submitter: Submitter,
        clock: WallClock,
        planner: Planner,
        lease_ms: int,
        poll_wait_ms: int,
        retention: Retention,
        on_bug: Callable[[BaseException], None],
        member_levels: Callable[[], Mapping[str, int] | None] = lambda: None,
    ) -> None:
        self.leases = Leases(lease_ms, poll_wait_ms)
        self.status = AgentStatus()
        self.loss_throttle = MassLossThrottle()
        self.together = LostTogether()
        self._actor = f"leader:{name}"
        self.removals = PendingRemovals(actor=self._actor, submitter=submitter, clock=clock, on_bug=on_bug)
        self._machine = machine
        self._submitter = submitter
        self._clock = clock
        self._planner = planner
        self._retention = retention
        self._on_bug = on_bug
        self._member_levels = member_levels
        self._leading = False
        self.unheard: dict[str, None] = {}
        """Agents that have said nothing since this replica leads. What is placed there would wait with them, while
        others could run it."""
        self._placing = CoalescedTask("place", self._place, on_bug)
        self._firing = CoalescedTask("timers", self._fire, on_bug)
        self._retiring = CoalescedTask("retire", self._retire, on_bug)
        self._raising = CoalescedTask("level", self._raise, on_bug)
        self._coalesced = (self._placing, self._firing, self._retiring, self._raising)
        self._catching_up: asyncio.Handle | None = None
        self._lease_timer: asyncio.TimerHandle | None = None
        self._wake_timer: asyncio.TimerHandle | None = None
        self._wake_due_ms: int | None = None
        self._retire_timer: asyncio.TimerHandle | None = None
        self._level_timer: asyncio.TimerHandle | None = None
        self._queues_timer: asyncio.TimerHandle | None = None

    @property
    def leading(self) -> bool:
        """True between the callbacks: this replica may answer for the cluster."""
        return self._leading

    @property
    def placing(self) -> bool:
        """True while placements are being decided or committed."""
        return self._placing.busy

    def when_placed(self, callback: Callable[[], None]) -> bool:
        """Call back when the placing that is due or under way is done; False, without a call, if none is."""
        return self._placing.when_settled(callback)

    # --- roles

    def on_role_change(self, role: Role, term: int) -> None:
        """Start on LEADER, stop on anything else. For `ReplicatedLog.on_role_change`."""
        if role is Role.LEADER and not self._leading:
            _log.info("leading in term %d", term)
            self._start()
        elif role is not Role.LEADER and self._leading:
            _log.info("no longer leading, term %d", term)
            self.stop()

    def _start(self) -> None:
        self._leading = True
        now_s = asyncio.get_running_loop().time()
        self.leases.clear()
        for agent in self._machine.tables.agents.values():
            self.status.note_agent(agent)
            if agent.present:
                self.leases.contact(agent.name, now_s)
        for coalesced in self._coalesced:
            coalesced.start()
        self._planner.reset()
        self.unheard = {agent.name: None for agent in self._machine.tables.agents.values() if agent.present}
        for name in self.unheard:
            self._planner.suspect(name, silent=True)
        self._planner.hold_queues(held=bool(self.unheard))
        self._queues_timer = asyncio.get_running_loop().call_later(UNHEARD_S, self._fill_queues)
        self._catch_up_soon()
        self._placing.kick()
        self._arm_leases()
        self._arm_timer()
        self._retire_later()
        self._look_at_levels()

    def stop(self) -> None:
        """Stop deciding. What is in flight may still be committed by the next leader."""
        self._leading = False
        for coalesced in self._coalesced:
            coalesced.stop()
        self.removals.stop()
        timers = (
            self._lease_timer,
            self._wake_timer,
            self._retire_timer,
            self._level_timer,
            self._catching_up,
            self._queues_timer,
        )
        for timer in timers:
            if timer is not None:
                timer.cancel()
        self._catching_up = None
        self._lease_timer = self._wake_timer = self._retire_timer = self._level_timer = self._queues_timer = None
        self._wake_due_ms = None
        self.leases.clear()
        self.status.clear()
        self.unheard = {}
        self.loss_throttle.reset()
        self.together.clear()

    def on_applied(self, events: list[Event]) -> None:
        """Take note of an applied entry."""
        if not self._leading:
            return
        self._planner.observe(events)
        timers = False
        for event in events:
            if isinstance(event, TaskReady | TaskNotReady):
                self._placing.kick()
            elif isinstance(event, AgentChanged):
                self._placing.kick()
                self._watch(event.name)
            elif isinstance(event, WorkflowReady | WorkflowNotReady):
                self._catch_up_soon()
            elif isinstance(event, TimerSet):
                timers = True
        if timers:
            self._arm_timer()

    # --- leases

    def note_contact(self, agent: str) -> None:
        """Note that an agent was heard."""
        if self._leading:
            self.leases.contact(agent, asyncio.get_running_loop().time())
            if agent in self.status.suspects or agent in self.unheard:
                self._clear_suspicion(agent)
            if self._lease_timer is None:
                self._arm_leases()

    def note_trouble(self, agent: str, trouble: str) -> None:
        """Note what an agent says of itself: why it is unfit, or with an empty text that it is fit."""
        unfit = self.status.unfit
        if not self._leading or unfit.get(agent, "") == trouble:
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
            self._placing.kick()

    def silent_s(self, agent: str) -> float | None:
        """Return for how long an agent has not been heard, or None if it is not watched."""
        heard_s = self.leases.last_heard_s(agent)
        return None if heard_s is None else round(asyncio.get_running_loop().time() - heard_s, 3)

    def public_state(self, agent: str, state: AgentWord) -> AgentWord:
        """Return an agent's state as users see it, given the one that the replicas know. While leading."""
        return self.status.public_state(agent, state, asyncio.get_running_loop().time())

    def _watch(self, name: str) -> None:
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
        least_s = LOSS_CHECK_S if self.loss_throttle.active else LEASE_CHECK_MIN_S
        due_s = max(due_s, loop.time() + least_s)
        self._lease_timer = loop.call_at(due_s, self._check_leases, due_s)

    def _check_leases(self, due_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        late_s = now_s - due_s
        if late_s > STALL_S:
            _log.warning("this replica stood still for %.1f s; every agent gets a full lease again", late_s)
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
            self.removals.begin(name, incarnation, together=self._is_together(name))
        self._arm_leases()

    def _is_together(self, name: str) -> bool:
        return name in self.together

    def _clear_suspicion(self, name: str) -> None:
        """Give an agent work again that is a suspect, or has not been heard before."""
        self.status.suspects.pop(name, None)
        if self.unheard.pop(name, self) is None and not self.unheard:
            self._planner.hold_queues(held=False)
        self.together.forget(name)
        if name not in self.status.unfit:
            self._planner.suspect(name, silent=False)
        self._placing.kick()

    def _fill_queues(self) -> None:
        """Go on without the agents that have not been heard yet."""
        self._planner.hold_queues(held=False)
        self._placing.kick()

    def _note_suspects(self, now_s: float) -> None:
        """Give nothing more to agents that have been silent for long."""
        suspects = self.status.suspects
        for name in self.leases.suspects(now_s):
            if name not in suspects:
                suspects[name] = None
                self._planner.suspect(name, silent=True)

    def _grant_removals(self, wanted: int, now_s: float) -> int:
        """Return how many of the agents whose leases are over may be given up now."""
        if not wanted:
            if self.loss_throttle.active and not self.removals:
                _log.info("the mass loss of agents is over")
                self.loss_throttle.reset()
            return 0
        present = sum(agent.present for agent in self._machine.tables.agents.values())
        self.together.note(self.status.suspects, present)
        begun = self.loss_throttle.begun
        granted = self.loss_throttle.grant(wanted, silent=len(self.status.suspects), present=present, now_s=now_s)
        if self.loss_throttle.begun != begun:
            _log.warning(
                "%d of %d agents are silent at once: they are given up slowly, and kept if they are heard again",
                len(self.status.suspects),
                present,
            )
        return granted

    # --- timers

    def _now_ms(self) -> int:
        """Return a time that is not before what the state machine has seen."""
        return max(self._clock.now_ms(), self._machine.clock_ms)

    def _arm_timer(self) -> None:
        due_ms = self._machine.tables.next_timer_ms
        if due_ms == self._wake_due_ms and self._wake_timer is not None:
            return
        if self._wake_timer is not None:
            self._wake_timer.cancel()
            self._wake_timer = None
        self._wake_due_ms = due_ms
        if due_ms is not None:
            # At least a millisecond: some event loops run shorter timers at once, and the clock would not be there.
            delay_s = min(max((due_ms - self._now_ms()) / 1000, 0.001), TIMER_SLEEP_MAX_S)
            self._wake_timer = asyncio.get_running_loop().call_later(delay_s, self._timer_due)

    def _timer_due(self) -> None:
        self._wake_timer = None
        self._wake_due_ms = None
        due_ms = self._machine.tables.next_timer_ms
        if due_ms is not None and due_ms <= self._now_ms():
            self._firing.kick()
        else:
            self._arm_timer()

    async def _fire(self) -> None:
        due_ms = self._machine.tables.next_timer_ms
        if due_ms is not None and due_ms <= self._now_ms():
            await self._submitter.propose(FireTimers(at_ms=self._now_ms(), actor=self._actor))
        self._arm_timer()

    # --- placing

    def _catch_up_soon(self) -> None:
        """Let the planner go on in the next turn of the event loop, so that others get theirs in between."""
        if self._planner.behind and self._catching_up is None:
            self._catching_up = asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._catching_up = None
        self._planner.catch_up()
        self._placing.kick()
        self._catch_up_soon()

    async def _place(self) -> None:
        placements = self._planner.plan()
        if placements:
            await self._submitter.propose(
                CommitPlacements(at_ms=self._clock.now_ms(), actor=self._actor, placements=placements)
            )

    def replan(self) -> None:
        """Plan anew though nothing was applied: time went on, or agents told something."""
        self._placing.kick()

    def place_speculatively(self, agent: str, ends: Sequence[ReportedEnd]) -> None:
        """Propose what the ends, proposed in this turn of the event loop, leave room for (`speculation`)."""
        if not self._leading:
            return
        placements = self._planner.plan_speculatively(agent, ends)
        if placements:
            reply = self._submitter.enqueue(
                CommitPlacements(at_ms=self._clock.now_ms(), actor=self._actor, placements=placements)
            )
            if isinstance(reply, asyncio.Future):
                # Whatever becomes of it, the ordinary placing sees what is still ready.
                reply.add_done_callback(_ignore)

    # --- retention

    def _retire_later(self) -> None:
        self._retire_timer = asyncio.get_running_loop().call_later(RETIRE_EVERY_S, self._retire_due)

    def _retire_due(self) -> None:
        self._retiring.kick()
        self._retire_later()

    async def _retire(self) -> None:
        finished = self._machine.tables.finished
        excess, before_ms = self._retention.excess(finished, self._now_ms())
        while self._leading and excess > 0:
            before, count = len(finished), min(excess, RETIRE_COUNT_MAX)
            await self._submitter.propose(
                RetireWorkflows(at_ms=self._now_ms(), actor=self._actor, before_ms=before_ms, count_max=count)
            )
            finished = self._machine.tables.finished
            excess -= before - len(finished)
            if len(finished) >= before:
                return  # nothing went; the next round looks again

    # --- feature levels

    def _look_at_levels(self) -> None:
        """Look now and then, for as long as this replica understands more than the cluster uses."""
        self._level_timer = None
        if self._machine.tables.feature_level < self._machine.level_max:
            self._raising.kick()
            self._level_timer = asyncio.get_running_loop().call_later(LEVEL_EVERY_S, self._look_at_levels)

    async def _raise(self) -> None:
        levels = self._member_levels()
        level = min(levels.values(), default=0) if levels is not None else 0
        if levels is None or level <= self._machine.tables.feature_level:
            return
        supported = tuple(Supported(member, understood) for member, understood in sorted(levels.items()))
        await self._submitter.propose(
            RaiseFeatureLevel(at_ms=self._now_ms(), actor=self._actor, level=level, supported=supported)
        )
        _log.info("the cluster is on feature level %d", self._machine.tables.feature_level)


def _ignore(reply: asyncio.Future[AnyReply]) -> None:
    """Mark the outcome as seen."""
    if not reply.cancelled():
        reply.exception()
