"""A workflow in pieces: how a large one is cut, so that no replica hangs while it comes in.

Tasks go in topological order, each with its place in the document and with the places of the tasks that it needs, so
that every piece can be checked by itself: what a task needs must have come before it. What tasks run and want (their
profile) goes once, however many have it, in the order of the document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from raftflow.domain import limits
from raftflow.domain.commands import TaskPart
from raftflow.domain.tasks.preparation import PATH_MAX, critical_path, levels_of, without_redundant
from raftflow.domain.tasks.program import kind_of
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec, topological_order, upward_ranks

_HEADS_BYTES = 16
"""More than what surrounds the profiles and the tasks of a piece."""

_encoder = msgspec.msgpack.Encoder()


class TaskPiece(NamedTuple):
    """Profiles and tasks of one `AddTasks`, each a tuple in MessagePack."""

    profiles: bytes
    tasks: bytes


def profile_key(task: TaskSpec) -> bytes:
    """Return what two tasks have in common if they run and want the same."""
    return _encoder.encode(
        (
            task.program, task.env, task.cwd, task.resources, task.labels,
            task.retries, task.retry_delay_ms, task.retry_delay_max_ms, task.timeout_ms, task.grace_ms,
            task.kind, task.cache, task.exclusive, task.memory_max_mib, task.backup, task.rates,
        )
    )  # fmt: skip


class Draft:
    """A workflow that is about to be cut. Its graph must be in order (`workflow.check_graph`)."""

    def __init__(self, spec: WorkflowSpec) -> None:
        self.spec = spec
        self._examples: list[TaskSpec] = []
        """For each profile the first task that has it."""
        self._numbers: list[int] = []
        """For each task its profile."""
        known: dict[bytes, int] = {}
        for task in spec.tasks:
            number = known.setdefault(profile_key(task), len(known))
            if number == len(self._examples):
                self._examples.append(task)
            self._numbers.append(number)
        self._order = topological_order(spec)
        position_of = {task.id: position for position, task in enumerate(spec.tasks)}
        self._needs = [tuple([position_of[need] for need in task.needs]) for task in spec.tasks]
        self._ranks: list[int] = []

    @property
    def needs(self) -> int:
        """How many needs there are, all together."""
        return sum(map(len, self._needs))

    def kinds(self) -> list[str | None]:
        """Return the kind of each profile, by which expected times are learnt; None where it has none."""
        return [kind_of(task.kind, task.program) for task in self._examples]

    def rank(self, learnt_ms: Sequence[int | None]) -> None:
        """Rank the tasks. `learnt_ms` is for each profile how long its tasks are taken to run, None if unknown."""
        self._ranks = upward_ranks(self.spec, self._order, [learnt_ms[number] for number in self._numbers])

    def path(self) -> tuple[int, ...]:
        """Return the beginning of the critical path. Call `rank` first."""
        levels = levels_of(self._needs, self._order)
        reduced = without_redundant(self._needs, self._order, levels)
        needs = [reduced.get(position, needs) for position, needs in enumerate(self._needs)]
        return tuple(critical_path(needs, self._order, self._ranks)[:PATH_MAX])

    def cut(
        self, tasks_max: int = limits.PIECE_TASKS_MAX, bytes_max: int = limits.PIECE_BYTES_MAX
    ) -> Iterator[TaskPiece]:
        """Yield the pieces. Call `rank` first.

        None has more than `tasks_max` tasks or profiles, nor more than `limits.PIECE_NEEDS_MAX` needs; nor more than
        `bytes_max` bytes, unless it has one task or profile alone.
        """
        piece = _EncodedPiece(tasks_max, bytes_max)
        sent = 0
        for position in self._order:
            task = self.spec.tasks[position]
            number = self._numbers[position]
            while sent <= number:
                example = msgspec.structs.replace(self._examples[sent], needs=(), expected_ms=None)
                encoded = _encoder.encode(example)
                if not piece.takes_profile(encoded):
                    yield piece.take()
                piece.add_profile(encoded)
                sent += 1
            needs = self._needs[position]
            encoded = _encoder.encode(TaskPart(position, task.id, number, self._ranks[position], needs))
            if not piece.takes_task(encoded, len(needs)):
                yield piece.take()
            piece.add_task(encoded, len(needs))
        yield piece.take()


class _EncodedPiece:
    """A piece that is being filled."""

    def __init__(self, tasks_max: int, bytes_max: int) -> None:
        self._tasks_max = tasks_max
        self._bytes_max = bytes_max
        self._profiles: list[msgspec.Raw] = []
        self._tasks: list[msgspec.Raw] = []
        self._needs = 0
        self._bytes = 0

    def takes_profile(self, encoded: bytes) -> bool:
        return len(self._profiles) < self._tasks_max and self._takes(encoded)

    def takes_task(self, encoded: bytes, needs: int) -> bool:
        return (
            len(self._tasks) < self._tasks_max
            and self._takes(encoded)
            and (not self._tasks or self._needs + needs <= limits.PIECE_NEEDS_MAX)
        )

    def _takes(self, encoded: bytes) -> bool:
        return not self._bytes or self._bytes + len(encoded) + _HEADS_BYTES <= self._bytes_max

    def add_profile(self, encoded: bytes) -> None:
        self._profiles.append(msgspec.Raw(encoded))
        self._bytes += len(encoded)

    def add_task(self, encoded: bytes, needs: int) -> None:
        self._tasks.append(msgspec.Raw(encoded))
        self._bytes += len(encoded)
        self._needs += needs

    def take(self) -> TaskPiece:
        """Return what was added, and start the next piece."""
        piece = TaskPiece(_encoder.encode(self._profiles), _encoder.encode(self._tasks))
        self._profiles, self._tasks, self._needs, self._bytes = [], [], 0, 0
        return piece
