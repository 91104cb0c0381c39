"""The agents during one decision, and the best of them for each shape.

Agents of equal capacity and labels are of one kind: what a shape asks of a kind is asked once. A `Lane` keeps the
agents that suit its shape in two heaps, by their scores: where it can run now, and where it can wait.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from raftflow.domain.tasks.feasibility import AgentRoom, ReadyTask, Shape, Urgency, fits_in, suits
from raftflow.scheduler.order import is_more_urgent
from raftflow.scheduler.policies import PLACEMENT_RULES
from raftflow.scheduler.scores import SCARCE_SHIFT, scarce, share, wait_in_queue
from raftflow.scheduler.view import PlacementView

Score = tuple[int, int, int, int]
"""Scarce resources and weight of the agent; left-over, or wait in the queue; number of the agent; version of its
room. Least is best."""

URGENT_LOOKS_MAX = 32
"""Queues that are checked for one task that must not wait behind less urgent ones."""

_ScoreOf = Callable[[int], Score | None]


class Fleet:
    """The agents' rooms as they are after the placements made so far."""

    def __init__(self, view: PlacementView) -> None:
        rule = self.rule = PLACEMENT_RULES[view.policy]
        agents = [agent for agent in view.agents if not agent.suspect]
        agents.sort(key=lambda agent: (agent.given if rule.balance else 0, agent.name))
        self.agents = agents
        self.others = [*view.full, *(agent for agent in view.agents if agent.suspect)]
        """Agents that are up and take nothing now: they are full, or suspect."""
        self.number = {agent.name: number for number, agent in enumerate(agents)}
        self.free = [agent.free for agent in agents]
        """That of the view until a placement changes it."""
        self.left = [share(agent.free, agent.capacity) for agent in agents]
        """What is free, in thousandths of the capacity, summed over the resources."""
        self.queued = [agent.queued for agent in agents]
        self.tail = [agent.tail for agent in agents]
        self.running = [agent.running for agent in agents]
        self.alone = [agent.alone for agent in agents]
        self.weight = [rule.weigh(agent) for agent in agents]
        self.touched: list[int] = []
        """Agents whose room changed, in order. Each lane reads it from where it stopped."""
        self.version = [0] * len(agents)
        self.queue_room = sum(max(0, agent.prefetch - agent.queued) for agent in agents)
        self.kinds: list[tuple[AgentRoom, Shape | None]] = []
        """An example of each kind of agents, and the shape for which all of the kind are reserved."""
        self.kind: list[int] = []
        """The kind of each agent."""
        known: dict[object, int] = {}
        for agent in agents:
            reserved_for = view.reserved.get(agent.name)
            key = (tuple(agent.capacity.items()), tuple(agent.labels.items()), reserved_for)
            kind = known.setdefault(key, len(self.kinds))
            if kind == len(self.kinds):
                self.kinds.append((agent, reserved_for))
            self.kind.append(kind)

    def run(self, number: int, lane: Lane) -> None:
        """Allocate the demand of the lane's shape on an agent."""
        free = self.free[number] = dict(self.free[number])
        self.running[number] += 1
        self.alone[number] = lane.shape.exclusive
        for name, amount in self.agents[number].capacity.items() if lane.shape.exclusive else lane.shape.demand:
            free[name] -= amount
        self.left[number] -= lane.wants[self.kind[number]]
        self._touch(number)

    def enqueue(self, number: int, task: ReadyTask) -> None:
        """Take a place in a queue."""
        self.queued[number] += 1
        self.tail[number] = Urgency(task.priority, task.age)
        self.queue_room -= 1
        self._touch(number)

    def _touch(self, number: int) -> None:
        self.version[number] += 1
        self.touched.append(number)


class Lane:
    """A shape, and the agents that suit it in two heaps: where it can run now, and where it can wait.

    Entries carry the version of the agent's room. An agent that changed gets a new entry when the lane is used next,
    and older entries are skipped.
    """

    __slots__ = (
        "_fleet", "_queues", "_read", "_read_queues", "_runs", "_scarce", "_suited", "exhausted", "passed_at",
        "placed", "shape", "wants",
    )  # fmt: skip

    def __init__(self, shape: Shape, fleet: Fleet) -> None:
        self.shape = shape
        self._fleet = fleet
        self._suited: list[bool] = []
        """By kind of agents, as the next two lists: whether they could ever run it."""
        self._scarce: list[int] = []
        self.wants: list[int] = []
        """The demand in thousandths of the capacity, summed over the resources."""
        for agent, reserved_for in fleet.kinds:
            able = (reserved_for is None or reserved_for == shape) and suits(shape, agent.capacity, agent.labels)
            self._suited.append(able)
            self._scarce.append(scarce(shape, agent.capacity) << SCARCE_SHIFT if able else 0)
            holds = agent.capacity if shape.exclusive else dict(shape.demand)
            self.wants.append(share(holds, agent.capacity) if able else 0)
        self._read: int | None = None
        self._read_queues: int | None = None
        self._runs: list[Score] = []
        self._queues: list[Score] = []
        self.exhausted = not any(self._suited)
        """True if no further task of this shape can be placed: then the rest is skipped."""
        self.placed = False
        self.passed_at = -1
        """How many placements had been made when a task of this shape was first passed over."""

    def best_to_run(self) -> Score | None:
        """Return the score of the agent that should run a task of this shape now, None if none can."""
        if self._read is None:
            self._runs = self._all(self.run_score)
            self._read = len(self._fleet.touched)
        self._read = self._catch_up(self._read, self._runs, self.run_score)
        return self._first(self._runs)

    def best_to_queue(self) -> Score | None:
        """Return the score of the agent in whose queue a task of this shape should wait, None if none has room."""
        if self._read_queues is None:
            self._queues = self._all(self.queue_score)
            self._read_queues = len(self._fleet.touched)
        self._read_queues = self._catch_up(self._read_queues, self._queues, self.queue_score)
        return self._first(self._queues)

    def where_to_run(self, task: ReadyTask) -> int | None:
        """Return the number of the agent that should run a task now, None if none should."""
        best = self.best_to_run()
        if best is None:
            return None
        if task.near or task.avoid or task.avoid_hard:
            return self._preferred(task, best, self._runs, self.run_score, 1)
        return best[2]

    def where_to_queue(self, task: ReadyTask) -> int | None:
        """Return the number of the agent in whose queue a task should wait, None if in none.

        It does not wait behind less urgent tasks: those are recalled for it (`coordinator.placement.rebalancer`).
        """
        best = self.best_to_queue()
        if best is None:
            return None
        if is_more_urgent(task, self._fleet.tail[best[2]]):
            best = self._behind_none_less_urgent(task)
            return None if best is None else best[2]
        if task.near or task.avoid or task.avoid_hard:
            number = self._preferred(task, best, self._queues, self.queue_score, 2)
            return None if number is None or is_more_urgent(task, self._fleet.tail[number]) else number
        return best[2]

    def _behind_none_less_urgent(self, task: ReadyTask) -> Score | None:
        """Return the best queue, of the first `URGENT_LOOKS_MAX`, that a task may join, whatever it prefers."""
        fleet, hard = self._fleet, self.hard(task)
        aside: list[Score] = []
        while (found := self._first(self._queues)) is not None and len(aside) < URGENT_LOOKS_MAX:
            if not is_more_urgent(task, fleet.tail[found[2]]) and fleet.agents[found[2]].name not in hard:
                break
            aside.append(heappop(self._queues))
        else:
            found = None
        for entry in aside:
            heappush(self._queues, entry)
        return found

    def run_score(self, number: int) -> Score | None:
        """Return the score of running on an agent now, None if it cannot."""
        fleet = self._fleet
        kind = fleet.kind[number]
        if not self._suited[kind] or fleet.queued[number] or fleet.alone[number]:
            return None
        if (self.shape.exclusive and fleet.running[number]) or not fits_in(self.shape, fleet.free[number]):
            return None
        left_over = fleet.rule.fit * (fleet.left[number] - self.wants[kind])
        return self._scarce[kind] + fleet.weight[number], left_over, number, fleet.version[number]

    def queue_score(self, number: int) -> Score | None:
        """Return the score of waiting in an agent's queue, None if it has no room or could never run it."""
        fleet = self._fleet
        kind, queued, agent = fleet.kind[number], fleet.queued[number], fleet.agents[number]
        if not self._suited[kind] or queued >= agent.prefetch:
            return None
        return self._scarce[kind], wait_in_queue(agent, queued), number, fleet.version[number]

    def hard(self, task: ReadyTask) -> tuple[str, ...]:
        """Return the agents that a task must not go to: those it avoids, if any other that is up could ever run it.

        A suspect agent counts: it is heard again or lost within a lease. An unfit one counts: it says when it is fit.
        """
        names = task.avoid_hard
        if not names:
            return ()
        fleet = self._fleet
        for agent in fleet.agents:
            if agent.name not in names and self._suited[fleet.kind[fleet.number[agent.name]]]:
                return names
        for agent in fleet.others:
            if agent.name not in names and suits(self.shape, agent.capacity, agent.labels):
                return names
        return ()

    def _preferred(
        self, task: ReadyTask, best: Score, heap: list[Score], score_of: _ScoreOf, equal: int
    ) -> int | None:
        """Choose for a task that has preferences of its own.

        `equal` tells how many numbers of a score must be as good as the best one's for locality to decide.
        """
        fleet = self._fleet
        agents = fleet.agents
        avoided = (*task.avoid, *task.avoid_hard)
        if agents[best[2]].name in avoided:
            hard = self.hard(task)
            found = best if agents[best[2]].name not in hard else self._best_except(heap, hard)
            if found is None:
                return None
            other = self._best_except(heap, avoided)
            best = found if other is None or other[0] >> SCARCE_SHIFT > found[0] >> SCARCE_SHIFT else other
        if fleet.rule.locality:
            for name in task.near:
                number = fleet.number.get(name)
                if number is not None and name not in avoided:
                    score = score_of(number)
                    if score is not None and score[:equal] <= best[:equal]:
                        return number
        return best[2]

    def _best_except(self, heap: list[Score], names: tuple[str, ...]) -> Score | None:
        """Return the best entry whose agent is not one of the names."""
        agents = self._fleet.agents
        aside: list[Score] = []
        while (found := self._first(heap)) is not None and agents[found[2]].name in names:
            aside.append(heappop(heap))
        for entry in aside:
            heappush(heap, entry)
        return found

    def _all(self, score_of: _ScoreOf) -> list[Score]:
        """Enter all agents into a heap."""
        heap = [score for number in range(len(self._fleet.agents)) if (score := score_of(number)) is not None]
        heapify(heap)
        return heap

    def _first(self, heap: list[Score]) -> Score | None:
        """Return the best entry of a heap that is still valid."""
        version = self._fleet.version
        while heap:
            best = heap[0]
            if version[best[2]] == best[3]:
                return best
            heappop(heap)
        return None

    def _catch_up(self, read: int, heap: list[Score], score_of: _ScoreOf) -> int:
        """Enter what changed since `read` into a heap."""
        touched = self._fleet.touched
        if read < len(touched):
            for number in dict.fromkeys(touched[read:]):
                score = score_of(number)
                if score is not None:
                    heappush(heap, score)
        return len(touched)
