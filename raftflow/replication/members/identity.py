"""The identity of a data directory: its cluster, its replica, its disk. One process at a time uses it.

```
DIR/identity     JSON with a checksum: format, cluster, replica, disk id, whether a journal was ever made here
DIR/peers        the disk ids of the other replicas (`members/introductions.py`)
DIR/lock         held with flock while a process uses the directory
DIR/journal/  DIR/snapshots/  DIR/audit/
```

A replica that comes back with an empty disk has forgotten its votes. It gets a new disk id, and its peers refuse it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from raftflow.replication.errors import LogFailedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from raftflow.replication.files import FileSystem, Lock

FORMAT: Final = 1
NAME_BYTES_MAX: Final = 255


class IdentityError(LogFailedError):
    """The data directory is of another replica, in use, or its identity is damaged. The message says what to do."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the `identity` file."""

    format: int
    cluster: str
    replica: str
    disk_id: str
    """Random, made with the directory. It distinguishes an emptied disk from the one that the peers know."""
    has_journal: bool
    """A journal was made here. If it is missing, it was lost."""


class _StoredIdentity(msgspec.Struct, frozen=True):
    identity: msgspec.Raw
    crc32: int


class _Format(msgspec.Struct, frozen=True):
    format: int


class DataDir:
    """A replica's data directory, locked. Create it with `DataDir.open`, end with `close`."""

    def __init__(self, fs: FileSystem, path: Path, identity: Identity, lock: Lock) -> None:
        """Use `open`."""
        self._fs = fs
        self._lock = lock
        self.path = path
        self.identity = identity
        self.journal_dir = path / "journal"
        self.snapshot_dir = path / "snapshots"
        self.audit_dir = path / "audit"

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        path: Path,
        cluster_id: str,
        replica_name: str,
        *,
        new_disk_id: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> DataDir:
        """Lock the directory and check its identity, or write this replica's identity if it is empty. Blocking.

        Raises `IdentityError` if it is another cluster's or replica's, of a newer format, in use, or damaged, and if
        the disk fails.
        """
        for name in (cluster_id, replica_name):
            if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
                raise ValueError(f"a cluster id or replica name must have 1 to {NAME_BYTES_MAX} bytes")
        try:
            fs.make_dir(path)
            try:
                lock = fs.lock(path / "lock")
            except BlockingIOError:
                raise IdentityError(
                    f"{path} is in use by another process. Stop that one first, or give this replica a directory "
                    f"of its own."
                ) from None
            try:
                data_dir = cls(fs, path, _load_or_create(fs, path, cluster_id, replica_name, new_disk_id), lock)
                for directory in (data_dir.journal_dir, data_dir.snapshot_dir, data_dir.audit_dir):
                    fs.make_dir(directory)
            except BaseException:
                lock.close()
                raise
        except OSError as error:
            raise IdentityError(
                f"cannot use {path}: {error}. Repair the disk or its permissions, then start again."
            ) from error
        return data_dir

    @property
    def disk_id(self) -> str:
        """The random id that this disk got at its first use."""
        return self.identity.disk_id

    @property
    def has_journal(self) -> bool:
        """Whether a journal was ever made here. If so, open it with `must_exist=True`."""
        return self.identity.has_journal

    def note_journal(self) -> None:
        """Record durably that the journal exists. Call it when the first `Journal.open` has succeeded."""
        if not self.identity.has_journal:
            identity = msgspec.structs.replace(self.identity, has_journal=True)
            try:
                store_identity(self._fs, self.path, identity)
            except OSError as error:
                raise IdentityError(f"cannot write {self.path / 'identity'}: {error}. Repair the disk.") from error
            self.identity = identity

    def is_there(self) -> bool:
        """Return False if the directory was moved, removed or replaced since it was opened."""
        return self._lock.is_there()

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()


def read_identity(fs: FileSystem, path: Path) -> Identity:
    """Read the identity of a data directory that is open. Blocking. Raises `IdentityError`."""
    file = path / "identity"
    try:
        return _decode(file, fs.read(file))
    except OSError as error:
        raise IdentityError(f"cannot read {file}: {error}. Repair the disk and start again.") from error


def store_file(fs: FileSystem, path: Path, data: bytes) -> None:
    """Replace a small file atomically and durably, or leave it as it was. Blocking. Raises `OSError`."""
    temporary = path.with_name(f"{path.name}.new")
    fs.remove(temporary)
    file = fs.open(temporary, create=True)
    try:
        file.write_at(0, data)
        file.sync()
    finally:
        file.close()
    fs.rename(temporary, path)
    fs.sync_dir(path.parent)


def _load_or_create(
    fs: FileSystem, path: Path, cluster_id: str, replica_name: str, new_disk_id: Callable[[], str]
) -> Identity:
    names = fs.list_dir(path)
    file = path / "identity"
    if "identity" not in names:
        for name in ("journal", "snapshots"):
            if name in names and fs.list_dir(path / name):
                raise IdentityError(
                    f"{path} holds a {name} directory but no identity file, so its owner is unknown. "
                    f"Restore the file, or give this replica an empty directory and a new name."
                )
        identity = Identity(
            format=FORMAT, cluster=cluster_id, replica=replica_name, disk_id=new_disk_id(), has_journal=False
        )
        store_identity(fs, path, identity)
        return identity
    identity = _decode(file, fs.read(file))
    if identity.cluster != cluster_id:
        raise IdentityError(
            f"{path} belongs to cluster {identity.cluster!r}, not {cluster_id!r}. Check the data directory and the "
            f"cluster id "
            f"in the configuration; never reuse another cluster's directory."
        )
    if identity.replica != replica_name:
        raise IdentityError(
            f"{path} belongs to replica {identity.replica!r}, not {replica_name!r}. Check the data directory and "
            f"the name in "
            f"the configuration; a new replica needs an empty directory."
        )
    return identity


def _decode(file: Path, data: bytes) -> Identity:
    try:
        stored = msgspec.json.decode(data, type=_StoredIdentity)
        raw = bytes(stored.identity)
        version = msgspec.json.decode(raw, type=_Format).format
        intact = crc32(raw) == stored.crc32
        identity = msgspec.json.decode(raw, type=Identity) if intact and version == FORMAT else None
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from None
    if not intact:
        raise _damaged(file, "it does not match its checksum")
    if identity is None:
        raise IdentityError(
            f"{file}: format {version}, but this program reads format {FORMAT}. Start the version of raftflow that "
            f"wrote it, or a newer one."
        )
    return identity


def _damaged(file: Path, what: str) -> IdentityError:
    return IdentityError(
        f"{file} is damaged: {what}. Restore it from a copy, or let this replica join again under a new name with "
        f"an empty directory."
    )


def store_identity(fs: FileSystem, path: Path, identity: Identity) -> None:
    """Write the identity of a data directory durably. Blocking. Raises `OSError`."""
    raw = msgspec.json.encode(identity)
    store_file(fs, path / "identity", msgspec.json.encode(_StoredIdentity(msgspec.Raw(raw), crc32(raw))))
