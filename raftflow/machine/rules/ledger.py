"""The resource ledger: what is allocated on each agent, and who is next when something is freed.

For every agent and resource, allocated = the sum of the demands of its running attempts <= capacity. Queued attempts
hold nothing. An exclusive attempt starts where nothing runs, holds the whole capacity, and nothing starts beside
it. The queue is in the order of the fences; only its head can be promoted, as the agent starts its queue in
the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.feasibility import fits_in, fits_now
from raftflow.domain.tasks.states import TaskEvent
from raftflow.machine.rules.context import move
from raftflow.machine.tables.agents import DRAIN_OVER
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_NONE, ORDER_STOP

if TYPE_CHECKING:
    from raftflow.domain.tasks.feasibility import Shape
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Attempt, Profile, Task
    from raftflow.machine.tables.workflows import Workflow

DEADLINE_MARGIN_MS = 60_000
"""The agent enforces a task's timeout; the machine steps in when this long after it nothing was heard."""

_PROMOTED = TaskEvent.PROMOTED


def fits(agent: Agent, shape: Shape) -> bool:
    """Tell whether a task of this shape can start on an agent now, its queue aside."""
    if not (shape.exclusive or agent.alone):  # nearly all of them, and this is the hot path
        return fits_in(shape, agent.free)
    return fits_now(shape, agent.free, running=len(agent.live) - len(agent.queue), alone=agent.alone)


def held_by(agent: Agent, shape: Shape) -> dict[str, int]:
    """Return what a running attempt of this shape holds: its demand, or the whole agent if it is exclusive."""
    return agent.capacity if shape.exclusive else dict(shape.demand)


def allocate(agent: Agent, shape: Shape) -> None:
    """Take what a shape that fits holds."""
    if shape.exclusive:
        agent.free = dict.fromkeys(agent.capacity, 0)
        agent.alone = True
        return
    free = agent.free
    for name, amount in shape.demand:
        free[name] -= amount


def release(agent: Agent, shape: Shape) -> None:
    """Give back what was taken."""
    if shape.exclusive:
        agent.free = dict(agent.capacity)
        agent.alone = False
        return
    free = agent.free
    for name, amount in shape.demand:
        free[name] += amount


def start(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, profile: Profile) -> None:
    """Note that an attempt holds its demand from now on, and set its deadline."""
    attempt.started_ms = step.clock_ms
    if profile.timeout_ms is not None:
        attempt.deadline_ms = step.clock_ms + profile.timeout_ms + profile.grace_ms + DEADLINE_MARGIN_MS
        step.set_timer(workflow, task, attempt.deadline_ms, attempt.fence)


def promote(step: ApplyContext, agent: Agent) -> None:
    """Start attempts from the head of the agent's queue while they fit.

    Heads that the agent was asked to give back are promoted too: it may have started them before it was asked. An
    attempt that starts is no longer asked back; one that is to stop still is. What starts on an agent whose drain is
    over is moved like the rest.
    """
    queue = agent.queue
    while queue:
        workflow, task = agent.live[queue[0]]
        profile = workflow.profiles[task.profile]
        if not fits(agent, profile.shape):
            return
        queue.popleft()
        attempt = task.last
        assert attempt is not None  # noqa: S101 - a queued task has one, and no backup
        move(step, workflow, task, _PROMOTED, attempt)
        allocate(agent, profile.shape)
        if attempt.order != ORDER_STOP:
            attempt.order = ORDER_MOVE if agent.drain_deadline_ms == DRAIN_OVER else ORDER_NONE
        start(step, workflow, task, attempt, profile)
        step.agents_changed[agent.name] = None
