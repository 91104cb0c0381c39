"""The data directory of a replica whose state comes from elsewhere: the first replicas of a restored cluster.

The directory looks as if the replica had run before: a snapshot, a journal that begins with the snapshot's last two
entries (J3), the list of members of the first start. So the replica has data, is born, and may vote when it starts.
The members must be seeded from equal states, so that this first entry is the same on all of them.

`identity` is written last. Without it no replica starts on the directory, so one that was filled only half is never
used.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members import membership
from raftflow.replication.members.identity import FORMAT, Identity, store_identity
from raftflow.replication.messages import envelope
from raftflow.replication.storage.journal import Journal
from raftflow.replication.storage.snapshot_file import SnapshotFileWriter, SnapshotInfo
from raftflow.replication.storage.snapshot_store import SnapshotStore

if TYPE_CHECKING:
    from pathlib import Path

    from raftflow.replication.files import FileSystem
    from raftflow.replication.members.membership import Membership

_BLOCK_BYTES: Final = 128 * 1024
_SEGMENT_BYTES: Final = 256 * 1024
"""Of the journal's first segment, which holds two short entries. Later ones have the usual size."""


class DirectoryTakenError(LogFailedError):
    """The directory is not empty, or another process uses it. Nothing was written into it."""


class Seed(msgspec.Struct, frozen=True):
    """What a replica begins with."""

    cluster: str
    replica: str
    members: Membership
    index: int
    """Of the entry in the log that made the state."""
    term: int
    """The first election makes a later one."""


def seed_data_dir(
    fs: FileSystem, path: Path, seed: Seed, pieces: Iterator[bytes], write_audit: Callable[[Path], None]
) -> None:
    """Fill an empty directory. Blocking. Raises `DirectoryTakenError`.

    Raises `LogFailedError` and `OSError` with a directory that is filled only in part: no replica starts on it.

    Args:
        fs: the disk.
        path: the data directory; it may be missing.
        seed: position, cluster and members.
        pieces: the state.
        write_audit: writes what belongs into the audit's directory.
    """
    fs.make_dir(path)
    try:
        lock = fs.lock(path / "lock")
    except BlockingIOError:
        raise DirectoryTakenError(f"{path} is in use by another process") from None
    try:
        if names := [name for name in fs.list_dir(path) if name != "lock"]:
            raise DirectoryTakenError(
                f"{path} is not empty, it holds {', '.join(names[:5])}. A replica is restored into an empty "
                f"directory: move this one away, and keep it"
            )
        for name in ("journal", "snapshots", "audit"):
            fs.make_dir(path / name)
        entries = _entries(seed)
        _write_snapshot(fs, path / "snapshots", seed, entries, pieces)
        _write_journal(fs, path / "journal", seed, entries)
        write_audit(path / "audit")
        membership.load_first(fs, path, seed.members, replace=True)
        identity = Identity(
            format=FORMAT,
            cluster=seed.cluster,
            replica=seed.replica,
            disk_id=secrets.token_hex(16),
            has_journal=True,
        )
        store_identity(fs, path, identity)
    finally:
        lock.close()


def _entries(seed: Seed) -> tuple[tuple[bytes, int, int], tuple[bytes, int, int]]:
    """Return the log's two entries. They carry nothing: the state holds what they made."""
    return (envelope.NO_OP, seed.index - 1, seed.term), (envelope.NO_OP, seed.index, seed.term)


def _write_snapshot(
    fs: FileSystem,
    directory: Path,
    seed: Seed,
    entries: tuple[tuple[bytes, int, int], tuple[bytes, int, int]],
    pieces: Iterator[bytes],
) -> None:
    previous, last = entries
    info = SnapshotInfo(
        index=last[1],
        term=last[2],
        prev_index=previous[1],
        prev_term=previous[2],
        last_command=last[0],
        prev_command=previous[0],
        members=tuple(sorted(seed.members.voter_names)),
        membership=membership.encode(seed.members),
    )
    store = SnapshotStore(fs, directory)
    file = store.create_partial()
    writer = SnapshotFileWriter(file, info)
    for piece in pieces:
        for first in range(0, len(piece), _BLOCK_BYTES):
            writer.block(piece[first : first + _BLOCK_BYTES])
    writer.finish()
    store.install(file)


def _write_journal(
    fs: FileSystem, directory: Path, seed: Seed, entries: tuple[tuple[bytes, int, int], tuple[bytes, int, int]]
) -> None:
    journal = Journal.open(fs, directory, check_command=envelope.check, segment_bytes=_SEGMENT_BYTES)
    for entry in entries:
        journal.add(*entry)
    journal.setCurrentTerm(seed.term, None)
    journal.setRaftCommitIndex(seed.index)
    journal.close()
