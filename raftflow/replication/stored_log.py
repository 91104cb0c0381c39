"""The log on the disk of a replica that does not run: what it holds, read without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members import membership
from raftflow.replication.members.identity import Identity, read_identity
from raftflow.replication.members.membership import Membership
from raftflow.replication.members.starts import PeerRecord, read_peer_records
from raftflow.replication.messages import envelope
from raftflow.replication.storage.records import Entry
from raftflow.replication.storage.recovery import recover
from raftflow.replication.storage.snapshot_file import SnapshotInfo
from raftflow.replication.storage.snapshot_store import SnapshotStore

if TYPE_CHECKING:
    from pathlib import Path

    from raftflow.replication.files import FileSystem, Lock


class StoredEntry(msgspec.Struct, frozen=True):
    """An entry of the state machine."""

    index: int
    term: int
    payload: bytes


class StoredLog:
    """The log of one replica, opened for reading. Close it: until then the replica cannot start."""

    def __init__(self, fs: FileSystem, path: Path, *, lock: bool = True) -> None:
        """Read everything but the states of snapshots. Blocking. Raises `LogFailedError`, `OSError`.

        Without `lock` a replica may run meanwhile, and its newest entries may be missing here.
        """
        self._fs = fs
        self.path = path
        if "identity" not in fs.list_dir(path):
            raise LogFailedError(f"{path} is not the data directory of a replica: it has no identity file")
        self._lock: Lock | None = None
        if lock:
            try:
                self._lock = fs.lock(path / "lock")
            except BlockingIOError:
                raise LogFailedError(f"{path} is in use: stop that replica first") from None
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        fs, path = self._fs, self.path
        self.identity: Identity = read_identity(fs, path)
        image = recover(fs, path / "journal", envelope.check).image
        self._entries: list[Entry] = image.entries
        self.term = image.term
        self._commit = image.commit
        self._store = SnapshotStore(fs, path / "snapshots", read_only=True)
        self.snapshots: list[SnapshotInfo] = self._store.valid()[0]
        self._check_reach()
        self.members: Membership = self._members()
        self.peers: dict[str, PeerRecord] = read_peer_records(fs, path)
        self.repairing = "repair" in fs.list_dir(path)

    def _check_reach(self) -> None:
        first = self._entries[0][1] if self._entries else 0
        newest = self.snapshots[0].index if self.snapshots else 0
        if first > newest + 1:
            raise LogFailedError(
                f"{self.path}: the log begins at entry {first} and the newest snapshot that can be read ends at "
                f"entry {newest}: what is between them is missing. Use another replica's directory or a snapshot"
            )

    @property
    def first_index(self) -> int:
        """Index of the first entry of the log; 0 without one. What came before is in a snapshot."""
        return self._entries[0][1] if self._entries else 0

    @property
    def last_index(self) -> int:
        """Index of the last entry that this replica has."""
        snapshot = self.snapshots[0].index if self.snapshots else 0
        return max(self._entries[-1][1] if self._entries else 0, snapshot)

    @property
    def last_term(self) -> int:
        """Term of the last entry."""
        snapshot = self.snapshots[0].term if self.snapshots else 0
        return max(self._entries[-1][2] if self._entries else 0, snapshot)

    @property
    def commit_index(self) -> int:
        """Entries up to this one are certainly committed; more may be."""
        snapshot = self.snapshots[0].index if self.snapshots else 0
        return max(min(self._commit, self.last_index), snapshot)

    def state_of(self, snapshot: SnapshotInfo) -> Iterator[bytes]:
        """Yield the state in a snapshot."""
        return self._store.read(snapshot)

    def entries_after(self, index: int) -> Iterator[StoredEntry]:
        """Yield the state machine's entries behind an index, those that may not be committed too."""
        for command, at, term in self._entries:
            if at > index and command != envelope.NO_OP and command[:1] != membership.MARK:
                yield StoredEntry(at, term, envelope.unseal(command))

    def _members(self) -> Membership:
        """Return the latest list of members, committed or not."""
        for command, _index, _term in reversed(self._entries):
            if command[:1] == membership.MARK:
                return membership.decode(command[1:])
        for snapshot in self.snapshots:
            if snapshot.membership:
                return membership.decode(snapshot.membership)
        if "members" in self._fs.list_dir(self.path):
            return membership.load_first(self._fs, self.path, Membership())
        return Membership()

    def close(self) -> None:
        """Release the directory. Safe to call twice."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
