"""An independent check of plans. It shares no code with what makes plans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raftflow.domain.tasks.program import TaskWait, required_labels
from raftflow.domain.tasks.workflow import EXPECTED_DEFAULT_MS, WorkflowSpec
from raftflow.scheduler.plan.plan import Plan, PlanAgent

FAULTS_MAX = 100


def plan_faults(spec: WorkflowSpec, agents: Sequence[PlanAgent], plan: Plan) -> list[str]:
    """List the faults of a plan: missing tasks, unmet needs, labels, durations, exceeded capacities."""
    found = []
    for fault in _faults(spec, agents, plan):
        found.append(fault)
        if len(found) == FAULTS_MAX:
            break
    return found


def _faults(spec: WorkflowSpec, agents: Sequence[PlanAgent], plan: Plan) -> Iterator[str]:
    if [slot.task for slot in plan.slots] != list(range(len(spec.tasks))):
        yield "the plan does not have one slot for each task, in order"
        return
    ends = {task.id: slot.end_ms for task, slot in zip(spec.tasks, plan.slots, strict=True)}
    for task, slot in zip(spec.tasks, plan.slots, strict=True):
        if not 0 <= slot.agent < len(agents):
            yield f"{task.id} is on agent {slot.agent}, which does not exist"
            return
        agent = agents[slot.agent]
        expected_ms = max(1, EXPECTED_DEFAULT_MS if task.expected_ms is None else task.expected_ms)
        if type(task.program) is TaskWait:
            expected_ms = 0
        lasts_ms = slot.end_ms - slot.start_ms
        if slot.start_ms < 0 or not 0 <= lasts_ms * agent.speed_milli - expected_ms * 1000 < agent.speed_milli:
            yield f"{task.id} runs from {slot.start_ms} to {slot.end_ms} ms, {expected_ms} ms of work on {agent.name}"
        for need in task.needs:
            if ends[need] > slot.start_ms:
                yield f"{task.id} starts at {slot.start_ms} ms, before {need} has ended at {ends[need]} ms"
        for key, value in required_labels(task.program, task.labels).items():
            if agent.labels.get(key) != value:
                yield f"{task.id} needs the label {key}={value}, {agent.name} has {agent.labels.get(key)}"
    for number, agent in enumerate(agents):
        yield from _over_commitments(spec, number, agent, plan)


def _over_commitments(spec: WorkflowSpec, number: int, agent: PlanAgent, plan: Plan) -> Iterator[str]:
    """Add up the demands over the starts and ends on one agent, ends first."""
    changes: list[tuple[int, int, str, int]] = []
    for slot in plan.slots:
        if slot.agent == number:
            for name, amount in spec.tasks[slot.task].resources.items():
                changes.extend(((slot.start_ms, 1, name, amount), (slot.end_ms, 0, name, -amount)))
    allocated: dict[str, int] = {}
    for at_ms, _, name, amount in sorted(changes):
        allocated[name] = allocated.get(name, 0) + amount
        capacity = agent.capacity.get(name, 0)
        if amount > 0 and allocated[name] > capacity:
            yield f"at {at_ms} ms {agent.name} has {allocated[name]} of {capacity} {name} allocated"
