"""Restoring a snapshot that is on disk: at the start, and after one came from the leader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members import membership

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.log import StateMachine
    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Entry
    from raftflow.replication.snapshot.compaction import SnapshotWriter
    from raftflow.replication.storage.snapshot_file import SnapshotInfo
    from raftflow.replication.storage.snapshot_store import SnapshotStore


class StateRestorer:
    """Restores the state machine and the list of members from a snapshot.

    Restoring has two halves. `read` builds the new state beside the old one; it may run in another thread. `restore`
    lets the library load the snapshot: the library sets its log to the snapshot's last two entries and calls `load`,
    which replaces the state.

    Args:
        machine: the state machine.
        store: the snapshots on disk.
    """

    def __init__(self, machine: StateMachine, store: SnapshotStore) -> None:
        self._machine = machine
        self._store = store
        self._raft: Raft | None = None
        self._writer: SnapshotWriter | None = None
        self._replace_state: Callable[[], None] | None = None
        self.loading: SnapshotInfo | None = None
        """The snapshot that is restored now, or was restored last."""

    def attach(self, raft: Raft, writer: SnapshotWriter) -> None:
        """Restore into this replica, and tell its `writer` which snapshot is the newest."""
        self._raft, self._writer = raft, writer

    def read(self, info: SnapshotInfo) -> Callable[[], None]:
        """Read a snapshot into a new state, blocking. Return the function that replaces the state by it.

        A snapshot that cannot be read raises when that function is called, inside the library's load (T5).
        """
        try:
            return self._machine.prepare(self._store.read(info))
        except Exception as error:  # noqa: BLE001 - raised by the function returned
            cause = error

            def fail() -> None:
                raise cause

            return fail

    def restore(self, info: SnapshotInfo, replace_state: Callable[[], None], let_load: Callable[[], None]) -> None:
        """Restore `info`, which `read` has read. `let_load` makes the library load; it calls `load` meanwhile.

        Raises `LogFailedError` if the snapshot cannot be restored.
        """
        raft, writer = self._attached()
        self.loading, self._replace_state = info, replace_state
        try:
            let_load()
        finally:
            self._replace_state = None
        failure = raft.snapshots.failure
        if failure is not None:
            raise LogFailedError(
                f"the snapshot of entry {info.index} cannot be restored: {failure}. Start the version of raftflow "
                f"that wrote it, or let this replica join again under a new name."
            ) from failure
        writer.note_installed(info.index)

    def load(self) -> tuple[Entry, Entry]:
        """Replace the state; called by the library while it loads. Return the snapshot's last two entries."""
        info, replace_state = self.loading, self._replace_state
        if info is None or replace_state is None:
            raise LogFailedError("bug: the library loads a snapshot that was not chosen")
        members = membership.decode(info.membership) if info.membership else None
        replace_state()
        self._attached()[0].members.rebase(members, info.index)
        previous, last = last_entries(info)
        return last, previous

    def _attached(self) -> tuple[Raft, SnapshotWriter]:
        if self._raft is None or self._writer is None:
            raise RuntimeError("a snapshot is restored before the replica is built")
        return self._raft, self._writer


def last_entries(info: SnapshotInfo) -> tuple[Entry, Entry]:
    """Return the last two entries of a snapshot, in their order. The log continues after them."""
    return (info.prev_command, info.prev_index, info.prev_term), (info.last_command, info.index, info.term)
