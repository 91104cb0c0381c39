"""What a running attempt sees of the children of its task.

An end of a child is final while the attempt lives: only a finished workflow can be retried. So a replica that knows
the attempt and the children may answer without a barrier. It may only miss that a child has ended, and then the
attempt parks, and `apply` looks again.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.contract.calls import ChildEnd, ChildrenFound
from raftflow.domain.limits import ERROR_CHARS_MAX, INPUTS_PIECE_BYTES_MAX, INPUTS_PIECE_COUNT_MAX
from raftflow.domain.tasks.children import Positions, child_ids, merge_ranges
from raftflow.domain.tasks.states import FINAL, PUBLIC_NAME, TaskState
from raftflow.machine.commands import spawning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.domain.commands import ChildTask
    from raftflow.domain.tasks.workflow import TaskSpec
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow


_DONE = TaskState.SUCCEEDED


class UnknownChildError(Exception):
    """This replica knows no such child (yet). Says which."""


def find_parent(machine: Machine, agent: str, incarnation: int, fence: int) -> tuple[Workflow, Task] | None:
    """Return the task of a live attempt, None if this replica does not know the attempt as live."""
    known = machine.state.agents.get(agent)
    return None if known is None or known.incarnation != incarnation else known.live.get(fence)


def numbers_of(workflow: Workflow, parent: Task, keys: Sequence[str]) -> list[int]:
    """Return where the children with these keys are. Raises `UnknownChildError`."""
    numbers = []
    for key in keys:
        found = (workflow.by_id.get(task_id) for task_id in child_ids(parent.id, key))
        own = [child.position for child in found if child is not None and _is_child(child, parent)]
        if not own:
            raise UnknownChildError(f"{parent.id} has no child with the key {key[:80]!r}: spawn it first")
        numbers.append(own[0])
    return numbers


def known_children(
    machine: Machine, workflow: Workflow, parent: Task, specs: tuple[TaskSpec, ...], children: tuple[ChildTask, ...]
) -> list[int] | None:
    """Return where children are that a live attempt spawns, if all are there already; None if a command must decide.

    That needs no barrier: a child stays as long as its workflow, and what it runs never changes.
    """
    if workflow.stop_pending:
        return None
    return spawning.known_children(machine.state, workflow, parent, specs, children)


class ChildCount:
    """Counts children bit by bit, and finds which of them ended first, and first without success.

    Entries may be applied between two bits: then it may miss that a child has ended.
    """

    def __init__(self, workflow: Workflow, parent: Task, ranges: Positions) -> None:
        """Raises `UnknownChildError` for ranges beyond the workflow."""
        self._children = _in_ranges(workflow, parent, _known_ranges(workflow, ranges))
        self._total = self._open = 0
        self._first: Task | None = None
        self._failed: Task | None = None

    def count(self, children_max: int) -> bool:
        """Look at up to so many children. False when all are counted."""
        looked_at = 0
        for child in islice(self._children, children_max):
            looked_at += 1
            if not child.finished_ms:
                self._open += 1
                continue
            if self._first is None or child.finished_ms < self._first.finished_ms:
                self._first = child
            failed = self._failed
            if child.state is not _DONE and (failed is None or child.finished_ms < failed.finished_ms):
                self._failed = child
        self._total += looked_at
        return looked_at == children_max

    def found(self) -> ChildrenFound:
        """Return what was found."""
        return ChildrenFound(
            total=self._total,
            open=self._open,
            first=None if self._first is None else _as_end(self._first),
            failed=None if self._failed is None else _as_end(self._failed),
        )


def ends_of(workflow: Workflow, parent: Task, ranges: Positions, begin: int) -> ChildrenFound:
    """Show the ends of the children in these ranges from position `begin` on, up to the first that has not ended.

    As many as are small together; `next` is where the others begin. Raises `UnknownChildError` as `ChildCount`.
    """
    found = ChildrenFound()
    size = 0
    known = _known_ranges(workflow, ranges)
    rest = tuple([(max(low, begin), high) for low, high in known if high >= begin])
    for child in islice(_in_ranges(workflow, parent, rest), INPUTS_PIECE_COUNT_MAX + 1):
        if child.state not in FINAL:
            break
        size += len(child.result) + len(child.detail)
        if found.ends and (size > INPUTS_PIECE_BYTES_MAX or len(found.ends) == INPUTS_PIECE_COUNT_MAX):
            found.next = child.position
            break
        found.ends.append(_as_end(child))
    return found


def _known_ranges(workflow: Workflow, ranges: Positions) -> Positions:
    beyond = max([last for _, last in ranges], default=0)
    if beyond >= len(workflow.tasks):
        raise UnknownChildError(f"workflow {workflow.id} has no task at {beyond}")
    return merge_ranges(ranges, len(workflow.tasks))


def _in_ranges(workflow: Workflow, parent: Task, ranges: Positions) -> Iterator[Task]:
    tasks = workflow.tasks
    for first, last in ranges:
        for position in range(first, last + 1):
            child = tasks[position]
            if _is_child(child, parent):
                yield child


def _is_child(task: Task, parent: Task) -> bool:
    return task.origin is not None and task.origin.parent == parent.position


def _as_end(child: Task) -> ChildEnd:
    return ChildEnd(
        number=child.position,
        id=child.id,
        state=PUBLIC_NAME[child.state],  # type: ignore[arg-type]  # it has ended
        result=msgspec.Raw(child.result or b"null"),
        error="" if child.state is TaskState.SUCCEEDED else child.detail[:ERROR_CHARS_MAX],
    )
