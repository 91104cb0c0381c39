"""Placement: which ready task runs on which agent now, and which waits in whose queue.

Order of the tasks: priority, then upward rank (the longest path to the end of the workflow), over all shapes. A task
that fits nowhere is passed over and holds nothing.

First round, tasks that can run at once: the agent with the least left over in all dimensions (best fit), agents with
scarce resources that the task does not want last. An agent whose queue is not empty takes none: what it gets would
join the queue, and passing its queue would let large tasks starve.

Second round, prefetch: what could run nowhere now waits where it can start without a round trip. A task joins the
shortest queue among those that suit it, so queues grow evenly. Agents with scarce resources that it does not want
come last here too.

The same view gives the same placements: no sets, no floats, ties broken by the agents' names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush, merge

from raftflow.domain.commands import Placement
from raftflow.domain.resources import CPU, MEMORY
from raftflow.domain.rooms import AgentRoom, ReadyTask, Shape, fits_in, suits
from raftflow.scheduler.queue import order_key
from raftflow.scheduler.view import Group, PlacementView

_PER_MILLE = 1_000

Score = tuple[int, int, int, int]
"""Scarce resources that would be blocked, left-over, number of the agent, version of its room. Least is best."""

_ScoreOf = Callable[[int], Score | None]


def place(view: PlacementView) -> list[Placement]:
    """Decide. Returns at most `placements_max` placements, in the order in which they are to be committed."""
    fleet = _Fleet(view.agents)
    lanes = [_Lane(group, fleet) for group in view.groups]
    placements: list[Placement] = []
    passed: list[tuple[ReadyTask, _Lane]] = []
    for task, lane in _in_order(lanes):
        if len(placements) == view.placements_max:
            return placements
        number = lane.best_to_run()
        if number is None:
            if fleet.queue_room:
                passed.append((task, lane))
            else:
                lane.exhausted = True
            continue
        fleet.run(number, lane.shape)
        placements.append(fleet.placement(task, number))
    for task, lane in passed:
        if len(placements) == view.placements_max or not fleet.queue_room:
            break
        number = lane.best_to_queue()
        if number is not None:
            fleet.enqueue(number)
            placements.append(fleet.placement(task, number))
    return placements


def _in_order(lanes: list[_Lane]) -> Iterator[tuple[ReadyTask, _Lane]]:
    """Merge the groups into one order."""

    def walk(number: int, lane: _Lane) -> Iterator[tuple[tuple[int, int, int, int], int, ReadyTask]]:
        for task in lane.tasks:
            if lane.exhausted:
                return
            yield order_key(task), number, task

    for _, number, task in merge(*(walk(number, lane) for number, lane in enumerate(lanes))):
        yield task, lanes[number]


class _Fleet:
    """The agents' rooms as they are after the placements made so far."""

    def __init__(self, agents: tuple[AgentRoom, ...]) -> None:
        self.agents = sorted(agents, key=lambda agent: agent.name)
        self.free = [dict(agent.free) for agent in self.agents]
        self.queued = [agent.queued for agent in self.agents]
        self.touched: list[int] = []
        """Agents whose room changed, in order: each shape reads on from where it stopped."""
        self.version = [0] * len(self.agents)
        self.queue_room = sum(max(0, agent.prefetch - agent.queued) for agent in self.agents)

    def run(self, number: int, shape: Shape) -> None:
        free = self.free[number]
        for name, amount in shape.demand:
            free[name] -= amount
        self._touch(number)

    def enqueue(self, number: int) -> None:
        self.queued[number] += 1
        self.queue_room -= 1
        self._touch(number)

    def _touch(self, number: int) -> None:
        self.version[number] += 1
        self.touched.append(number)

    def placement(self, task: ReadyTask, number: int) -> Placement:
        agent = self.agents[number]
        return Placement(task.workflow_id, task.task, agent.name, agent.incarnation)


class _Lane:
    """One group, and the agents that suit its shape in two heaps: where it can run now, and where it can wait.

    Entries carry the version of the agent's room. An agent that changed gets a new entry when the lane is asked next;
    older ones are skipped.
    """

    __slots__ = ("_fleet", "_queues", "_read", "_read_queues", "_runs", "_suited", "exhausted", "shape", "tasks")

    def __init__(self, group: Group, fleet: _Fleet) -> None:
        self.shape = group.shape
        self.tasks = group.tasks
        self._fleet = fleet
        self._suited = {
            number: _scarce(self.shape, agent)
            for number, agent in enumerate(fleet.agents)
            if suits(self.shape, agent.capacity, agent.labels)
        }
        self._read = 0
        self._read_queues: int | None = None
        self._runs = [score for number in self._suited if (score := self._run_score(number)) is not None]
        heapify(self._runs)
        self._queues: list[Score] = []
        self.exhausted = not self._suited
        """True if no further task of this shape can be placed: then the rest of them is not looked at."""

    def best_to_run(self) -> int | None:
        """Return the agent that should run a task of this shape now, None if none can."""
        fleet = self._fleet
        self._read = self._catch_up(self._read, self._runs, self._run_score)
        while self._runs:
            number, version = self._runs[0][2:]
            if fleet.version[number] == version:
                return number
            heappop(self._runs)
        return None

    def best_to_queue(self) -> int | None:
        """Return the agent in whose queue a task of this shape should wait, None if none has room."""
        fleet = self._fleet
        if self._read_queues is None:
            self._queues = [score for number in self._suited if (score := self._queue_score(number)) is not None]
            heapify(self._queues)
            self._read_queues = len(fleet.touched)
        self._read_queues = self._catch_up(self._read_queues, self._queues, self._queue_score)
        while self._queues:
            number, version = self._queues[0][2:]
            if fleet.version[number] == version:
                return number
            heappop(self._queues)
        return None

    def _catch_up(self, read: int, heap: list[Score], score_of: _ScoreOf) -> int:
        """Enter what changed since `read` into a heap."""
        touched = self._fleet.touched
        for number in dict.fromkeys(touched[read:]):
            if number in self._suited:
                score = score_of(number)
                if score is not None:
                    heappush(heap, score)
        return len(touched)

    def _run_score(self, number: int) -> Score | None:
        fleet = self._fleet
        free = fleet.free[number]
        if fleet.queued[number] or not fits_in(self.shape, free):
            return None
        capacity = fleet.agents[number].capacity
        left_over = sum(amount * _PER_MILLE // capacity[name] for name, amount in free.items() if amount)
        for name, amount in self.shape.demand:
            left_over -= amount * _PER_MILLE // capacity[name]
        return self._suited[number], left_over, number, fleet.version[number]

    def _queue_score(self, number: int) -> Score | None:
        fleet = self._fleet
        queued = fleet.queued[number]
        if queued >= fleet.agents[number].prefetch:
            return None
        return self._suited[number], queued, number, fleet.version[number]


def _scarce(shape: Shape, agent: AgentRoom) -> int:
    """Count the agent's custom resources that a task of this shape would keep others from without wanting them."""
    wanted = dict(shape.demand)
    return sum(
        1 for name, amount in agent.capacity.items() if amount and name not in {CPU, MEMORY} and name not in wanted
    )
