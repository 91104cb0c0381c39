"""What must hold after every command, checked from scratch: each table against the facts that it follows from.

For `ledger verify` and for tests. It reads everything, so it costs time in proportion to the state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.states import FINAL, LIVE_ATTEMPT, AgentState, TaskState
from raftflow.machine.tables.agents import DRAIN_OVER, REVOKED_FENCES_MAX
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_NONE, ORDER_RELEASE, ORDER_STOP, attempts_of
from raftflow.machine.tables.timers import BACKOFF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.agents import Agent, AgentClass
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Attempt, Task
    from raftflow.machine.tables.uploads import Upload
    from raftflow.machine.tables.workflows import Workflow

PROBLEMS_MAX = 100
"""Told at most; more of the same helps nobody."""


def check(machine: Machine) -> list[str]:
    """Return what is wrong, at most `PROBLEMS_MAX` faults; an empty list is what there should be."""
    problems = []
    for problem in _problems(machine.state, machine.clock_ms):
        problems.append(problem)
        if len(problems) == PROBLEMS_MAX:
            break
    return problems


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    for workflow in state.workflows.values():
        yield from _workflow_problems(workflow)
        for task in workflow.tasks:
            for problem in _task_problems(state, workflow, task, clock_ms):
                yield f"task {workflow.id}/{task.id}: {problem}"
    for name, agent in state.agents.items():
        for problem in _agent_problems(state, name, agent):
            yield f"agent {name}: {problem}"
    for name, upload in state.uploads.items():
        for problem in _upload_problems(name, upload):
            yield f"upload {name}: {problem}"
    yield from _table_problems(state, clock_ms)
    yield from _fence_problems(state)
    yield from _timer_problems(state)


# --- workflows


def _workflow_problems(workflow: Workflow) -> Iterator[str]:
    prefix = f"workflow {workflow.id}: "
    counts = [0] * len(TaskState)
    for task in workflow.tasks:
        counts[task.state] += 1
    if counts != workflow.counts:
        yield f"{prefix}counts {workflow.counts}, its tasks give {counts}"
    backups = sum(task.backup is not None for task in workflow.tasks)
    if workflow.backups != backups:
        yield f"{prefix}{workflow.backups} backup attempts counted, there are {backups}"
    under_way = counts[TaskState.QUEUED] + counts[TaskState.RUNNING] + backups
    if workflow.max_parallel is not None and under_way > workflow.max_parallel:
        yield f"{prefix}{under_way} tasks are queued or running, its limit is {workflow.max_parallel}"
    unfinished = sum(task.state not in FINAL for task in workflow.tasks)
    cached = sum(task.cached for task in workflow.tasks)
    if workflow.cached != cached:
        yield f"{prefix}{workflow.cached} tasks with cached results counted, there are {cached}"
    if workflow.open != unfinished:
        yield f"{prefix}{workflow.open} open tasks counted, there are {unfinished}"
    finished = unfinished == 0
    if finished != bool(workflow.finished_ms) or finished != bool(workflow.finished_number):
        yield f"{prefix}{unfinished} tasks have not ended, finished at {workflow.finished_ms}"
    if workflow.paused and (workflow.finished_ms or workflow.cancelled):
        yield f"{prefix}paused although it has ended or is cancelled"
    if tuple([workflow.by_id.get(task.id) for task in workflow.tasks]) != workflow.tasks:
        yield f"{prefix}the table of ids does not match its tasks"
    below: list[list[int]] = [[] for _ in workflow.tasks]
    for task in workflow.tasks:
        for need in task.waited:
            below[need].append(task.position)
    if [tuple(positions) for positions in below] != [tuple(positions) for positions in workflow.dependents]:
        yield f"{prefix}the table of dependents does not match its tasks"


# --- tasks


def _task_problems(state: State, workflow: Workflow, task: Task, clock_ms: int) -> Iterator[str]:
    open_needs = sum(workflow.tasks[need].state is not TaskState.SUCCEEDED for need in task.waited)
    if task.open_needs != open_needs:
        yield f"{task.open_needs} open needs counted, there are {open_needs}"
    if not open_needs and any(workflow.tasks[need].state is not TaskState.SUCCEEDED for need in task.needs):
        yield "does not wait for one of its needs"
    if open_needs and task.state not in {TaskState.WAITING, TaskState.CANCELLED}:
        yield f"is {task.state.name} although {open_needs} of its needs have not succeeded"
    if not open_needs and task.state is TaskState.WAITING and not task.claim:
        yield "waits although all its needs have succeeded"
    if task.state in {TaskState.WAITING, TaskState.READY, TaskState.DELAYED}:
        if workflow.cancelled or workflow.stopping:
            yield f"is {task.state.name} although its workflow is being stopped"
        if any(workflow.tasks[need].state in {TaskState.FAILED, TaskState.CANCELLED} for need in task.needs):
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
    if agent is None or not agent.present or agent.incarnation != attempt.incarnation:
        yield f"attempt {attempt.number} is live on {attempt.agent}, which is not present in that incarnation"
    elif agent.live.get(attempt.fence) != (workflow, task):
        yield f"attempt {attempt.number} is not in the table of {attempt.agent}"
    if (task.state is TaskState.RUNNING) != bool(attempt.started_ms):
        yield f"is {task.state.name}, attempt {attempt.number} started at {attempt.started_ms}"
    if (workflow.cancelled or workflow.stopping) and attempt.order != ORDER_STOP:
        yield f"attempt {attempt.number} is live and was not told to stop, but its workflow is being stopped"
    if attempt.order == ORDER_RELEASE and task.state is not TaskState.QUEUED:
        yield f"attempt {attempt.number} runs and is asked back"
    if attempt.order == ORDER_MOVE and task.state is not TaskState.RUNNING:
        yield f"attempt {attempt.number} is to move and does not run"
    over = agent is not None and agent.drain_deadline_ms == DRAIN_OVER
    if over and task.state is TaskState.RUNNING and attempt.order not in {ORDER_MOVE, ORDER_STOP}:
        yield f"attempt {attempt.number} runs on {attempt.agent}, whose drain is over, and was not told to end"


# --- uploads


def _upload_problems(name: str, upload: Upload) -> Iterator[str]:
    """An upload is what its pieces give."""
    workflow = upload.workflow
    if workflow.id != name or workflow.number or workflow.tasks or workflow.placed:
        yield "is in the table under another name, or is a workflow already"
    tasks = [task for task in upload.tasks if task is not None]
    if len(tasks) != upload.arrived or {task.id: task for task in tasks} != workflow.by_id:
        yield f"{upload.arrived} tasks have come, there are {len(tasks)}"
    if sum(len(task.needs) for task in tasks) != upload.needs_arrived or upload.needs_arrived > upload.needs:
        yield f"{upload.needs_arrived} of {upload.needs} needs have come"
    below: list[list[int]] = [[] for _ in upload.tasks]
    for task in tasks:
        for need in task.waited:
            below[need].append(task.position)
        if any(upload.tasks[need] is None for need in task.needs) or task.open_needs != len(task.waited):
            yield f"the task {task.id} came before what it needs"
    if [tuple(positions) for positions in below] != [tuple(positions) for positions in upload.dependents]:
        yield "the table of dependents does not match its tasks"
    counts = [sum(task.state is state for task in tasks) for state in TaskState]
    if counts != workflow.counts or workflow.open != len(tasks):
        yield f"counts {workflow.counts}, its tasks give {counts}"


# --- agents and their accounts


def _agent_problems(state: State, name: str, agent: Agent) -> Iterator[str]:
    if agent.name != name or not 0 < agent.incarnation <= state.incarnation:
        yield f"is in the table under another name or incarnation ({agent.name}, {agent.incarnation})"
    yield from _state_problems(agent)
    allocated = dict.fromkeys(agent.capacity, 0)
    queued = []
    running = alone = 0
    for fence, (workflow, task) in agent.live.items():
        if task.state not in LIVE_ATTEMPT or (fence, name) not in _holders(task):
            yield f"holds fence {fence}, which is not the live attempt of {workflow.id}/{task.id}"
        elif task.state is TaskState.QUEUED:
            queued.append(fence)
        else:
            shape = workflow.profiles[task.profile].shape
            alone += shape.exclusive
            running += 1
            for resource, amount in agent.capacity.items() if shape.exclusive else shape.demand:
                allocated[resource] = allocated.get(resource, 0) + amount
    if alone > 1 or (alone and running > 1) or bool(alone) != agent.alone:
        yield f"{running} attempts run, {alone} of them exclusive"
    if list(agent.live) != sorted(agent.live):
        yield "its live attempts are out of order"
    if queued != list(agent.queue):
        yield f"its queue is {list(agent.queue)}, its tasks give {queued}"
    if len(agent.void) > REVOKED_FENCES_MAX or any(fence in agent.live for fence in agent.void):
        yield "fences to stop are too many, or live"
    for resource, amount in allocated.items():
        capacity = agent.capacity.get(resource, 0)
        if amount != capacity - agent.free.get(resource, 0):
            yield f"{capacity - agent.free.get(resource, 0)} {resource} allocated, its attempts want {amount}"
        if amount > capacity:
            yield f"{amount} {resource} allocated, its capacity is {capacity}"
    if list(agent.free) != list(agent.capacity):
        yield "its account names other resources than its capacity"
    yield from _head_problems(agent)


def _holders(task: Task) -> list[tuple[int, str]]:
    """Return the fences of a task's live attempts, each with its agent."""
    return [(attempt.fence, attempt.agent) for attempt in (task.last, task.backup) if attempt is not None]


def _state_problems(agent: Agent) -> Iterator[str]:
    if not agent.present and (agent.live or agent.void):
        yield f"is {agent.state.value} and still holds attempts"
    if agent.drain_deadline_ms and agent.state is not AgentState.DRAINING:
        yield f"is {agent.state.value} and has a drain deadline"
    if agent.drained and agent.present and agent.state is not AgentState.DRAINING:
        yield f"is {agent.state.value}, although it was drained"
    if (agent.state is AgentState.QUARANTINE) != bool(agent.quarantine_until_ms):
        yield f"is {agent.state.value}, in quarantine until {agent.quarantine_until_ms}"
    if agent.contradicted and not agent.streak:
        yield f"{agent.contradicted} tasks that failed there succeeded elsewhere, and none failed there"


def _head_problems(agent: Agent) -> Iterator[str]:
    """A queue whose head fits should have moved up."""
    if agent.queue and agent.queue[0] in agent.live:
        workflow, task = agent.live[agent.queue[0]]
        shape = workflow.profiles[task.profile].shape
        if shape.exclusive:
            fits = len(agent.live) == len(agent.queue)
        else:
            fits = not agent.alone and all(amount <= agent.free.get(name, 0) for name, amount in shape.demand)
        if fits:
            yield f"the head of its queue, fence {agent.queue[0]}, fits and was not started"


# --- tables


def _table_problems(state: State, clock_ms: int) -> Iterator[str]:
    if {workflow.number: workflow for workflow in state.workflows.values()} != state.by_number:
        yield "the table of workflows by number does not match the one by id"
    if list(state.by_number) != sorted(state.by_number) or any(n > state.workflow_number for n in state.by_number):
        yield "workflows are out of order"
    finished = [workflow for workflow in state.workflows.values() if workflow.finished_ms]
    finished.sort(key=lambda workflow: workflow.finished_number)
    if list(state.finished.values()) != finished:
        yield "the table of finished workflows does not match them"
    live_tasks = sum(len(workflow.tasks) for workflow in state.workflows.values() if not workflow.finished_ms)
    if state.live_tasks != live_tasks:
        yield f"{state.live_tasks} live tasks counted, there are {live_tasks}"
    for workflow in state.workflows.values():
        if workflow.result_bytes != (size := sum(len(task.result) for task in workflow.tasks)):
            yield f"{workflow.id}: {workflow.result_bytes} bytes of results counted, there are {size}"
    if state.result_bytes != (size := sum(workflow.result_bytes for workflow in state.workflows.values())):
        yield f"{state.result_bytes} bytes of results counted, there are {size}"
    upload_tasks = sum(len(upload.tasks) for upload in state.uploads.values())
    if state.upload_tasks != upload_tasks or len(state.uploads) > limits.UPLOADS_MAX:
        yield f"{state.upload_tasks} tasks of {len(state.uploads)} uploads counted, there are {upload_tasks}"
    kinds: dict[AgentClass, int] = {}
    for agent in state.agents.values():
        if agent.state is AgentState.UP:
            kinds[agent.kind()] = kinds.get(agent.kind(), 0) + 1
    if kinds != state.kinds:
        yield "the table of kinds of agents does not match the agents that are up"
    if not kinds and any(agent.state is AgentState.QUARANTINE for agent in state.agents.values()):
        yield "agents are in quarantine while no agent is up"
    yield from _kind_problems(state, clock_ms)
    yield from _cache_problems(state)
    incarnations = [agent.incarnation for agent in state.agents.values()]
    if incarnations != sorted(set(incarnations)):
        yield "agents are out of order of their incarnations"


def _kind_problems(state: State, clock_ms: int) -> Iterator[str]:
    if len(state.kinds_learnt) > limits.KINDS_MAX:
        yield f"{len(state.kinds_learnt)} kinds are learnt, the limit is {limits.KINDS_MAX}"
    for kind, learnt in state.kinds_learnt.items():
        amounts = (learnt.count - 1, learnt.mean_us, learnt.deviation_us, learnt.cpu_ms, learnt.peak_mib)
        if learnt.kind != kind or min(amounts) < 0 or learnt.last_ms > clock_ms:
            yield f"what was learnt of the kind {kind!r} makes no sense"


def _cache_problems(state: State) -> Iterator[str]:
    size = sum(entry.size_bytes for entry in state.results)
    if state.results.size_bytes != size:
        yield f"{state.results.size_bytes} bytes of cached results counted, there are {size}"
    if len(state.results) > limits.CACHE_ENTRIES_MAX or size > limits.CACHE_BYTES_MAX:
        yield f"{len(state.results)} results of {size} bytes are cached, which is too much"
    owners: dict[str, tuple[int, int]] = {}
    lines: dict[str, list[tuple[int, int]]] = {}
    for workflow in state.workflows.values():
        for task in workflow.tasks:
            if task.claim and task.state is TaskState.WAITING:
                lines.setdefault(task.claim, []).append((workflow.number, task.position))
            elif task.claim and owners.setdefault(task.claim, (workflow.number, task.position)) != (
                workflow.number,
                task.position,
            ):
                yield f"task {workflow.id}/{task.id}: runs beside an equal one"
    for name in {**state.claims, **owners, **lines}:
        claim = state.claims.get(name)
        if claim is None or claim.owner != owners.get(name) or sorted(claim.line) != lines.get(name, []):
            yield f"the claim {name.split(chr(0))[0]!r} does not match the tasks that share it"


def _fence_problems(state: State) -> Iterator[str]:
    seen: dict[int, str] = {}
    for workflow in state.workflows.values():
        for task in workflow.tasks:
            for fence, _ in _holders(task):
                other = seen.setdefault(fence, task.id)
                if other != task.id:
                    yield f"fence {fence} belongs to {other} and to {task.id}"


def _timer_problems(state: State) -> Iterator[str]:
    wanted_ms = {name: agent.timer_ms for name, agent in state.agents.items() if agent.timer_ms}
    if wanted_ms != state.agent_timers.by_name():
        yield f"timers of agents are {state.agent_timers.by_name()}, the agents give {wanted_ms}"
    timers = set(state.timers)
    for workflow in state.workflows.values():
        for task in workflow.tasks:
            wanted = []
            if task.state is TaskState.DELAYED:
                wanted = [(task.due_ms, BACKOFF)]
            elif task.state is TaskState.RUNNING:
                attempts = (task.last, task.backup)
                wanted = [
                    (each.deadline_ms, each.fence) for each in attempts if each is not None and each.deadline_ms
                ]
            for due_ms, fence in wanted:
                if (due_ms, workflow.number, task.position, fence) not in timers:
                    yield f"task {workflow.id}/{task.id}: its timer for {due_ms} is missing"
