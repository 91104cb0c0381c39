"""What only the leader does: give up silent agents, fire timers, place tasks, forget old workflows, raise levels.

The loop is active between the role callbacks LEADER and FOLLOWER. It decides from the applied state and proposes
commands; nothing happens before the log has committed them, and `apply` checks each again. So a leader that was
replaced without knowing can do no harm, and what a lost proposal wanted is decided again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from raftflow.coordinator.clock import WallClock
from raftflow.coordinator.commit.coalesced_task import CoalescedTask
from raftflow.coordinator.commit.submitter import Submitter
from raftflow.coordinator.leader.liveness import AgentLiveness
from raftflow.coordinator.leader.planner_protocol import Planner
from raftflow.coordinator.leader.removals import PendingRemovals
from raftflow.coordinator.leader.retention import Retention
from raftflow.domain.commands import (
    CommitPlacements,
    ContinueAgenda,
    FireTimers,
    RaiseFeatureLevel,
    RetireBundles,
    RetireWorkflows,
    Supported,
)
from raftflow.domain.contract.views import ReportedEnd
from raftflow.domain.events import (
    AgentChanged,
    BudgetReached,
    Event,
    RateLimitChanged,
    TaskNotReady,
    TaskReady,
    TimerSet,
    WorkflowNotReady,
    WorkflowReady,
)
from raftflow.domain.limits import BUNDLE_UNUSED_MS
from raftflow.domain.replies import AnyReply
from raftflow.machine.machine import Machine
from raftflow.machine.read.bundles import unused_bundles
from raftflow.replication.log import Role

_log = logging.getLogger(__name__)

RETIRE_EVERY_S = 30.0
RETIRE_COUNT_MAX = 1_000
LEVEL_EVERY_S = 1.0
"""How often the leader checks whether all members understand a higher feature level than the cluster's."""
TIMER_SLEEP_MAX_S = 3600.0
"""Longest sleep towards a timer, so that a wall clock that was set is noticed."""


class LeaderLoop:
    """The leader's work on one replica. `liveness` watches the agents.

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
        self._actor = f"leader:{name}"
        self.liveness = AgentLiveness(
            machine=machine,
            planner=planner,
            removals=PendingRemovals(actor=self._actor, submitter=submitter, clock=clock, on_bug=on_bug),
            lease_ms=lease_ms,
            poll_wait_ms=poll_wait_ms,
            replan=self.replan,
        )
        self._machine = machine
        self._submitter = submitter
        self._clock = clock
        self._planner = planner
        self._retention = retention
        self._on_bug = on_bug
        self._member_levels = member_levels
        self._leading = False
        self._placing = CoalescedTask("place", self._propose_placements, on_bug)
        self._firing = CoalescedTask("timers", self._fire_timers, on_bug)
        self._retiring = CoalescedTask("retire", self._retire_workflows, on_bug)
        self._raising = CoalescedTask("level", self._raise_level, on_bug)
        self._continuing = CoalescedTask("agenda", self._continue_agenda, on_bug)
        self._coalesced = (self._placing, self._firing, self._retiring, self._raising, self._continuing)
        self._catching_up: asyncio.Handle | None = None
        self._wake_timer: asyncio.TimerHandle | None = None
        self._wake_due_ms: int | None = None
        self._retire_timer: asyncio.TimerHandle | None = None
        self._level_timer: asyncio.TimerHandle | None = None
        self._rate_timer: asyncio.TimerHandle | None = None

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
        for coalesced in self._coalesced:
            coalesced.start()
        self._planner.reset()
        self.liveness.start()
        self._catch_up_soon()
        self._placing.kick()
        self._continuing.kick()
        self._arm_timer()
        self._retire_later()
        self._look_at_levels()

    def stop(self) -> None:
        """Stop deciding. The next leader may still commit what is in flight."""
        self._leading = False
        for coalesced in self._coalesced:
            coalesced.stop()
        self.liveness.stop()
        for timer in (self._wake_timer, self._retire_timer, self._level_timer, self._rate_timer, self._catching_up):
            if timer is not None:
                timer.cancel()
        self._catching_up = None
        self._wake_timer = self._retire_timer = self._level_timer = self._rate_timer = None
        self._wake_due_ms = None

    def on_applied(self, events: list[Event]) -> None:
        """Follow an applied entry."""
        if not self._leading:
            return
        if self._machine.tables.agenda:
            self._continuing.kick()
        self._planner.observe(events)
        timers = False
        for event in events:
            if isinstance(event, TaskReady | TaskNotReady | RateLimitChanged):
                self._placing.kick()
            elif isinstance(event, AgentChanged):
                self._placing.kick()
                self.liveness.follow_agent(event.name)
            elif isinstance(event, WorkflowReady | WorkflowNotReady):
                self._catch_up_soon()
            elif isinstance(event, TimerSet):
                timers = True
            elif isinstance(event, BudgetReached):
                _tell_operator(event)
        if timers:
            self._arm_timer()

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

    async def _fire_timers(self) -> None:
        due_ms = self._machine.tables.next_timer_ms
        if due_ms is not None and due_ms <= self._now_ms():
            await self._submitter.propose(FireTimers(at_ms=self._now_ms(), actor=self._actor))
        self._arm_timer()

    # --- placing

    def _catch_up_soon(self) -> None:
        """Let the planner continue in the next turn of the event loop, so that other work runs in between."""
        if self._planner.behind and self._catching_up is None:
            self._catching_up = asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._catching_up = None
        self._planner.catch_up()
        self._placing.kick()
        self._catch_up_soon()

    async def _propose_placements(self) -> None:
        placements = self._planner.plan()
        if placements:
            await self._submitter.propose(
                CommitPlacements(at_ms=self._clock.now_ms(), actor=self._actor, placements=placements)
            )
        self._arm_rates()

    def _arm_rates(self) -> None:
        """Plan again when a rate limit has enough for a task that it keeps waiting."""
        if self._rate_timer is not None:
            self._rate_timer.cancel()
            self._rate_timer = None
        wait_ms = self._planner.rate_wait_ms()
        if self._leading and wait_ms is not None:
            delay_s = min(wait_ms / 1000, TIMER_SLEEP_MAX_S)
            self._rate_timer = asyncio.get_running_loop().call_later(delay_s, self.replan)

    def replan(self) -> None:
        """Plan again though nothing was applied: time went on, or agents reported something."""
        self._placing.kick()

    def place_speculatively(self, agent: str, ends: Sequence[ReportedEnd]) -> None:
        """Propose what runs when the ends are applied that this turn of the event loop has proposed."""
        if not self._leading:
            return
        placements = self._planner.plan_speculatively(agent, ends)
        if placements:
            reply = self._submitter.enqueue(
                CommitPlacements(at_ms=self._clock.now_ms(), actor=self._actor, placements=placements)
            )
            if isinstance(reply, asyncio.Future):
                # The ordinary placing sees what is still ready, with any outcome.
                reply.add_done_callback(_ignore)

    # --- agenda

    async def _continue_agenda(self) -> None:
        """Propose piece after piece, each when the one before is applied: other commands come in between."""
        while self._machine.tables.agenda:
            await self._submitter.propose(ContinueAgenda(at_ms=self._now_ms(), actor=self._actor))

    # --- retention

    def _retire_later(self) -> None:
        self._retire_timer = asyncio.get_running_loop().call_later(RETIRE_EVERY_S, self._retire_due)

    def _retire_due(self) -> None:
        self.retire_soon()
        self._retire_later()

    def retire_soon(self) -> None:
        """Forget what is too old or too much now, and not at the next regular time."""
        self._retiring.kick()

    async def _retire_workflows(self) -> None:
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
                break  # nothing was retired; the next round tries again
        await self._retire_bundles()

    async def _retire_bundles(self) -> None:
        unused = unused_bundles(self._machine.tables.bundles, self._now_ms() - BUNDLE_UNUSED_MS)
        if self._leading and unused:
            await self._submitter.propose(
                RetireBundles(at_ms=self._now_ms(), actor=self._actor, digests=unused, unused_ms=BUNDLE_UNUSED_MS)
            )

    # --- feature levels

    def _look_at_levels(self) -> None:
        """Check regularly, as long as this replica understands more than the cluster uses."""
        self._level_timer = None
        if self._machine.tables.feature_level < self._machine.level_max:
            self._raising.kick()
            self._level_timer = asyncio.get_running_loop().call_later(LEVEL_EVERY_S, self._look_at_levels)

    async def _raise_level(self) -> None:
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


def _tell_operator(event: BudgetReached) -> None:
    if event.used_up:
        _log.warning(
            "workflow %s: its budget of %s is used up; it pauses until `raftflow workflow budget raise`",
            event.workflow_id,
            event.name,
        )
    else:
        _log.info("workflow %s: the soft limit of its budget of %s is reached", event.workflow_id, event.name)
