"""Why a task is where it is, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.contract import TaskExplanation
from raftflow.domain.resources import show_amount
from raftflow.domain.rooms import fits_in, suits
from raftflow.domain.task import PUBLIC_NAME, AgentState, TaskState
from raftflow.domain.times import iso_utc
from raftflow.machine.state import ORDER_MOVE, ORDER_RELEASE, ORDER_STOP
from raftflow.machine.workflows import never_fits

if TYPE_CHECKING:
    from raftflow.domain.rooms import Shape
    from raftflow.machine.machine import Machine
    from raftflow.machine.state import Attempt, Task, Workflow

WAITS_FOR_MAX = 100


def explain(machine: Machine, workflow_id: str, task_id: str) -> TaskExplanation | None:
    """Explain a task, None if it or its workflow is not known."""
    workflow = machine.state.workflows.get(workflow_id)
    task = None if workflow is None else workflow.by_id.get(task_id)
    if workflow is None or task is None:
        return None
    waits_for: list[str] = []
    if task.state is TaskState.WAITING:
        waits_for = [
            workflow.tasks[need].id for need in task.needs if workflow.tasks[need].state is not TaskState.SUCCEEDED
        ][:WAITS_FOR_MAX]
        reason = f"waits for {task.open_needs} of the {len(task.needs)} tasks that it needs"
    elif task.state is TaskState.READY:
        reason = _ready(machine, workflow, task)
    elif task.last is not None and task.state in _WITH_ATTEMPT:
        reason = _WITH_ATTEMPT[task.state](machine, task, task.last)
    else:
        reason = task.detail or task.state.name.lower()
    if workflow.paused and task.state in _PAUSABLE:
        reason = f"the workflow is paused; {reason}"
    return TaskExplanation(id=task.id, state=PUBLIC_NAME[task.state], reason=reason, waits_for=waits_for)


_PAUSABLE = frozenset({TaskState.WAITING, TaskState.DELAYED, TaskState.READY, TaskState.QUEUED})


def _delayed(machine: Machine, task: Task, attempt: Attempt) -> str:  # noqa: ARG001 - one signature for the table
    outcome = "" if attempt.outcome is None else attempt.outcome.value
    error = f" ({attempt.error[:200]})" if attempt.error else ""
    return f"attempt {attempt.number} ended as {outcome}{error}; the next may start at {iso_utc(task.due_ms)}"


def _queued(machine: Machine, task: Task, attempt: Attempt) -> str:  # noqa: ARG001
    ahead = machine.state.agents[attempt.agent].queue.index(attempt.fence)
    text = f"assigned to {attempt.agent} ahead of time, {ahead} before it in the queue there; it starts when it fits"
    if attempt.order == ORDER_STOP:
        return f"{text}; it is to be cancelled, the agent has yet to let go of it"
    if attempt.order == ORDER_RELEASE:
        return f"{text}; the agent was asked to give it back"
    return text


def _running(machine: Machine, task: Task, attempt: Attempt) -> str:  # noqa: ARG001
    text = f"attempt {attempt.number} runs on {attempt.agent} since {iso_utc(attempt.started_ms)}"
    if attempt.order == ORDER_MOVE:
        text = f"{text}; the drain of that agent is over: it was told to stop it, and the task runs elsewhere"
    elif attempt.order == ORDER_STOP:
        text = f"{text}; the agent was told to stop it"
    backup = task.backup
    if backup is not None:
        text = f"{text}; backup attempt {backup.number} runs on {backup.agent} since {iso_utc(backup.started_ms)}"
    return text


def _succeeded(machine: Machine, task: Task, attempt: Attempt) -> str:  # noqa: ARG001
    return f"attempt {attempt.number} on {attempt.agent} succeeded at {iso_utc(task.finished_ms)}"


def _failed(machine: Machine, task: Task, attempt: Attempt) -> str:  # noqa: ARG001
    return f"attempt {attempt.number} on {attempt.agent} failed and none is left: {task.detail}"


_WITH_ATTEMPT = {
    TaskState.DELAYED: _delayed,
    TaskState.QUEUED: _queued,
    TaskState.RUNNING: _running,
    TaskState.SUCCEEDED: _succeeded,
    TaskState.FAILED: _failed,
}


def _ready(machine: Machine, workflow: Workflow, task: Task) -> str:
    """Say what a ready task lacks."""
    state = machine.state
    shape = workflow.profiles[task.profile].shape
    never = never_fits(state.kinds, shape)
    if never is not None:
        return f"{never}; it holds nothing and waits until one comes"
    able = [
        agent
        for agent in state.agents.values()
        if agent.state is AgentState.UP and suits(shape, agent.capacity, agent.labels)
    ]
    if any(not agent.queue and fits_in(shape, agent.free) for agent in able):
        return "an agent has room for it: it is placed with the next decision, in order of priority and rank"
    lacks = _scarcest(shape, [agent.free for agent in able])
    count = "1 agent" if len(able) == 1 else f"{len(able)} agents"
    return f"{count} could run it, and none has room now{lacks}"


def _scarcest(shape: Shape, free: list[dict[str, int]]) -> str:
    """Say which demanded resource no agent has enough of, if one alone is to blame."""
    for name, amount in shape.demand:
        best = max(each[name] for each in free)
        if best < amount:
            return f": it wants {show_amount(name, amount)} {name}, at most {show_amount(name, best)} is free on one"
    return ""
