"""Precedence: queued attempts that are recalled because a more urgent task waits for their place.

Agents start their queue in order. A task that becomes ready later would wait behind everything that was prefetched
before it, even if it is urgent. So the scheduler does not put it into such a queue. Instead the less urgent attempts
of one suitable agent are recalled (`RecallAttempts`). The agent gives back what it has not started, and the task that
is first in order gets the agent's next free place. It waits for one running attempt at most. Running attempts are
never stopped for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.feasibility import fits_now, suits
from raftflow.machine.read import queries
from raftflow.machine.read.running import live_attempt
from raftflow.scheduler.order import is_more_urgent
from raftflow.scheduler.reservations import fits_at_ms

if TYPE_CHECKING:
    from raftflow.coordinator.placement.planner import QueuePlanner
    from raftflow.domain.tasks.feasibility import AgentRoom, ReadyTask
    from raftflow.machine.machine import Machine

URGENT_MAX = 32
"""Ready tasks, the first in order, for which attempts are recalled at one time."""
AGENTS_MAX = 64
"""Agents that are compared for one task."""


def attempts_in_the_way(machine: Machine, planner: QueuePlanner) -> dict[str, list[int]]:
    """Return fences of queued attempts to recall, by agent, so that the most urgent ready tasks run next."""
    tasks = planner.first_ready(URGENT_MAX)
    if not tasks:
        return {}
    reserved = planner.reserved()
    rooms = [room for room in planner.rooms().values() if not room.suspect]
    found: dict[str, list[int]] = {}
    places: dict[str, int] = {}
    """Agents whose queues are recalled, and how many attempts run there and will free their places."""
    for task in tasks:
        able = [
            room
            for room in rooms
            if suits(task.shape, room.capacity, room.labels)
            and reserved.get(room.name, task.shape) == task.shape
            and room.name not in task.avoid_hard
        ]
        if any(_may_be_placed(task, room) for room in able):
            continue
        chosen = next((room.name for room in able if places.get(room.name, 0) > 0), None)
        if chosen is None:
            behind = [room for room in able if room.name not in places and is_more_urgent(task, room.tail)]
            if not behind:
                continue
            room = min(
                behind[:AGENTS_MAX],
                key=lambda room: (fits_at_ms(task.shape, room, queries.holdings(machine, room.name)), room.name),
            )
            chosen = room.name
            places[chosen] = max(1, room.running)
            found[chosen] = _less_urgent(machine, chosen, task)
        places[chosen] -= 1
    return {name: fences for name, fences in found.items() if fences}


def _may_be_placed(task: ReadyTask, room: AgentRoom) -> bool:
    """Return True if the scheduler can give a task to an agent as it is, so that nothing must be recalled."""
    if room.queued:
        return room.queued < room.prefetch and not is_more_urgent(task, room.tail)
    return room.prefetch > 0 or fits_now(task.shape, room.free, running=room.running, alone=room.alone)


def _less_urgent(machine: Machine, name: str, task: ReadyTask) -> list[int]:
    """Return the fences of an agent's queue that are less urgent than a task and are not recalled yet."""
    agent = machine.tables.agents[name]
    fences = []
    for fence in agent.queue:
        workflow, queued = agent.live[fence]
        if not live_attempt(queued, fence).ordered and is_more_urgent(task, queries.urgency_of(workflow)):
            fences.append(fence)
    return fences
