"""The state as of an earlier entry, from what a replica has on its disk: log, snapshots and audit.

Behind the newest snapshot the log has every entry, so the state machine is run again: the state is complete. Before
it the entries are gone, and the audit tells which task moved where: the state is that of the nearest older snapshot
(of nothing, without one) with these moves. Then tasks that have not moved since they were submitted are missing, and
so are results and agents.

Either way the digest is known: it is the audit chain. It is computed from the records, each of which seals all before
it, and from the state machine where that was run. A record that was altered does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from raftflow.coordinator.audit.frames import GAP, decode_gap, frames_in, read_plain, record_of
from raftflow.coordinator.audit.segments import read_directory
from raftflow.domain.values.times import iso_utc
from raftflow.machine.machine import Machine
from raftflow.machine.rules.audit_chain import chain_of
from raftflow.replication.stored_log import StoredLog

if TYPE_CHECKING:
    from raftflow.domain.contract.views import AuditRecord
    from raftflow.replication.files import FileSystem

PROBLEMS_MAX: Final = 20


class ReplayError(Exception):
    """The index cannot be reached. Says which can."""


class WorkflowThen(msgspec.Struct, kw_only=True):
    """A workflow as it was: its tasks by their states."""

    id: str
    state: str | None
    """None where the audit alone is left, which does not tell it."""
    tasks: dict[str, str]
    """State by task id."""


class ReplayedState(msgspec.Struct, kw_only=True):
    """The state as of an entry."""

    index: int
    """Of the last entry that changed something, up to the one that was asked for."""
    at: str
    digest: str
    """Hex audit chain, as it was computed here."""
    recorded: str
    """The same as the audit has it."""
    source: str
    """`log` for a complete state, `audit` for the moves of tasks alone."""
    base: int
    """Entry of the snapshot from which it was computed; 0 for an empty state."""
    workflows: list[WorkflowThen]
    agents: dict[str, str] | None
    """State by name; None where the audit alone is left."""
    problems: list[str]
    """Records that do not fit."""


class _Moves:
    """What the audit tells up to an entry."""

    def __init__(self, chain: bytes, index: int) -> None:
        self.chain = chain
        self.recorded = chain
        self.index = index
        self.at_ms = 0
        self.tasks: dict[str, dict[str, str]] = {}
        self.problems: list[str] = []

    def take(self, record: AuditRecord) -> None:
        self.chain = chain_of(self.chain, record)
        self.recorded = record.chain
        if self.chain != record.chain and len(self.problems) < PROBLEMS_MAX:
            self.problems.append(
                f"index {record.index}, position {record.position}: the chain does not fit: this record or one "
                f"before it was changed or is missing"
            )
        self.chain = record.chain
        self.index, self.at_ms = record.index, record.at_ms
        for move in record.transitions:
            self.tasks.setdefault(move.workflow_id, {})[move.task_id] = move.after


def replay_to(fs: FileSystem, data_dir: Path, index: int) -> ReplayedState:
    """Return the state as of entry `index`. The replica may run. Blocking.

    Raises `ReplayError`, `AuditError`, `LogFailedError`, `OSError`.
    """
    log = StoredLog(fs, data_dir, lock=False)
    base = next((info for info in log.snapshots if info.index <= index), None)
    start = 0 if base is None else base.index
    machine = Machine()
    if base is not None:
        machine.restore(log.state_of(base))
    moves = _moves(fs, data_dir / "audit", index, start)
    newest = max(moves.index, log.last_index)
    if index > newest:
        raise ReplayError(f"{data_dir} has entries up to {newest}, not {index}")
    complete = start == index or (log.first_index != 0 and log.first_index <= start + 1)
    if not complete and moves.index <= start < index:
        raise ReplayError(
            f"nothing in {data_dir} reaches entry {index}: the audit there has no records of it, and the log begins "
            f"at entry {log.first_index}"
        )
    if complete:
        for entry in log.entries_after(start):
            if entry.index <= index:
                machine.apply(entry.index, entry.term, entry.payload)
        return _complete_state(machine, moves, start)
    return _state_from_audit(machine, moves, start)


def _moves(fs: FileSystem, directory: Path, index: int, start: int) -> _Moves:
    """Read the audit up to an entry, check its chain, and keep the moves behind entry `start`."""
    anchor, segments = read_directory(fs, directory)
    moves = _Moves(anchor.chain, anchor.index)
    for segment in segments:
        if segment.first_index > index:
            break
        for frame in frames_in(read_plain(fs, segment.path), segment.path):
            if frame.index > index:
                break
            if frame.kind == GAP:
                gap = decode_gap(frame)
                moves.chain = moves.recorded = gap.chain
                moves.index = gap.last
            else:
                moves.take(record_of(frame))
            if moves.index <= start:
                moves.tasks.clear()
    return moves


def _complete_state(machine: Machine, moves: _Moves, start: int) -> ReplayedState:
    problems = list(moves.problems)
    recorded = moves.recorded
    if moves.index < machine.applied_index:
        recorded = b""  # the audit is not written that far, or was dropped: nothing to compare with
    elif moves.index == machine.applied_index and recorded != machine.chain:
        problems.append(f"index {moves.index}: the log gives another digest than the audit has")
    workflows = [
        WorkflowThen(
            id=workflow.id,
            state=workflow.state.value,
            tasks={task.id: task.state.name.lower() for task in workflow.tasks},
        )
        for workflow in machine.tables.workflows.values()
    ]
    return ReplayedState(
        index=machine.applied_index,
        at=iso_utc(machine.clock_ms),
        digest=machine.chain.hex(),
        recorded=recorded.hex(),
        source="log",
        base=start,
        workflows=workflows,
        agents={name: agent.state.value for name, agent in machine.tables.agents.items()},
        problems=problems[:PROBLEMS_MAX],
    )


def _state_from_audit(machine: Machine, moves: _Moves, start: int) -> ReplayedState:
    known = {
        workflow.id: {task.id: task.state.name.lower() for task in workflow.tasks}
        for workflow in machine.tables.workflows.values()
    }
    for workflow_id, tasks in moves.tasks.items():
        known.setdefault(workflow_id, {}).update(tasks)
    return ReplayedState(
        index=moves.index,
        at=iso_utc(moves.at_ms),
        digest=moves.chain.hex(),
        recorded=moves.recorded.hex(),
        source="audit",
        base=start,
        workflows=[WorkflowThen(id=name, state=None, tasks=tasks) for name, tasks in known.items()],
        agents=None,
        problems=moves.problems,
    )


class TaskChange(msgspec.Struct, kw_only=True):
    """A task that differs between two states. None where it is not known, or not there."""

    workflow: str
    task: str
    before: str | None
    after: str | None


def difference(before: ReplayedState, after: ReplayedState) -> Iterator[TaskChange]:
    """Yield the tasks that differ, in order of their workflows."""
    then = {workflow.id: workflow.tasks for workflow in before.workflows}
    now = {workflow.id: workflow.tasks for workflow in after.workflows}
    for workflow in {**then, **now}:
        old, new = then.get(workflow, {}), now.get(workflow, {})
        for task in {**old, **new}:
            if old.get(task) != new.get(task):
                yield TaskChange(workflow=workflow, task=task, before=old.get(task), after=new.get(task))
