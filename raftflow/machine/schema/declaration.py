"""What a table declares. `registry.py` has the list of declarations; snapshots, checks and retention are made of it.

A table is an attribute of `State`. Code that applies commands uses the attribute; nothing here is on its way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from raftflow.domain import limits
from raftflow.machine.tables.state import State

if TYPE_CHECKING:
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

BATCH = 500
"""Rows in a frame."""
BATCH_BYTES = 64 * 1024
"""Bytes of rows in a frame, where rows may be large."""

_encoder = msgspec.msgpack.Encoder()

Frame = tuple[bytes, bytes]
"""Kind (one byte) and content of a frame of a snapshot."""


class SnapshotError(ValueError):
    """The bytes are not a snapshot, or this version cannot use it."""


class Reason(str):
    """Why a table does without a part of its declaration."""

    __slots__ = ()


class Restoring:
    """What the readers of the tables share while a snapshot is read."""

    def __init__(self, requests_max: int) -> None:
        self.state = State(requests_max)
        self.names: dict[str, str] = {}
        """One object for equal names of agents."""
        self.live: list[tuple[int, Workflow, Task]] = []
        """Live attempts: fence, workflow, task."""


class Reader(Protocol):
    """Reads the frames of one table."""

    def take(self, kind: bytes, payload: bytes) -> None:
        """Read a frame. Raises `SnapshotError` or `msgspec.DecodeError`."""

    def finish(self) -> None:
        """Note that no more frames come. Raises `SnapshotError` if some are missing."""


class Frozen(NamedTuple):
    """A table as of the moment when a snapshot opened."""

    rows: int
    frames: Iterator[Frame]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """How a snapshot holds a table."""

    field: int
    """Place of the number of rows in the header. It never changes and is never used again."""
    kinds: tuple[bytes, ...]
    """Kinds of its frames."""
    freeze: Callable[[State, CopyOnWrite], Frozen]
    """Takes references, or copies of what changes in place. Entries are applied while the frames are asked for."""
    reader: Callable[[Restoring], Reader]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What bounds a table."""

    name: str
    """In `domain.limits`."""
    rows: Callable[[State], int]

    @property
    def rows_max(self) -> int:
        """The bound."""
        value: int = getattr(limits, self.name)
        return value


@dataclass(frozen=True, kw_only=True)
class Table:
    """One attribute of `State`, or several that are changed together. A part that it lacks has its reason instead."""

    name: str
    """The attribute."""
    about: str
    """Its rows, for the page of the machine."""
    saved: Saved | Reason
    """How a snapshot holds it."""
    derive: Callable[[Restoring], None] | Reason
    """What follows from other tables: called once all saved tables are read, in the order of the list."""
    problems: Callable[[State, int], Iterator[str]] | Reason
    """Its invariants: yields what is wrong, given the clock in ms. The limit is checked without it."""
    limit: Limit | Reason
    retire: Callable[[State, Sequence[Workflow]], None] | Reason
    """Removes finished workflows that are retired. What the workflows hold is discarded piece by piece."""
    parts: Callable[[State], Iterable[Any]] | Reason
    """Large lists, dicts and rows: freed a little at a time when another state takes the place of this one."""


@dataclass(frozen=True, kw_only=True)
class Counter:
    """A number of `State` that only grows, kept in the header of a snapshot."""

    name: str
    field: int
    """Place in the header."""
    problems: Callable[[State], Iterator[str]] | Reason


def saved_rows(
    *,
    field: int,
    kind: bytes,
    row: type[msgspec.Struct],
    rows: Callable[[State], Iterable[Any]],
    add: Callable[[State, Any], None],
    bytes_of: Callable[[Any], int] | None = None,
) -> Saved:
    """Declare a table of plain rows, each a struct. Rows may be large if `bytes_of` tells their sizes.

    Rows of a frozen type are encoded when their frame is asked for. Rows that change in place are encoded as soon as
    the snapshot opens, so there must be few of them.
    """
    decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[row])  # type: ignore[valid-type]
    frozen = row.__struct_config__.frozen

    def freeze(state: State, _: CopyOnWrite) -> Frozen:
        found = list(rows(state))
        taken = _slices(found) if bytes_of is None else batches(found, bytes_of)
        frames = ((kind, _encoder.encode(batch)) for batch in taken)
        return Frozen(len(found), frames if frozen else iter(list(frames)))

    class RowReader:
        """Reads plain rows."""

        def __init__(self, restoring: Restoring) -> None:
            self._state = restoring.state

        def take(self, _: bytes, payload: bytes) -> None:
            for each in decoder.decode(payload):
                add(self._state, each)

        def finish(self) -> None:
            """Nothing can be incomplete but the number of rows, which is compared with the header."""

    return Saved(field=field, kinds=(kind,), freeze=freeze, reader=RowReader)


def _slices(rows: list[Any]) -> Iterator[list[Any]]:
    """Put `BATCH` rows together."""
    for first in range(0, len(rows), BATCH):
        yield rows[first : first + BATCH]


def batches(rows: Iterable[Any], bytes_of: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Put as many rows together as have `BATCH_BYTES`, because one alone may be large."""
    batch: list[Any] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += bytes_of(row)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
