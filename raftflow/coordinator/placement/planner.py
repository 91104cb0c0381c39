"""The leader's planner: tells the scheduler what entries changed, and asks it for placements."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heapify, heappop, heappush
from operator import itemgetter
from typing import NamedTuple

import msgspec

from raftflow.coordinator.placement.agent_stats import AgentStats
from raftflow.coordinator.placement.rate_waiters import RateWaiters
from raftflow.coordinator.placement.speculative import placements_after
from raftflow.domain.commands import Placement
from raftflow.domain.contract.views import ReportedEnd
from raftflow.domain.events import AgentChanged, Event, TaskNotReady, TaskReady, WorkflowNotReady, WorkflowReady
from raftflow.domain.tasks.feasibility import AGE_STEP_MS, AgentRoom, ReadyTask, Shape
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.spending import rates
from raftflow.scheduler.order import workflow_order
from raftflow.scheduler.place import decide
from raftflow.scheduler.queue.ready_queue import ReadyQueue, TaskKey
from raftflow.scheduler.reservations import Reservations
from raftflow.scheduler.view import PlacementView, has_room

PLACEMENTS_MAX = 1024
"""Placements of one command. When they are applied the next ones are computed. A decision looks at all agents that
have room, so many small ones cost more; applying one of this size holds the event loop for some 20 ms."""
SLICE = 1_000
"""Tasks that are looked at in one turn of the event loop while whole workflows are taken into the queue."""
SHOWN_MIN = 8
REMEMBERED_MAX = 256
"""Decisions that are remembered, to explain them."""


class PlacementDecision(NamedTuple):
    """The decision that placed a task."""

    task: ReadyTask | None
    """The task as the scheduler saw it. None if it was placed speculatively, with the report that made it ready."""
    view: PlacementView | None


class QueuePlanner:
    """Keeps the scheduler's queue of ready tasks and the agents that are up, and asks for placements.

    At most one proposal is under way at a time. So the events of its placements have removed the tasks from the queue
    before the next plan is made. Whole workflows (all of them when a replica begins to lead) are added in slices, the
    most urgent first. A task that is not in the queue yet waits a little longer.

    Args:
        now_ms: the cluster's time.
        rate_waiters: running attempts that wait for rate limits. What is placed takes what they leave.
    """

    def __init__(
        self,
        machine: Machine,
        now_ms: Callable[[], int],
        agent_stats: AgentStats | None = None,
        rate_waiters: RateWaiters | None = None,
    ) -> None:
        self._machine = machine
        self._rate_waiters = RateWaiters(machine) if rate_waiters is None else rate_waiters
        self._now_ms = now_ms
        self._agent_stats = agent_stats or AgentStats()
        self._queue = ReadyQueue()
        self._backlog: list[tuple[int, int, int, str]] = []
        """Workflows whose tasks must be added: order, next position, number and id. A heap, in which the workflows of
        one order take turns."""
        self._leaving: dict[str, tuple[int, int]] = {}
        """Workflows whose tasks must be removed: the next position, and how many tasks they have."""
        self._replaced: list[ReadyQueue] = []
        """Queues of earlier terms, which are freed in slices."""
        self._open: dict[str, AgentRoom] = {}
        """Agents that are up and have room, as of the last plan."""
        self._full: dict[str, AgentRoom] = {}
        """Those that have none."""
        self._changed: dict[str, None] = {}
        """Agents whose room must be read again, in the order of the events."""
        self._suspects: dict[str, None] = {}
        """Agents that are silent."""
        self._queues_held = False
        """Tasks are placed only where they can run at once."""
        self._reservations = Reservations()
        self.settled = False
        """True if the last plan found nothing to place, and nothing has changed since."""
        self._remembered: deque[tuple[PlacementView | None, tuple[Placement, ...]]] = deque()
        self._decision: dict[TaskKey, tuple[PlacementView | None, tuple[Placement, ...]]] = {}
        """The remembered decision that placed a task last."""

    def reset(self) -> None:
        """Read everything from the state machine again: the first slice now, the rest in `catch_up`."""
        self._replaced.append(self._queue)
        self._queue = ReadyQueue()
        self._leaving.clear()
        found = queries.workflows_with_ready(self._machine)
        self._backlog = [self._place_of(workflow_id) for workflow_id in found]
        heapify(self._backlog)
        self.catch_up()
        self._open.clear()
        self._full.clear()
        self._suspects.clear()
        self._changed = dict.fromkeys(self._machine.tables.agents)
        self._reservations = Reservations()
        self._rate_waiters.reset()
        self._remembered.clear()
        self._decision.clear()

    def observe(self, events: list[Event]) -> None:
        """Take note of what an applied entry changed."""
        self.settled = False
        for event in events:
            if isinstance(event, TaskReady):
                self._add(event.workflow_id, event.task)
            elif isinstance(event, TaskNotReady):
                self._queue.discard(event.workflow_id, event.task)
            elif isinstance(event, AgentChanged):
                self._changed[event.name] = None
            elif isinstance(event, WorkflowReady | WorkflowNotReady):
                self._note_workflow(event)

    def _note_workflow(self, event: WorkflowReady | WorkflowNotReady) -> None:
        """Note that the tasks of a whole workflow must be added or removed."""
        workflow = self._machine.tables.workflows.get(event.workflow_id)
        if workflow is None:
            return  # later events of the same entry took it away
        if isinstance(event, WorkflowNotReady):
            self._leaving[workflow.id] = (0, len(workflow.tasks))
        else:
            heappush(self._backlog, self._place_of(workflow.id))

    @property
    def behind(self) -> bool:
        """True while `catch_up` has something to do."""
        return bool(self._backlog or self._replaced or self._leaving or self._queue.untidy)

    def catch_up(self) -> None:
        """Remove or add the next slice of tasks, and free a slice of what is no longer used."""
        if self._replaced and not self._replaced[-1].dissolve(SLICE):
            self._replaced.pop()
        self._queue.tidy(SLICE)
        left = self._take_out(SLICE)
        while left > 0 and self._backlog:
            order, first, number, workflow_id = heappop(self._backlog)
            found, looked_at = queries.ready_positions(self._machine, workflow_id, first, left)
            for position in found:
                self._add(workflow_id, position)
            if looked_at == left:
                heappush(self._backlog, (order, first + left, number, workflow_id))
            left -= max(1, looked_at)

    def _take_out(self, count: int) -> int:
        """Remove up to `count` tasks of paused workflows. Returns how much of `count` is left.

        This comes before tasks are added. So a workflow that was resumed meanwhile is added again as it is now.
        """
        while count > 0 and self._leaving:
            workflow_id, (first, total) = next(iter(self._leaving.items()))
            end = min(first + count, total)
            for position in range(first, end):
                self._queue.discard(workflow_id, position)
            if end == total:
                del self._leaving[workflow_id]
            else:
                self._leaving[workflow_id] = (end, total)
            count -= end - first
        return count

    def _place_of(self, workflow_id: str) -> tuple[int, int, int, str]:
        workflow = self._machine.tables.workflows[workflow_id]
        order = workflow_order(workflow.submitted_ms // AGE_STEP_MS, workflow.priority)
        return order, 0, workflow.number, workflow_id

    def suspect(self, agent: str, *, silent: bool) -> None:
        """Give an agent no work while it is silent, or give it work again."""
        if silent:
            self._suspects[agent] = None
        else:
            self._suspects.pop(agent, None)
        self._changed[agent] = None

    def hold_queues(self, *, held: bool) -> None:
        """Place tasks only where they can run at once for a while, or fill queues again."""
        if self._queues_held != held:
            self._queues_held = held
            self._changed.update(dict.fromkeys(self._machine.tables.agents))

    def _add(self, workflow_id: str, position: int) -> None:
        if workflow_id in self._leaving:
            return  # it comes in again as a whole, perhaps with another priority, or not at all
        # Later events of the same entry may have changed it again; then there is nothing to add.
        task = queries.ready_task(self._machine, workflow_id, position)
        if task is not None:
            self._queue.add(task)

    def plan(self) -> tuple[Placement, ...]:
        """Return placements to propose now; empty if no task is ready or no agent has room."""
        placements = self._decide()
        self.settled = not placements and not self._backlog and not self._leaving
        return placements

    def _decide(self) -> tuple[Placement, ...]:
        self._refresh_rooms()
        if not self._open or not len(self._queue):
            return ()
        now_ms = self._queue.now_ms = self._now_ms()
        budgets, rate_units = self._budgets(), self._rate_units(now_ms)
        groups = self._queue.groups(_worth_showing(self._open.values()), budgets, rate_units)
        if not groups:
            return ()
        view = PlacementView(
            agents=tuple(self._open.values()),
            full=tuple(self._full.values()),
            groups=groups,
            placements_max=PLACEMENTS_MAX,
            budgets=budgets,
            rate_units=rate_units,
            reserved=self._reserved(now_ms),
        )
        decision = decide(view)
        self._reservations.note(now_ms, decision, {group.shape: None for group in groups})
        placements = tuple(decision.placements)
        self._remember(view, placements)
        return placements

    def _refresh_rooms(self) -> None:
        """Read the rooms of the agents that have changed."""
        for name in (*self._changed, *self._agent_stats.take_changed()):
            self._open.pop(name, None)
            self._full.pop(name, None)
            room = queries.agent_room(self._machine, name)
            if room is not None:
                room = self._agent_stats.annotate(room, suspect=name in self._suspects)
                if self._queues_held:
                    room = msgspec.structs.replace(room, prefetch=min(room.prefetch, room.queued))
                (self._open if has_room(room) else self._full)[name] = room
        self._changed.clear()

    def _budgets(self) -> dict[str, int]:
        return {name: queries.budget(self._machine, name) or 0 for name in self._queue.limited()}

    def _rate_units(self, now_ms: int) -> dict[str, int]:
        """Return what is left of the rate limits from which ready tasks take."""
        names = dict.fromkeys(name for wanted in self._queue.rates() for name, _ in wanted)
        now_ms = max(now_ms, self._machine.clock_ms)
        return {name: self._rate_waiters.units_left(name, now_ms) for name in names}

    def rate_wait_ms(self) -> int | None:
        """Return after how many ms a rate limit has enough for a task that waits for it, None for no task."""
        wanted = self._queue.rates()
        if not wanted:
            return None
        now_ms = max(self._now_ms(), self._machine.clock_ms)
        ahead = self._rate_waiters.all_ahead(now_ms)
        waits_ms = [
            [rates.wait_of(self._machine, name, count, now_ms, ahead.get(name, 0)) for name, count in each]
            for each in wanted
        ]
        known = [max(wait_ms for wait_ms in each if wait_ms is not None) for each in waits_ms if None not in each]
        return min((wait_ms for wait_ms in known if wait_ms > 0), default=None)

    def _reserved(self, now_ms: int) -> dict[str, Shape]:
        reservations = self._reservations
        if reservations.idle:
            return {}
        rooms = {**self._full, **self._open}
        return reservations.choose(now_ms, rooms, lambda name: queries.holdings(self._machine, name))

    # --- what others ask

    def plan_speculatively(self, agent: str, ends: Sequence[ReportedEnd]) -> tuple[Placement, ...]:
        """Return placements that run at once where the ends happened; empty while other tasks wait."""
        if len(self._queue) or self._backlog:
            return ()
        placements = placements_after(self._machine, agent, ends)
        self._remember(None, placements)
        return placements

    def rooms(self) -> dict[str, AgentRoom]:
        """Return the rooms of the agents that are up. Do not keep them."""
        self._refresh_rooms()
        return {**self._full, **self._open}

    def first_ready(self, count: int) -> list[ReadyTask]:
        """Return the first ready tasks, in order over all shapes, that their workflows may start."""
        groups = self._queue.groups(count, self._budgets(), self._rate_units(self._now_ms()))
        keyed = [pair for group in groups for pair in zip(group.keys, group.tasks, strict=True)]
        return [task for _, task in sorted(keyed, key=itemgetter(0))[:count]]

    def rates_ahead(self) -> dict[str, int]:
        """Return units of rate limits for which running attempts wait: they come before what is placed."""
        return self._rate_waiters.all_ahead(max(self._now_ms(), self._machine.clock_ms))

    def suspects(self) -> frozenset[str]:
        """Return the agents that get no work because they are silent or unfit."""
        return frozenset(self._suspects)

    def decision_of(self, workflow_id: str, position: int) -> PlacementDecision | None:
        """Return the decision of this leader that last placed a task, None if it is forgotten."""
        found = self._decision.get((workflow_id, position))
        if found is None:
            return None
        view = found[0]
        groups = () if view is None else view.groups
        task = next((each for group in groups for each in group.tasks if _key(each) == (workflow_id, position)), None)
        return PlacementDecision(task, view)

    def reserved(self) -> dict[str, Shape]:
        """Return the agents that are reserved, and for which shape."""
        return self._reserved(self._now_ms())

    def view_now(self) -> PlacementView:
        """Return agents and limits as the next decision would see them, without tasks."""
        self._refresh_rooms()
        return PlacementView(
            agents=tuple(self._open.values()),
            full=tuple(self._full.values()),
            groups=(),
            placements_max=PLACEMENTS_MAX,
            budgets=self._budgets(),
            rate_units=self._rate_units(self._now_ms()),
            reserved=self.reserved(),
        )

    def _remember(self, view: PlacementView | None, placements: tuple[Placement, ...]) -> None:
        if not placements:
            return
        decision = (view, placements)
        self._remembered.append(decision)
        for placement in placements:
            self._decision[placement.workflow_id, placement.task] = decision
        if len(self._remembered) > REMEMBERED_MAX:
            oldest = self._remembered.popleft()
            for placement in oldest[1]:
                key = (placement.workflow_id, placement.task)
                if self._decision.get(key) is oldest:
                    del self._decision[key]


def _key(task: ReadyTask) -> TaskKey:
    return task.workflow_id, task.task


def _worth_showing(rooms: Iterable[AgentRoom]) -> int:
    """Return about how many tasks of a shape can find room. The scheduler is not shown more, which saves time.

    Tasks of one shape fit alike. So a number that is too small only makes a further round: placements trigger the
    next plan.
    """
    total = 0
    for room in rooms:
        total += room.prefetch - room.queued
        if not room.queued:
            total += 1 + max(room.free.values(), default=0) // 1000
        if total >= PLACEMENTS_MAX:
            return PLACEMENTS_MAX
    return max(total, SHOWN_MIN)
