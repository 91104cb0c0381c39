"""The repair of a damaged replica: it takes the log from its peers again, and does not vote before that is safe.

RECOVERY.md says what can be repaired, what cannot, and why this is safe. In short: damaged files may be set aside if
the last term and vote of the replica (its hard state) are certain. The replica then begins with an empty log and
records durably that it is under repair. It neither votes nor stands for election until it holds, durably, a committed
entry of a later term than any in which it acknowledged something.

```
DIR/repair                       JSON with a checksum; exists while a repair is under way
DIR/*/<file>.damaged-<number>    files that were set aside; never read again
```
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.identity import DataDir, store_file
from raftflow.replication.messages.envelope import NO_OP
from raftflow.replication.storage import records
from raftflow.replication.storage.journal import Journal, JournalCorruptError
from raftflow.replication.storage.segments import REPAIR, JournalForeignError, parse_segment_name
from raftflow.replication.storage.snapshot_file import SnapshotCorruptError, SnapshotInfo
from raftflow.replication.storage.snapshot_store import SnapshotStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from raftflow.replication.files import FileSystem

FORMAT: Final = 1
RECORD_FILE: Final = "repair"
"""Exists in the data directory while a repair is under way."""
SET_ASIDE_MARK: Final = ".damaged-"
"""In the name of a damaged file that was set aside."""
MEMBERS_MIN: Final = 3
"""In a smaller cluster no majority is left without the replica that is being repaired."""
DAMAGED_MAX: Final = 9
"""How often files are set aside before the operator has to look at the disk."""

_log = logging.getLogger(__name__)


class RepairError(LogFailedError):
    """The replica cannot repair itself. The message says what to do."""


class HardState(msgspec.Struct, frozen=True):
    """The last term of a replica, and its vote in that term."""

    term: int
    vote: str | None


class _RepairRecord(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    term: int
    vote: str | None
    empty: bool
    """The damaged files are set aside and the new journal exists."""
    unsure: bool = False
    """The disk is an older copy: `term` may be too low, and `Repair.settle` raises it."""


class _StoredRepair(msgspec.Struct, frozen=True):
    repair: msgspec.Raw
    crc32: int


class OpenStorage(NamedTuple):
    """The opened storage from which a replica starts."""

    journal: Journal
    snapshots: SnapshotStore
    newest: SnapshotInfo | None
    """The snapshot to load. The journal begins with its last two entries."""
    repair: Repair | None
    """None for a replica that has everything that it acknowledged."""


class Repair:
    """A repair under way. `term` is the highest in which the replica can have promised anything before."""

    def __init__(self, fs: FileSystem, directory: Path, record: _RepairRecord) -> None:
        self._fs = fs
        self._directory = directory
        self._record = record

    @classmethod
    def begin(cls, fs: FileSystem, directory: Path, hard_state: HardState) -> Repair:
        """Record durably that this replica has promised more than its files show. Blocking.

        Raises `OSError`.
        """
        record = _RepairRecord(format=FORMAT, term=hard_state.term, vote=hard_state.vote, empty=True, unsure=True)
        repair = cls(fs, directory, record)
        repair._write()
        return repair

    @property
    def is_needless(self) -> bool:
        """True if the replica certainly never promised anything: it is fresh (births.py), and nothing is lost."""
        return (self._record.term, self._record.vote, self._record.unsure) == (0, None, False)

    @property
    def unsure(self) -> bool:
        """True while it is not known how high the terms are in which the replica has promised something."""
        return self._record.unsure

    def doubt(self) -> None:
        """Record durably that the term is unknown, because the disk is an older copy. Blocking. Raises `OSError`."""
        self._record = msgspec.structs.replace(self._record, unsure=True)
        self._write()

    def settle(self, term: int) -> None:
        """Record durably that nothing was promised in a term above `term`. Blocking. Raises `OSError`."""
        self._record = msgspec.structs.replace(self._record, term=max(self._record.term, term), unsure=False)
        self._write()

    def _write(self) -> None:
        _write_record(self._fs, self._directory, self._record)

    @property
    def term(self) -> int:
        """An entry of a later term, committed and held durably, ends the repair."""
        return self._record.term

    def finish(self) -> None:
        """Record durably that the replica is whole. Blocking. Raises `OSError`."""
        self._fs.remove(self._directory / RECORD_FILE)
        self._fs.sync_dir(self._directory)


class StorageOpener:
    """Opens journal and snapshots, and begins a repair if they are damaged and that is safe.

    Args:
        fs: the disk.
        data: the open data directory.
        check_command: see `Journal.open`.
        segment_bytes: see `Journal.open`.
        clock: see `SnapshotStore`.
        members: how many replicas the cluster has.
    """

    def __init__(
        self,
        fs: FileSystem,
        data: DataDir,
        *,
        check_command: Callable[[bytes], None],
        segment_bytes: int,
        clock: Callable[[], float],
        members: int,
    ) -> None:
        self._fs = fs
        self._data = data
        self._check = check_command
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._members = members
        self._journal: Journal | None = None

    def open(self) -> OpenStorage:
        """Open everything, blocking. Raises `LogFailedError` that says what to do."""
        try:
            record = self._read_record()
            if record is not None and not record.empty:
                record = self._restart_empty(record)  # it was interrupted
            try:
                return self._open(record)
            except (JournalCorruptError, SnapshotCorruptError) as error:
                hard_state = self._hard_state_despite(error)
                _log.error("%s", str(error).removesuffix(REPAIR))  # its advice is carried out now
                first = _RepairRecord(format=FORMAT, term=hard_state.term, vote=hard_state.vote, empty=False)
                if record is not None:  # the journal of an older copy lacks what was promised later
                    first = msgspec.structs.replace(first, term=max(first.term, record.term), unsure=record.unsure)
                return self._open(self._restart_empty(first))
        except OSError as error:
            raise LogFailedError(
                f"cannot use {self._data.path}: {error}. Free space or repair the disk, then start again."
            ) from error

    def _open(self, record: _RepairRecord | None) -> OpenStorage:
        data = self._data
        self._journal = journal = self._open_journal()
        data.note_journal()
        if journal.recovered is not None:
            _log.warning("%s", journal.recovered)
        store = SnapshotStore(self._fs, data.snapshot_dir, clock=self._clock)
        newest = store.load_newest(journal.first_index)
        if newest is not None:
            # J3: the log begins with the last two entries of the snapshot, or the library would throw the log away.
            journal.align(
                (newest.prev_command, newest.prev_index, newest.prev_term),
                (newest.last_command, newest.index, newest.term),
            )
        repair = None if record is None else Repair(self._fs, data.path, record)
        if repair is not None and repair.is_needless:
            repair.finish()
            repair = None
        return OpenStorage(journal, store, newest, repair)

    def _open_journal(self) -> Journal:
        return Journal.open(
            self._fs,
            self._data.journal_dir,
            check_command=self._check,
            segment_bytes=self._segment_bytes,
            must_exist=self._data.has_journal,
        )

    def _hard_state_despite(self, error: LogFailedError) -> HardState:
        """Return the last term and vote. If they are unknown, raise `error` or what prevents the repair."""
        journal, self._journal = self._journal, None
        if isinstance(error, JournalForeignError):
            raise error
        if self._members < MEMBERS_MIN:
            raise RepairError(
                f"{error} It cannot repair itself: a cluster of {self._members} has no majority without it."
            ) from error
        if journal is not None:
            hard_state = HardState(journal.getCurrentTerm(), journal.getVotedForNodeId())
            journal.close()
            return hard_state
        found = last_hard_state(self._fs, self._data.journal_dir)
        if found is None:
            raise RepairError(
                f"{error} It cannot repair itself: the damage may hide the last term in which it voted."
            ) from error
        return found

    def _restart_empty(self, record: _RepairRecord) -> _RepairRecord:
        """Set the damaged files aside and start a journal that holds only the term and the vote."""
        fs, data = self._fs, self._data
        self._write_record(record)
        segments = [name for name in fs.list_dir(data.journal_dir) if parse_segment_name(name) is not None]
        self._set_aside(data.journal_dir, segments)
        store = SnapshotStore(fs, data.snapshot_dir, clock=self._clock)
        self._set_aside(data.snapshot_dir, store.damaged())
        journal = Journal.open(
            fs, data.journal_dir, check_command=self._check, segment_bytes=self._segment_bytes, must_exist=False
        )
        journal.add(NO_OP, 1, 0)  # as in every new log; the library would give it the present term
        journal.setCurrentTerm(record.term, record.vote)
        journal.sync_now()
        journal.close()
        done = msgspec.structs.replace(record, empty=True)
        self._write_record(done)
        _log.warning(
            "the log of %s is taken from the other replicas again; until then this replica does not vote. "
            "The damaged files are kept in %s, with names *.damaged-*. Check the disk.",
            data.identity.replica,
            data.path,
        )
        return done

    def _set_aside(self, directory: Path, names: list[str]) -> None:
        """Rename files durably to names that are never read."""
        taken = set(self._fs.list_dir(directory))
        for name in names:
            free = (f"{name}{SET_ASIDE_MARK}{number}" for number in range(1, DAMAGED_MAX + 1))
            target = next((new for new in free if new not in taken), None)
            if target is None:
                raise RepairError(
                    f"{directory / name} was damaged {DAMAGED_MAX} times before. Check the disk, then remove "
                    f"the files *.damaged-* and start again."
                )
            self._fs.rename(directory / name, directory / target)
        self._fs.sync_dir(directory)

    # The record.

    def _read_record(self) -> _RepairRecord | None:
        file = self._data.path / RECORD_FILE
        if file.name not in self._fs.list_dir(self._data.path):
            return None
        try:
            stored = msgspec.json.decode(self._fs.read(file), type=_StoredRepair)
            raw = bytes(stored.repair)
            record = msgspec.json.decode(raw, type=_RepairRecord)
        except ValueError as error:
            raise _damaged(file, str(error)) from None
        if crc32(raw) != stored.crc32:
            raise _damaged(file, "it does not match its checksum")
        if record.format != FORMAT:
            raise RepairError(
                f"{file}: format {record.format}, but this program reads format {FORMAT}. Start the version of "
                f"raftflow that wrote it, or a newer one."
            )
        return record

    def _write_record(self, record: _RepairRecord) -> None:
        _write_record(self._fs, self._data.path, record)


def _write_record(fs: FileSystem, directory: Path, record: _RepairRecord) -> None:
    raw = msgspec.json.encode(record)
    store_file(fs, directory / RECORD_FILE, msgspec.json.encode(_StoredRepair(msgspec.Raw(raw), crc32(raw))))


def last_hard_state(fs: FileSystem, directory: Path) -> HardState | None:
    """Return term and vote of the last record of a damaged journal, or None if a later one may be lost.

    Every record carries both, and the term never falls. So it is enough that the newest segment's last record is
    whole, that behind it nothing was ever written, and that no later segment was started. Raises `OSError`.
    """
    numbered = [(number, name) for name in fs.list_dir(directory) if (number := parse_segment_name(name)) is not None]
    if not numbered:
        return None
    number, name = max(numbered)
    data = fs.read(directory / name)
    try:
        version, filled = records.decode_prefix(data)
    except ValueError:
        return None
    if version != records.FORMAT or len(data) < filled:
        return None
    end = len(data.rstrip(b"\0"))
    last: records.RecordBatch | None = None
    at = data.find(records.MAGIC_BYTES)
    while at >= 0:
        header = records.decode_header(data, at, segment=number)
        payload = None if header is None else records.read_payload(data, at, header, segment=number)
        if header is not None and payload is not None:
            last = records.decode_payload(payload)
            if at + header.record_bytes < end:
                last = None  # something stands behind it: one more record, or the rest of one
                at = data.find(records.MAGIC_BYTES, at + header.record_bytes)
                continue
            break
        at = data.find(records.MAGIC_BYTES, at + 1)
    if last is None or last.flags & records.SEAL:
        return None
    return HardState(last.term, last.vote)


def _damaged(file: Path, what: str) -> RepairError:
    return RepairError(
        f"{file} is damaged: {what}. It records that this replica is under repair. Move the data directory away and "
        f"let the replica join again under a new name."
    )
