"""Why a task is where it is, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.contract.views import TaskExplanation, WaitingKind
from raftflow.domain.tasks.feasibility import Shape, suits
from raftflow.domain.tasks.resources import show_amount
from raftflow.domain.tasks.states import FINAL, PUBLIC_NAME, AgentState, AttemptOutcome, TaskState
from raftflow.domain.values.times import iso_utc
from raftflow.machine.commands.workflows import never_fits
from raftflow.machine.read.effects import effect_text
from raftflow.machine.read.preferences import avoided, budget
from raftflow.machine.read.spending.budgets import pause_reason
from raftflow.machine.read.spending.rates import rates_reason
from raftflow.machine.read.steps import count_of
from raftflow.machine.rules import cache, ledger
from raftflow.machine.rules.backups import wants_backup
from raftflow.machine.rules.lateness import expectation, seconds, why_backup
from raftflow.machine.rules.stopping import at_limit
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_NONE, ORDER_RELEASE, ORDER_STOP
from raftflow.machine.tables.waits.waits import KEPT_KINDS

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Attempt, Parking, Task
    from raftflow.machine.tables.waits.waits import WaitRow
    from raftflow.machine.tables.workflows import Workflow

WAITS_FOR_MAX = 100
NAMES_MAX = 5
ERROR_CHARS_MAX = 300
UNFIT_CHARS_MAX = 200


class LeaderKnowledge(msgspec.Struct, frozen=True):
    """What only the leader knows about what tasks wait for."""

    reserved: Mapping[str, Shape] = MappingProxyType({})
    """Agents that are kept for a shape."""
    suspect: frozenset[str] = frozenset()
    """Agents that were not heard for a while, or are unfit."""
    unfit: Mapping[str, str] = MappingProxyType({})
    """Agents that say that they can run nothing, and why."""
    now_ms: int = 0
    """The cluster's time."""
    fetching: Callable[[str, int], bool] = lambda _agent, _fence: False
    """Whether an agent says that an attempt has not started, because it still fetches its files."""
    missing_code: Callable[[str], bool] = lambda _digest: False
    """Whether the code bundle is missing on this replica's disk."""
    rates_ahead: Mapping[str, int] = MappingProxyType({})
    """Units of rate limits for which running attempts wait."""


NO_MEMORY = LeaderKnowledge()
_Told = tuple[str, WaitingKind]


def explain(
    machine: Machine, workflow_id: str, task_id: str, memory: LeaderKnowledge = NO_MEMORY
) -> TaskExplanation | None:
    """Explain a task, None if it or its workflow is not known."""
    workflow = machine.state.workflows.get(workflow_id)
    task = None if workflow is None else workflow.by_id.get(task_id)
    if workflow is None or task is None:
        return None
    waits_for: list[str] = []
    if task.state is TaskState.WAITING:
        waits_for = [
            workflow.tasks[need].id for need in task.needs if workflow.tasks[need].state is not TaskState.SUCCEEDED
        ]
        reason, waiting = _waiting(task, len(waits_for))
        waits_for = waits_for[:WAITS_FOR_MAX]
        equal = cache.waits_for(machine.state, workflow, task)
        if equal is not None:
            waits_for = [f"{equal[0].id}/{equal[1].id}"]
    elif task.state is TaskState.READY:
        reason, waiting = _ready(machine, workflow, task, memory)
        reason += _given_back(workflow, task.last, memory)
    elif task.state is TaskState.PARKED and task.parking is not None:
        reason, waiting = _parked(workflow, task.parking)
        waits_for = [workflow.tasks[position].id for position in islice(open_children(workflow, task), WAITS_FOR_MAX)]
    elif task.last is not None and not task.cached and task.state in _WITH_ATTEMPT:
        reason, waiting = _WITH_ATTEMPT[task.state](machine, task, task.last), _WAITING_KIND.get(task.state, "")
        if task.state is TaskState.RUNNING:
            reason += _fetching(workflow, task.last, memory)
            reason += _backup(machine, workflow, task, task.last, max(machine.clock_ms, memory.now_ms))
    else:
        reason, waiting = task.detail or task.state.name.lower(), ""
    if (steps := count_of(workflow, task)) and task.state not in FINAL:
        reason += f"; {steps} of its steps {'are' if steps > 1 else 'is'} recorded"
    if task.state in _PAUSABLE and (used_up := pause_reason(workflow)) is not None:
        reason, waiting = f"{used_up}; {reason}", "budget"
    elif workflow.paused and task.state in _PAUSABLE:
        reason, waiting = f"the workflow is paused; {reason}", "paused"
    placed = task.last if task.state in _PLACED and not task.cached else None
    return TaskExplanation(
        id=task.id,
        state=PUBLIC_NAME[task.state],
        reason=reason,
        waits_for=waits_for,
        waiting=waiting,
        agent=None if placed is None else placed.agent,
        index=None if placed is None else placed.index or None,
    )


_GIVEN_BACK = frozenset({AttemptOutcome.ABANDONED, AttemptOutcome.AGENT_FAULT})
_PLACED = frozenset({TaskState.QUEUED, TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.FAILED})
_WAITING_KIND: dict[TaskState, WaitingKind] = {TaskState.DELAYED: "back-off", TaskState.QUEUED: "queued"}
_PAUSABLE = frozenset({TaskState.WAITING, TaskState.DELAYED, TaskState.READY, TaskState.QUEUED, TaskState.PARKED})


def _parked(workflow: Workflow, parking: Parking) -> _Told:
    told = []
    kind: WaitingKind = "children"
    if parking.awaits and parking.mode == "any":
        told.append(f"waits for the first of {parking.awaited} children")
    elif parking.awaits:
        told.append(f"waits for {parking.awaited_open} of {parking.awaited} children")
    for number in parking.waits[:NAMES_MAX]:
        assert workflow.waits is not None  # noqa: S101 - the task has this one
        row = workflow.waits.rows[number]
        told.append(effect_text(workflow, row) if row.kind == "effect" else _wait_text(row))
        kind = row.kind
    if len(parking.waits) > NAMES_MAX:
        told.append(f"{len(parking.waits) - NAMES_MAX} more")
    return f"parked: {' or '.join(told)}", kind


def _wait_text(row: WaitRow) -> str:
    """Say what a wait is for, since when, and until when."""
    name = f" {row.name!r}" if row.kind in {"signal", "approval"} else ""
    number = f" (id {row.number})" if row.kind in KEPT_KINDS else ""
    until = f", at most until {iso_utc(row.deadline_ms)}" if row.deadline_ms else ""
    return f"waits for {row.kind}{name}{number} since {iso_utc(row.begun_ms)}{until}"


def open_children(workflow: Workflow, task: Task) -> Iterator[int]:
    """Yield the positions of the children that a parked task waits for and that have not ended."""
    parking = task.parking
    for first, last in () if parking is None else parking.awaits:
        for child in workflow.tasks[first : last + 1]:
            if child.origin is not None and child.origin.parent == task.position and child.state not in FINAL:
                yield child.position


def _delayed(machine: Machine, task: Task, attempt: Attempt) -> str:  # noqa: ARG001 - one signature for the table
    outcome = "" if attempt.outcome is None else attempt.outcome.value
    error = f" ({attempt.error[:200]})" if attempt.error else ""
    return f"attempt {attempt.number} ended as {outcome}{error}; the next may start at {iso_utc(task.due_ms)}"


def _queued(machine: Machine, task: Task, attempt: Attempt) -> str:  # noqa: ARG001
    ahead = machine.state.agents[attempt.agent].queue.index(attempt.fence)
    text = f"assigned to {attempt.agent} ahead of time, {ahead} before it in the queue there; it starts when it fits"
    if attempt.order == ORDER_STOP:
        return f"{text}; the agent was told to stop it and has not confirmed that yet"
    if attempt.order == ORDER_RELEASE:
        return f"{text}; the agent was asked to give it back"
    return text


def _running(machine: Machine, task: Task, attempt: Attempt) -> str:  # noqa: ARG001
    text = f"attempt {attempt.number} runs on {attempt.agent} since {iso_utc(attempt.started_ms)}"
    if attempt.order == ORDER_MOVE:
        text = f"{text}; the drain of that agent is over: it was told to stop it, and the task runs elsewhere"
    elif attempt.order == ORDER_STOP:
        text = f"{text}; the agent was told to stop it"
    return text


def _fetching(workflow: Workflow, attempt: Attempt, memory: LeaderKnowledge) -> str:
    """Say that a running attempt has not started yet, and why."""
    if not memory.fetching(attempt.agent, attempt.fence):
        return ""
    if not workflow.code:
        return "; it has not started: its agent fetches its inputs"
    return f"; it has not started: its agent fetches its code bundle {workflow.code}{_no_code(workflow, memory)}"


def _given_back(workflow: Workflow, attempt: Attempt | None, memory: LeaderKnowledge) -> str:
    """Say why the last attempt of a ready task was given back, if its agent could not run it."""
    if attempt is None or not attempt.error or attempt.outcome not in _GIVEN_BACK:
        return ""
    error = attempt.error[:ERROR_CHARS_MAX]
    return f"; attempt {attempt.number} was given back by {attempt.agent}: {error}{_no_code(workflow, memory)}"


def _no_code(workflow: Workflow, memory: LeaderKnowledge) -> str:
    """Say what to do about a code bundle that is missing."""
    if not workflow.code or not memory.missing_code(workflow.code):
        return ""
    return ", which is missing on this replica: `raftflow bundle send FOLDER` with the same code brings it back"


def _backup(machine: Machine, workflow: Workflow, task: Task, attempt: Attempt, now_ms: int) -> str:
    """Say why a running task has a backup attempt; or, if it is late, why it has none."""
    backup = task.backup
    if backup is not None:
        since_ms = backup.started_ms
        why = why_backup(machine.state, workflow, task, attempt, since_ms)
        return f"; backup attempt {backup.number} runs on {backup.agent} since {iso_utc(since_ms)}, because {why}"
    found = expectation(machine.state, workflow, task)
    ran_ms = now_ms - attempt.started_ms
    if found is None or ran_ms < found.late_ms or attempt.order != ORDER_NONE:
        return ""
    text = f"; it has run for {seconds(ran_ms)} and is late, {found.words}"
    if not workflow.profiles[task.profile].backup:
        return (
            f"{text}; it gets no backup attempt, since its document does not allow one: "
            "`backup = true` on a task that may run twice at the same time does"
        )
    if not wants_backup(task):
        return f"{text}; it had a backup attempt, and gets no other"
    if at_limit(workflow):
        return f"{text}; a backup attempt would pass the max_parallel of its workflow, {workflow.max_parallel}"
    return f"{text}; a backup attempt starts when another agent has room for it and nothing else to do"


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


def _waiting(task: Task, count: int) -> _Told:
    if not task.open_needs:
        return "an equal task is under way: this one takes its result when it succeeds", "equal-task"
    return f"waits for {count} of the {len(task.needs)} tasks that it needs", "needs"


def _ready(machine: Machine, workflow: Workflow, task: Task, memory: LeaderKnowledge) -> _Told:
    """Say what a ready task lacks: first what no decision can change."""
    state = machine.state
    shape = workflow.profiles[task.profile].shape
    able = [agent for agent in state.agents.values() if agent.present and suits(shape, agent.capacity, agent.labels)]
    taking = [agent for agent in able if agent.state is AgentState.UP and agent.name not in memory.suspect]
    if not taking:
        if able:
            names = ", ".join(f"{agent.name} ({_away(agent, memory)})" for agent in able[:NAMES_MAX])
            more = f" and {len(able) - NAMES_MAX} more" if len(able) > NAMES_MAX else ""
            return f"{_count(able)} could run it and take no new work now: {names}{more}", "agents-away"
        never = never_fits(state.kinds, shape)
        return f"{never}; it holds nothing and waits until one comes", "never-fits" if state.kinds else "no-agent"
    if budget(machine, workflow.id) == 0:
        most = workflow.max_parallel
        return f"its workflow may have {most} of its tasks under way at a time, and has", "max-parallel"
    rates = workflow.profiles[task.profile].rates
    if rates and (why := rates_reason(machine, rates, max(machine.clock_ms, memory.now_ms), memory.rates_ahead)):
        return why, "rate"
    up = {agent.name: None for agent in able if agent.state is AgentState.UP}
    return _in_turn(machine, task, shape, taking, up, memory)


def _in_turn(  # noqa: PLR0917 - of one caller
    machine: Machine, task: Task, shape: Shape, able: list[Agent], up: dict[str, None], memory: LeaderKnowledge
) -> _Told:
    """Say what a ready task lacks that some agent, which takes work, could run; `up` are those that may take it."""
    lost = avoided(machine, task)[1]
    if all(name in lost for name in up):
        lost = ()
    free = [agent for agent in able if _fits_now(shape, agent)]
    kept = [agent for agent in free if memory.reserved.get(agent.name, shape) != shape]
    shunned = [agent for agent in free if agent.name in lost]
    if any(agent not in kept and agent not in shunned for agent in free):
        return (
            "an agent has room for it: it is placed with the next decision, in order of priority, turn and rank",
            "next",
        )
    if kept:
        return f"{_count(kept)} with room, {kept[0].name} first, is kept for a task that waited too long", "reserved"
    if shunned:
        why = f"an attempt of it failed on {shunned[0].name}, was lost with it or could not run there"
        return f"{why}: it waits for another agent", "avoids"
    own = next((name for name, kept_for in memory.reserved.items() if kept_for == shape), None)
    if own is not None:
        return f"it was overtaken for long: {own} is kept for it and takes nothing else until it fits", "reserved"
    if shape.exclusive:
        return (
            f"it must run alone on an agent: {_count(able)} could run it, and on each of them something runs",
            "exclusive",
        )
    lacks = _scarcest(shape, [agent.free for agent in able])
    return f"{_count(able)} could run it, and none has room now{lacks}", "no-room"


def _fits_now(shape: Shape, agent: Agent) -> bool:
    return not agent.queue and ledger.fits(agent, shape)


def _away(agent: Agent, memory: LeaderKnowledge) -> str:
    if agent.name in memory.unfit:
        return f"unfit: {memory.unfit[agent.name][:UNFIT_CHARS_MAX]}"
    return "suspect" if agent.name in memory.suspect else agent.state.value


def _count(agents: list[Agent]) -> str:
    return "1 agent" if len(agents) == 1 else f"{len(agents)} agents"


def _scarcest(shape: Shape, free: list[dict[str, int]]) -> str:
    """Say which demanded resource no agent has enough of, if one alone is to blame."""
    for name, amount in shape.demand:
        best = max(each[name] for each in free)
        if best < amount:
            return f": it wants {show_amount(name, amount)} {name}, at most {show_amount(name, best)} is free on one"
    return ""
