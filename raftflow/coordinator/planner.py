"""The leader's planner: feeds the scheduler with what entries changed, and asks it for placements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raftflow.coordinator.foresight import placements_after
from raftflow.domain.commands import Placement
from raftflow.domain.contract import ReportedEnd
from raftflow.domain.events import AgentChanged, Event, TaskNotReady, TaskReady
from raftflow.domain.rooms import AgentRoom
from raftflow.machine import queries
from raftflow.machine.machine import Machine
from raftflow.machine.wishes import budget
from raftflow.scheduler.place import place
from raftflow.scheduler.queue import ReadyQueue
from raftflow.scheduler.view import PlacementView, has_room

PLACEMENTS_MAX = 512
"""Placements of one command. When they are applied the next ones are computed."""
SHOWN_LEAST = 8


class QueuePlanner:
    """Keeps the scheduler's queue of ready tasks and the agents that have room, and asks for placements.

    At most one proposal is under way at a time, so nothing has to be held back: what was placed has left the queue
    by its event before the next plan is made.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._queue = ReadyQueue()
        self._rooms: dict[str, AgentRoom] = {}
        """Agents with room, as of the last plan."""
        self._changed: dict[str, None] = {}
        """Agents to be looked at again, in the order of the events."""
        self._suspects: dict[str, None] = {}

    def reset(self) -> None:
        """Read everything anew from the state machine."""
        self._queue = ReadyQueue()
        for workflow_id, position in queries.ready_tasks(self._machine):
            self._add(workflow_id, position)
        self._rooms.clear()
        self._suspects.clear()
        self._changed = dict.fromkeys(self._machine.state.agents)

    def observe(self, events: list[Event]) -> None:
        """Take note of what an applied entry changed."""
        for event in events:
            if isinstance(event, TaskReady):
                self._add(event.workflow_id, event.task)
            elif isinstance(event, TaskNotReady):
                self._queue.discard(event.workflow_id, event.task)
            elif isinstance(event, AgentChanged):
                self._changed[event.name] = None

    def suspect(self, agent: str, *, silent: bool) -> None:
        """Give an agent nothing while it is silent, or take it into account again."""
        if silent:
            self._suspects[agent] = None
        else:
            self._suspects.pop(agent, None)
        self._changed[agent] = None

    def _add(self, workflow_id: str, position: int) -> None:
        # Later events of the same entry may have changed it again; then there is nothing to add.
        task = queries.ready_task(self._machine, workflow_id, position)
        if task is not None:
            self._queue.add(task)

    def plan(self) -> tuple[Placement, ...]:
        """Propose placements for now; empty if nothing is ready or nobody has room."""
        for name in self._changed:
            room = queries.agent_room(self._machine, name)
            if room is not None and has_room(room) and name not in self._suspects:
                self._rooms[name] = room
            else:
                self._rooms.pop(name, None)
        self._changed.clear()
        if not self._rooms or not len(self._queue):
            return ()
        budgets = {name: budget(self._machine, name) or 0 for name in self._queue.limited()}
        view = PlacementView(
            agents=tuple(self._rooms.values()),
            groups=self._queue.groups(_worth_showing(self._rooms.values()), budgets),
            placements_max=PLACEMENTS_MAX,
            budgets=budgets,
        )
        return tuple(place(view))

    def after(self, agent: str, ends: Sequence[ReportedEnd]) -> tuple[Placement, ...]:
        """Propose what will run at once where the ends happened; empty while other tasks wait for a decision."""
        return () if len(self._queue) else placements_after(self._machine, agent, ends)


def _worth_showing(rooms: Iterable[AgentRoom]) -> int:
    """Return about how many tasks of a shape could find room: what the scheduler is not shown costs nothing.

    Tasks of one shape fit alike, so a number that is too small keeps nothing from being placed: it only makes a
    further round, since placements bring the next plan about.
    """
    total = 0
    for room in rooms:
        total += room.prefetch - room.queued
        if not room.queued:
            total += 1 + max(room.free.values(), default=0) // 1000
        if total >= PLACEMENTS_MAX:
            return PLACEMENTS_MAX
    return max(total, SHOWN_LEAST)
