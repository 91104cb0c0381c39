"""The snapshot of a cluster: its whole state in one file, for the day on which the disks are lost.

```
prefix    magic "RFCLUSTR" | format u32 | header length u32 | crc32 u32 of these and the header
header    SnapshotLabel as JSON: `head -n 1 FILE | less` shows it
newline
body      a snapshot as a replica keeps it: replication/storage/snapshot_file.py
```

All numbers are little-endian. The body has a checksum for every block and one for the whole, which the label repeats.
So every byte of the file is covered.

A file is written under a temporary name, synced, checked, and renamed. So a file with its final name is whole.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self
from zlib import crc32

import msgspec

from raftflow import __version__
from raftflow.domain.features import LEVEL
from raftflow.domain.values.exact import UNREADABLE
from raftflow.replication.errors import LogFailedError
from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.storage import snapshot_file
from raftflow.replication.storage.snapshot_file import SnapshotInfo

if TYPE_CHECKING:
    from types import TracebackType

    from raftflow.domain.contract.views import SnapshotView
    from raftflow.machine.machine import Machine

MAGIC: Final = b"RFCLUSTR"
FORMAT: Final = 1
LABEL_BYTES_MAX: Final = 1024 * 1024
_PREFIX: Final = struct.Struct("<8sII")
_CRC: Final = struct.Struct("<I")
_HEAD_BYTES: Final = _PREFIX.size + _CRC.size
_COPIED_BYTES: Final = 1024 * 1024


class SnapshotFileError(Exception):
    """The file cannot be used as a snapshot of a cluster. Says why, and what to do."""


class SnapshotLabel(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot file says of itself."""

    cluster: str
    replica: str
    """The replica that wrote it."""
    taken_at_ms: int
    index: int
    """It contains everything up to this entry of the log."""
    term: int
    chain: str
    """Hex audit chain after that entry: the anchor from which the audit goes on."""
    feature_level: int
    members: list[str]
    size: int
    """Bytes of the body."""
    digest: str
    """Hex BLAKE2b-256 of the body's content."""
    recovered: bool = False
    """`raftflow recover` made it of a survivor: its last entries may never have been acknowledged."""
    version: str = __version__
    """Of the program that wrote it. For people."""

    @classmethod
    def of(cls, view: SnapshotView) -> SnapshotLabel:
        """Return the label of a snapshot that a replica gives out."""
        names = cls.__struct_fields__
        return cls(**{name: getattr(view, name) for name in names if name not in {"recovered", "version"}})


class SnapshotOrigin(NamedTuple):
    """Where a snapshot comes from."""

    cluster: str
    replica: str
    taken_at_ms: int
    recovered: bool = False


class _Body:
    """The body of the file, as the reader of a replica's snapshots takes it."""

    def __init__(self, path: Path, fd: int, start: int) -> None:
        self._path = path
        self._fd = fd
        self._start = start

    @property
    def path(self) -> Path:
        return self._path

    def size(self) -> int:
        return os.fstat(self._fd).st_size - self._start

    def read_at(self, offset: int, size: int) -> bytes:
        pieces: list[bytes] = []
        at = self._start + offset
        while size > 0 and (piece := os.pread(self._fd, size, at)):
            pieces.append(piece)
            at += len(piece)
            size -= len(piece)
        return b"".join(pieces)


class ClusterSnapshotFile:
    """A snapshot file that is open for reading. Use it in a `with`."""

    def __init__(self, path: Path) -> None:
        """Read and check the label. Raises `SnapshotFileError`, `OSError`."""
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.label, start = self._read_label()
        except BaseException:
            os.close(self._fd)
            raise
        self._body = _Body(path, self._fd, start)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def _read_label(self) -> tuple[SnapshotLabel, int]:
        prefix = os.pread(self._fd, _HEAD_BYTES, 0)
        if prefix[: len(MAGIC)] != MAGIC or len(prefix) < _HEAD_BYTES:
            raise self._error("is not a snapshot of a cluster", "`raftflow snapshot save` makes one")
        _, version, length = _PREFIX.unpack_from(prefix)
        if version != FORMAT:
            raise self._error(
                f"has snapshot format {version}, and this program reads format {FORMAT}",
                "use the version of raftflow that wrote it, or a newer one",
            )
        raw = os.pread(self._fd, min(length, LABEL_BYTES_MAX), _HEAD_BYTES)
        if (
            len(raw) != length
            or crc32(raw, crc32(prefix[: _PREFIX.size])) != _CRC.unpack_from(prefix, _PREFIX.size)[0]
        ):
            raise self._damaged("its label does not match its checksum")
        try:
            return msgspec.json.decode(raw, type=SnapshotLabel), _HEAD_BYTES + length
        except UNREADABLE as error:
            raise self._damaged(f"its label cannot be read: {error}") from error

    def check(self, level_max: int = LEVEL) -> SnapshotInfo:
        """Read everything and recompute every checksum. Returns what the body covers. Raises `SnapshotFileError`."""
        for _ in self.blocks():
            pass
        return self.info(level_max)

    def info(self, level_max: int = LEVEL) -> SnapshotInfo:
        """Return what the body covers. Raises `SnapshotFileError` also for a feature level that is too high."""
        label = self.label
        if label.feature_level > level_max:
            raise self._error(
                f"is of a cluster on feature level {label.feature_level}, and this program understands level "
                f"{level_max}",
                "use the version of raftflow that wrote it, or a newer one",
            )
        try:
            info, _, _ = snapshot_file.read_header(self.path, self._body)
        except LogFailedError as error:
            raise self._damaged(str(error)) from error
        if (info.index, info.term) != (label.index, label.term):
            raise self._damaged(f"its label is of entry {label.index}, its body of entry {info.index}")
        return info

    def blocks(self) -> Iterator[bytes]:
        """Yield the state, block by block, each checked, and check the whole at the end.

        Raises `SnapshotFileError`.
        """
        size = self._body.size()
        if size != self.label.size:
            what = "is cut off" if size < self.label.size else "has more bytes than it should"
            raise self._damaged(f"it {what}: its body has {size} of {self.label.size} bytes")
        try:
            _, header, offset = snapshot_file.read_header(self.path, self._body)
            yield from snapshot_file.read_blocks(self.path, self._body, header, offset)
            digest = snapshot_file.read_trailer(self.path, self._body)[2].hex()
        except LogFailedError as error:
            raise self._damaged(str(error)) from error
        if digest != self.label.digest:
            raise self._damaged("its body is not the one that its label names")

    def _damaged(self, what: str) -> SnapshotFileError:
        return self._error(f"is damaged: {what}", "use another copy or an older snapshot")

    def _error(self, what: str, advice: str) -> SnapshotFileError:
        return SnapshotFileError(f"{self.path} {what}; {advice}")


class ClusterSnapshotWriter:
    """Writes a snapshot file piece by piece. Use it in a `with`: without `finish` nothing is left behind."""

    def __init__(self, path: Path, label: SnapshotLabel) -> None:
        """Begin a file under a temporary name. Raises `SnapshotFileError` if another kind of file is there."""
        self.path = path
        _check_replaceable(path)
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        raw = msgspec.json.encode(label) + b"\n"
        prefix = _PREFIX.pack(MAGIC, FORMAT, len(raw))
        self._fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self.write(prefix + _CRC.pack(crc32(raw, crc32(prefix))) + raw)
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            self._discard()

    def write(self, piece: bytes) -> None:
        """Append a piece of the body. Raises `SnapshotFileError`."""
        view = memoryview(piece)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> SnapshotLabel:
        """Sync, check every checksum, and give the file its name. Raises `SnapshotFileError`, `OSError`."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._failed(error) from error
        with ClusterSnapshotFile(self._partial) as written:
            label = written.label
            for _ in written.blocks():
                pass
        self._partial.replace(self.path)
        fd, self._fd = self._fd, -1
        os.close(fd)
        _sync_directory(self.path.parent)
        return label

    def _failed(self, error: OSError) -> SnapshotFileError:
        return SnapshotFileError(
            f"{self.path} cannot be written: {error.strerror}; free space or choose another disk. The file that was "
            f"there before is as it was"
        )

    def _discard(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)
        self._partial.unlink(missing_ok=True)


def _check_replaceable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        return
    if magic != MAGIC:
        raise SnapshotFileError(f"{path} exists and is not a snapshot of a cluster; choose another name")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def save_machine(path: Path, machine: Machine, info: SnapshotInfo, origin: SnapshotOrigin) -> SnapshotLabel:
    """Write a snapshot file of a state that is at hand, without a replica. Raises `SnapshotFileError`, `OSError`."""
    fs = RealFileSystem()
    body_path = path.with_name(f".{path.name}.{os.getpid()}.body")
    try:
        _write_body(fs, body_path, machine, info)
        body = fs.open(body_path)
        label = SnapshotLabel(
            cluster=origin.cluster,
            replica=origin.replica,
            taken_at_ms=origin.taken_at_ms,
            index=info.index,
            term=info.term,
            chain=machine.chain.hex(),
            feature_level=machine.tables.feature_level,
            members=list(info.members),
            size=body.size(),
            digest=snapshot_file.read_trailer(body_path, body)[2].hex(),
            recovered=origin.recovered,
        )
        with ClusterSnapshotWriter(path, label) as writer:
            offset = 0
            while piece := body.read_at(offset, _COPIED_BYTES):
                writer.write(piece)
                offset += len(piece)
            body.close()
            return writer.finish()
    finally:
        body_path.unlink(missing_ok=True)
        fs.close()


def _write_body(fs: RealFileSystem, path: Path, machine: Machine, info: SnapshotInfo) -> None:
    file = fs.open(path, create=True)
    try:
        body = snapshot_file.SnapshotFileWriter(file, info)
        for piece in machine.snapshot():
            body.block(piece)
        body.finish()
    finally:
        file.close()
