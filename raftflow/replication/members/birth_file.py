"""The durable record of a birth: `DIR/birth`. See `members/births.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.identity import store_file

if TYPE_CHECKING:
    from pathlib import Path

    from raftflow.replication.files import FileSystem

FORMAT: Final = 1


class OrderRefusedError(LogFailedError):
    """The operator ordered a birth (`--bootstrap`) where a cluster exists already. The message says what to do."""


class BirthRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says."""

    format: int
    disk: str
    """The disk of the directory in which it was written."""
    stage: str | None = None
    """`seen` or `born`. None while only an order is recorded."""
    ordered: bool = False
    """The operator ordered a birth that has not happened yet."""
    met: bool = False
    """A born member was met: a peer with another disk than the known one was emptied."""
    whole: bool = False
    """This replica saw every listed member itself. For people who read the file."""
    level: int = 0
    """The lowest feature level of the founders."""
    founders: dict[str, str] = {}
    """Name to disk."""

    @property
    def born(self) -> bool:
        """Whether this replica is born."""
        return self.stage == "born"


class _StoredBirth(msgspec.Struct, frozen=True):
    birth: msgspec.Raw
    crc32: int


class BirthFile:
    """Reads and writes the record. `ordered_now` says whether this very start is one with `--bootstrap`."""

    def __init__(self, fs: FileSystem, data_dir: Path, *, ordered_now: bool = False) -> None:
        self._fs = fs
        self._path = data_dir / "birth"
        self.ordered_now = ordered_now

    def open(self, disk: str, *, has_data: bool) -> BirthRecord:
        """Return the record; an order of this start is recorded first. Blocking. Raises `LogFailedError`."""
        record = self.read(disk) or BirthRecord(format=FORMAT, disk=disk)
        if not self.ordered_now:
            return record
        if has_data or record.born:
            raise OrderRefusedError(
                f"--bootstrap is refused: {self._path.parent} holds data of a cluster. Start this replica without "
                f"--bootstrap, which is for the first start of a new cluster alone."
            )
        record = msgspec.structs.replace(record, ordered=True)
        try:
            self.write(record)
        except OSError as error:
            raise LogFailedError(f"cannot write {self._path}: {error}. Repair the disk and start again.") from error
        return record

    def read(self, disk: str) -> BirthRecord | None:
        """Return the record, None if there is no file. Blocking. Raises `LogFailedError`."""
        try:
            if self._path.name not in self._fs.list_dir(self._path.parent):
                return None
            data = self._fs.read(self._path)
        except OSError as error:
            raise LogFailedError(f"cannot read {self._path}: {error}. Repair the disk and start again.") from error
        try:
            stored = msgspec.json.decode(data, type=_StoredBirth)
            raw = bytes(stored.birth)
            record = msgspec.json.decode(raw, type=BirthRecord)
        except (ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from None
        if crc32(raw) != stored.crc32:
            raise self._damaged("it does not match its checksum")
        if record.format != FORMAT:
            raise LogFailedError(
                f"{self._path}: format {record.format}, but this program reads format {FORMAT}. Start the version of "
                f"raftflow that wrote it, or a newer one."
            )
        if record.disk != disk:
            raise LogFailedError(
                f"{self._path} was written on another disk than {self._path.parent / 'identity'}: a part of this "
                f"directory was removed or replaced. Put it back, or let this replica join under a new name with an "
                f"empty directory."
            )
        return record

    def write(self, record: BirthRecord) -> None:
        """Store the record durably. Blocking. Raises `OSError`."""
        raw = msgspec.json.encode(record)
        store_file(self._fs, self._path, msgspec.json.encode(_StoredBirth(msgspec.Raw(raw), crc32(raw))))

    def _damaged(self, what: str) -> LogFailedError:
        return LogFailedError(
            f"{self._path} is damaged: {what}. It records the cluster of this replica. "
            f"Restore the file from a copy, or let this replica join under a new name with an empty directory."
        )
