"""`SnapshotPort`: the object that PySyncObj takes for its serializer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pysyncobj.config import SERIALIZER_STATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysyncobj.node import Node

    from raftflow.replication.raft.library_types import Entry

INSTALLED: Final = "installed"
"""The value of `serialized` inside one process: raftflow received the snapshot itself, and it is on disk."""


class SnapshotPort:
    """Takes the place of the library's serializer and passes every step to raftflow's snapshot code.

    `begin_write(last, previous)` starts writing the state as of `last`, the entry applied last; `load()` puts a
    snapshot into the state machine and returns its `(last, previous)` entries.
    """

    def __init__(self, begin_write: Callable[[Entry, Entry], None], load: Callable[[], tuple[Entry, Entry]]) -> None:
        self._begin_write = begin_write
        self._load = load
        self._writing_id: int | None = None
        self._finished: bool | None = None
        self.failure: Exception | None = None
        """Why the last load failed. The library swallows it, the guard (T5) and the engine do not."""

    @property
    def writing(self) -> bool:
        """True from the start of a write until the library has been told how it ended."""
        return self._writing_id is not None

    def finish_write(self, *, durable: bool) -> None:
        """Tell how the write ended; the library trims the log at its next tick if the snapshot is durable."""
        if self._writing_id is not None:
            self._finished = durable

    def checkSerializing(self) -> tuple[int, int | None]:  # noqa: N802 - the library's name
        """Answer the library's question at every tick."""
        if self._writing_id is None:
            return SERIALIZER_STATE.NOT_SERIALIZING, None
        if self._finished is None:
            return SERIALIZER_STATE.SERIALIZING, self._writing_id
        state = SERIALIZER_STATE.SUCCESS if self._finished else SERIALIZER_STATE.FAILED
        first_kept, self._writing_id, self._finished = self._writing_id, None, None
        return state, first_kept

    def serialize(self, data: tuple[Any, Entry, Entry, Any], first_kept: int) -> None:
        """Start a write: `data` is the library's (state, last entry, entry before it, nodes)."""
        self._writing_id = first_kept
        self._begin_write(data[1], data[2])

    def deserialize(self) -> tuple[None, Entry, Entry, tuple[()]]:
        """Load the newest snapshot into the state machine."""
        self.failure = None
        try:
            last, previous = self._load()
        except Exception as error:
            self.failure = error
            raise
        return None, last, previous, ()

    def getTransmissionData(self, _node: Node) -> tuple[bytes, bool, bool]:  # noqa: N802 - the library's name
        """Tell the library that the snapshot went out in one empty piece. The transport runs the real transfer.

        An answer of None would make it ask again, without a pause, for a whole heartbeat period.
        """
        return b"", True, True

    def setTransmissionData(self, data: object) -> bool:  # noqa: N802 - the library's name
        """Accept only the token that this process itself passes when a received snapshot is durable."""
        return data == INSTALLED

    def cancelTransmisstion(self, _node: Node) -> None:  # noqa: N802 - the library's name
        """Nothing is kept per node here."""
