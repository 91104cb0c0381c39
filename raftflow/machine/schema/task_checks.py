"""What must hold of tasks, attempts and fences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.states import FINAL, LIVE_ATTEMPT, TaskState
from raftflow.machine.schema.agenda import needs_owed
from raftflow.machine.schema.agents import holders
from raftflow.machine.tables.agents import DRAIN_OVER
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_NONE, ORDER_RELEASE, ORDER_STOP, attempts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Attempt, Task
    from raftflow.machine.tables.workflows import Workflow


def task_problems(state: State, workflow: Workflow, task: Task, clock_ms: int) -> Iterator[str]:
    """Yield what is wrong with a task and its attempts."""
    open_needs = sum(workflow.tasks[need].state is not TaskState.SUCCEEDED for need in task.waited)
    open_needs += needs_owed(state, workflow, task)
    if task.open_needs != open_needs:
        yield f"{task.open_needs} open needs counted, there are {open_needs}"
    if not open_needs and any(workflow.tasks[need].state is not TaskState.SUCCEEDED for need in task.needs):
        yield "does not wait for one of its needs"
    if open_needs and task.state not in {TaskState.WAITING, TaskState.CANCELLED}:
        yield f"is {task.state.name} although {open_needs} of its needs have not succeeded"
    if not open_needs and task.state is TaskState.WAITING and not task.claim and not workflow.blocked:
        yield "waits although all its needs have succeeded"
    if task.state in {TaskState.WAITING, TaskState.READY, TaskState.DELAYED, TaskState.PARKED}:
        if (workflow.cancelled or workflow.stopping) and not workflow.blocked:
            yield f"is {task.state.name} although its workflow is being stopped"
        if not workflow.jobs and any(
            workflow.tasks[need].state in {TaskState.FAILED, TaskState.CANCELLED} for need in task.needs
        ):
            yield "waits for a task that will not succeed"
    if task.claim and (open_needs or task.state in FINAL or task.claim not in state.claims):
        yield f"is {task.state.name} and holds a claim"
    if task.cached and task.state is not TaskState.SUCCEEDED:
        yield f"is {task.state.name} by a cached result"
    if (task.state in FINAL) != bool(task.finished_ms):
        yield f"is {task.state.name}, finished at {task.finished_ms}"
    if len(task.history) >= limits.ATTEMPT_HISTORY_MAX:
        yield f"remembers {len(task.history)} attempts before the last"
    attempts = attempts_of(task)
    yield from _order_problems(state, task, attempts)
    yield from _backup_problems(workflow, task)
    for attempt in attempts:
        yield from _attempt_problems(state, workflow, task, attempt, clock_ms)


def _order_problems(state: State, task: Task, attempts: list[Attempt]) -> Iterator[str]:
    """Numbers and fences grow together; only the first attempt of a running task may be older than all remembered."""
    history = [attempt.number for attempt in task.history]
    if history != sorted(history):
        yield f"its history {history} is out of order"
    numbers = [attempt.number for attempt in attempts]
    gaps = numbers[1:] if attempts and attempts[0] is task.last else numbers
    if numbers[-1:] != [task.attempts][: len(numbers)] or gaps != list(
        range(task.attempts - len(gaps) + 1, task.attempts + 1)
    ):
        yield f"attempts are numbered {numbers}, the last should be {task.attempts}"
    fences = [attempt.fence for attempt in attempts]
    if fences != sorted(set(fences)) or (fences and fences[-1] > state.fence):
        yield f"fences {fences} do not grow up to {state.fence}"


def _backup_problems(workflow: Workflow, task: Task) -> Iterator[str]:
    last, backup, mishaps = task.last, task.backup, task.mishaps
    if mishaps is not None:
        of_a_pair = mishaps.failed or mishaps.grown is not None
        if (mishaps.paired and task.state is not TaskState.RUNNING) or (of_a_pair and not mishaps.paired):
            yield f"is {task.state.name}, and something is left of a pair of attempts: {mishaps}"
        if not (mishaps.paired or mishaps.agents_lost or mishaps.agent_faults):
            yield "a record of its mishaps is left that says nothing"
        if mishaps.grown is not None and not 0 <= mishaps.grown < len(workflow.profiles):
            yield f"its next attempt is to have the profile {mishaps.grown}, there are {len(workflow.profiles)}"
    if backup is None:
        return
    allowed = workflow.profiles[task.profile].backup
    if allowed and (mishaps is None or not mishaps.paired):
        yield "has a backup attempt and does not know it"
    if task.state is not TaskState.RUNNING or last is None:
        yield f"is {task.state.name} and has a backup attempt"
    elif backup.number != task.attempts or last.number >= backup.number or last.agent == backup.agent:
        yield f"its backup attempt {backup.number} on {backup.agent} does not follow {last.number} on {last.agent}"


def _attempt_problems(state: State, workflow: Workflow, task: Task, attempt: Attempt, clock_ms: int) -> Iterator[str]:
    live = attempt is task.backup or (attempt is task.last and task.state in LIVE_ATTEMPT)
    if live != (attempt.outcome is None) or live == bool(attempt.finished_ms):
        yield f"is {task.state.name}, attempt {attempt.number} has outcome {attempt.outcome}"
    if not attempt.assigned_ms <= max(attempt.started_ms, attempt.assigned_ms) <= clock_ms:
        yield f"attempt {attempt.number} starts after now or before it was assigned"
    if not live:
        if attempt.order != ORDER_NONE:
            yield f"attempt {attempt.number} is over and has an order"
        return
    agent = state.agents.get(attempt.agent)
    if agent is None or not (agent.present or agent.live) or agent.incarnation != attempt.incarnation:
        yield f"attempt {attempt.number} is live on {attempt.agent}, which is not present in that incarnation"
    elif agent.live.get(attempt.fence) != (workflow, task):
        yield f"attempt {attempt.number} is not in the table of {attempt.agent}"
    if (task.state is TaskState.RUNNING) != bool(attempt.started_ms):
        yield f"is {task.state.name}, attempt {attempt.number} started at {attempt.started_ms}"
    if (workflow.cancelled or workflow.stopping) and not workflow.blocked and attempt.order != ORDER_STOP:
        yield f"attempt {attempt.number} is live and was not told to stop, but its workflow is being stopped"
    if attempt.order == ORDER_RELEASE and task.state is not TaskState.QUEUED:
        yield f"attempt {attempt.number} runs and is asked back"
    if attempt.order == ORDER_MOVE and task.state is not TaskState.RUNNING:
        yield f"attempt {attempt.number} is to move and does not run"
    over = agent is not None and agent.drain_deadline_ms == DRAIN_OVER
    if over and task.state is TaskState.RUNNING and attempt.order not in {ORDER_MOVE, ORDER_STOP}:
        yield f"attempt {attempt.number} runs on {attempt.agent}, whose drain is over, and was not told to end"


def fence_problems(state: State) -> Iterator[str]:
    """Yield fences that two tasks have."""
    seen: dict[int, str] = {}
    for workflow in state.workflows.values():
        for task in workflow.tasks:
            for fence, _ in holders(task):
                other = seen.setdefault(fence, task.id)
                if other != task.id:
                    yield f"fence {fence} belongs to {other} and to {task.id}"
