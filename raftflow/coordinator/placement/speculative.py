"""Speculative placement: a task that a report will make ready is placed in the same log entry as the report.

A task whose last need ends on an agent can usually run on that agent: there is room, and its input is near. So can a
parked task whose last child ends there. To wait until the report is committed would cost a second commit, which is
most of a hop's time in a chain of short tasks. So the leader guesses and proposes the placement behind the report. A
wrong guess does no harm: `apply` sees the report first and checks every placement. A placement that does not hold is
skipped, and an ordinary decision places the task.

The leader guesses only tasks that run at once on the agent that reports, and only while no other ready task waits:
the scheduler decides which task comes first and which agent is best.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raftflow.domain.commands import Placement
from raftflow.domain.tasks.feasibility import fits_in, suits
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.states import AgentState
from raftflow.machine.read.running import is_last_need, successes_awaited

if TYPE_CHECKING:
    from raftflow.domain.contract.views import ReportedEnd
    from raftflow.machine.machine import Machine
    from raftflow.machine.rows import AgentRow, TaskRow, WorkflowRow

AHEAD_MAX = 64
"""Speculative placements for one report."""
DEPENDENTS_MAX = 1_000
"""A task that more others wait for makes them ready bit by bit, and not in the entry of its report."""


def placements_after(machine: Machine, name: str, ends: Iterable[ReportedEnd]) -> tuple[Placement, ...]:
    """Return placements of tasks that the ends make ready and the agent can run at once. Changes nothing."""
    agent = machine.tables.agents.get(name)
    if agent is None or agent.state is not AgentState.UP or agent.queue:
        return ()
    free = dict(agent.free)
    ready: list[tuple[WorkflowRow, TaskRow]] = []
    met: dict[tuple[int, int], int] = {}
    for end in ends:
        found = agent.live.get(end.fence)
        if found is None:
            continue
        workflow, task = found
        for resource, amount in workflow.profiles[task.profile].shape.demand:
            free[resource] += amount
        if end.outcome == "succeeded" and _continues_workflow(workflow, task, end.fence):
            _meet(workflow, task, met, ready)
    if not ready:
        return ()
    ready.sort(key=lambda pair: (-pair[0].priority, -pair[1].rank, pair[0].number, pair[1].position))
    return tuple(_fitting(agent, free, ready))


def _continues_workflow(workflow: WorkflowRow, task: TaskRow, fence: int) -> bool:
    """Return True if the success of this attempt makes dependents ready in the same entry."""
    attempt = task.last
    return (
        attempt is not None
        and len(workflow.dependents[task.position]) <= DEPENDENTS_MAX
        and attempt.fence == fence
        and not attempt.ordered
        and not (workflow.held or workflow.stopping or workflow.cancelled)
    )


def _meet(
    workflow: WorkflowRow, task: TaskRow, met: dict[tuple[int, int], int], ready: list[tuple[WorkflowRow, TaskRow]]
) -> None:
    """Count a success for the tasks that wait for it, and add those that go on then to `ready`."""
    for position in workflow.dependents[task.position]:
        dependent = workflow.tasks[position]
        key = (workflow.number, position)
        met[key] = met.get(key, 0) + 1
        if is_last_need(dependent, met[key]):
            ready.append((workflow, dependent))
    if task.origin is not None:
        parent = workflow.tasks[task.origin.parent]
        key = (workflow.number, parent.position)
        awaited = successes_awaited(parent, task)
        if awaited:
            met[key] = met.get(key, 0) + 1
            if met[key] == awaited:
                ready.append((workflow, parent))


def _fitting(agent: AgentRow, free: dict[str, int], ready: list[tuple[WorkflowRow, TaskRow]]) -> Iterable[Placement]:
    """Yield placements while their demands fit into what will be free."""
    count = 0
    for workflow, task in ready:
        profile = workflow.profiles[task.profile]
        shape = profile.shape
        if profile.rates or type(profile.program) is TaskWait:
            continue  # attempts that wait for a rate limit come before it; a wait needs no agent
        if shape.exclusive or not fits_in(shape, free) or not suits(shape, agent.capacity, agent.labels):
            continue
        for resource, amount in shape.demand:
            free[resource] -= amount
        yield Placement(workflow.id, task.position, agent.name, agent.incarnation)
        count += 1
        if count == AHEAD_MAX:
            return
