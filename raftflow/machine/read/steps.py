"""Steps that an attempt finds: those that earlier attempts of its task have recorded.

Whatever ends an attempt takes its fence out, and a record needs a live fence. The placement of an attempt is behind
the ends of those before it in the log. So every replica that knows the attempt has all their records, and needs no
barrier to show them. Two attempts that live at the same time are the exception (`is_shared`): there only the log says
what the other one has recorded meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.contract.calls import KnownStep
from raftflow.domain.limits import CALL_STEPS_MAX, INPUTS_INLINE_BYTES_MAX

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.steps import StepRow
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow


def count_of(workflow: Workflow, task: Task) -> int:
    """Return how many steps of a task are recorded."""
    return 0 if workflow.steps is None else workflow.steps.count(task.position)


def is_live(machine: Machine, agent: str, incarnation: int, fence: int) -> bool:
    """Tell whether this replica knows an attempt of this incarnation of an agent as live."""
    return _found(machine, agent, incarnation, fence) is not None


def is_shared(machine: Machine, agent: str, incarnation: int, fence: int) -> bool:
    """Tell whether another attempt of the task may live at the same time, and record steps."""
    found = _found(machine, agent, incarnation, fence)
    return found is not None and found[0].profiles[found[1].profile].backup


def known_steps(
    machine: Machine, agent: str, incarnation: int, fence: int, key: tuple[str, int], *, ahead: bool
) -> list[KnownStep] | None:
    """Return the record of the step with this name and occurrence.

    With `ahead` come those after it, as many as are small together. Empty if the step has none; None if this replica
    does not know the attempt as live.
    """
    found = _found(machine, agent, incarnation, fence)
    if found is None:
        return None
    workflow, task = found
    row = None if workflow.steps is None else workflow.steps.find(task.position, *key)
    if row is None or workflow.steps is None:
        return []
    steps = [_as_known(row)]
    size = row.size_bytes
    for following in workflow.steps.following(row) if ahead else ():
        size += following.size_bytes
        if size > INPUTS_INLINE_BYTES_MAX or len(steps) == CALL_STEPS_MAX:
            break
        steps.append(_as_known(following))
    return steps


def recorded_keys(machine: Machine, workflow_id: str, task_id: str) -> list[tuple[str, int]] | None:
    """Return name and occurrence of all steps of a task that are recorded, in order; None for an unknown task."""
    workflow = machine.state.workflows.get(workflow_id)
    task = None if workflow is None else workflow.by_id.get(task_id)
    if workflow is None or task is None:
        return None
    rows = () if workflow.steps is None else workflow.steps.rows
    return [(row.name, row.occurrence) for row in rows if row.task == task.position]


def _found(machine: Machine, agent: str, incarnation: int, fence: int) -> tuple[Workflow, Task] | None:
    known = machine.state.agents.get(agent)
    return None if known is None or known.incarnation != incarnation else known.live.get(fence)


def _as_known(row: StepRow) -> KnownStep:
    return KnownStep(
        name=row.name,
        occurrence=row.occurrence,
        function=row.function,
        result=msgspec.Raw(row.result),
        at_ms=row.at_ms,
        fence=row.fence,
    )
