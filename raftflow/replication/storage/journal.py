"""The journal: the Raft log, term and vote on disk, in the shape that PySyncObj drives.

What may live here: buffering, sequence numbers, when to write and to sync, compaction. The bytes are in `records`,
the files in `segments` and `writer`, reading them back in `recovery`.

- **Batches.** Changes are applied to the log in memory at once and buffered for the disk. `flush` writes all of them
  as one record, so a truncation and the entries that replace what was cut are on disk together or not at all.
- **Sequence numbers.** `write_seq` grows with every change that somebody may rely on; `durable_seq` follows when a
  sync has covered it. The gate in front of the network holds a message back until `durable_seq` has reached the
  `write_seq` (or `term_seq`) of the moment in which the message was made.
- **Failure.** After a failed write or sync the journal has failed for ever: Linux may have dropped the pages and
  report success next time. Only a new `open`, which reads the disk again, tells what is there.
- **Compaction.** `deleteEntriesTo` records the new base; segments without entries above it are removed once that
  record is durable. Nothing is ever rewritten.
- The commit index is advisory: it rides along with other records and is capped to the last entry at opening.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, overload

from raftflow.replication.errors import LogFailedError
from raftflow.replication.storage import records
from raftflow.replication.storage.records import Entry, RecordBatch
from raftflow.replication.storage.recovery import JournalImage, Recovered, recover
from raftflow.replication.storage.segments import JournalCorruptError
from raftflow.replication.storage.writer import SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from raftflow.replication.files import FileSystem

__all__ = ["Entry", "Journal", "JournalCorruptError"]

SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""A segment is followed by a new one when it has grown past this; a single batch is never split."""


class Journal:
    """A log of entries with term and vote, durable on request. Create it with `Journal.open`.

    All methods are called from the event loop's thread. Positions count from the first entry kept (`journal[0]`), as
    PySyncObj uses them; indexes are those of the Raft log.
    """

    def __init__(self, fs: FileSystem, directory: Path, recovered: Recovered, segment_bytes: int) -> None:
        """Use `open`."""
        self._directory = directory
        image = recovered.image
        self._log: list[Entry] = image.entries
        self._term = image.term
        self._vote = image.vote
        self._commit = image.commit
        self._base = image.base

        self.write_seq = 0
        """Number of the latest buffered change that matters for safety: entries, truncations, term and vote."""
        self.durable_seq = 0
        """Every change up to this number is on disk."""
        self.term_seq = 0
        """`write_seq` of the latest change of term or vote."""
        self.durable_index = 0
        """Highest log index that is on disk and has not been truncated since."""
        self.recovered: str | None = None
        """What opening cut off, for the operator's log; None if the end was clean."""

        self._pending = RecordBatch()
        self._dirty = False
        self._flushed_seq = 0
        self._flushed_index = 0
        self._syncing_index = 0
        self._next_index = image.next_index  # 0: any

        self._sync_task: asyncio.Task[None] | None = None
        self._failure: LogFailedError | None = None
        self._closed = False

        self._commit = min(max(self._commit, 1), max(self.last_index, 1))
        self._writer = SegmentWriter(
            fs, directory, recovered, segment_bytes=segment_bytes, on_error=self._upkeep_failed
        )
        if recovered.last is not None:
            self.recovered = recovered.last.torn
        self._syncing_index = self._flushed_index = self.durable_index = self.last_index

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        directory: Path,
        *,
        check_command: Callable[[bytes], None],
        segment_bytes: int = SEGMENT_BYTES,
        must_exist: bool = False,
    ) -> Journal:
        """Open or create the journal in `directory`, blocking.

        `check_command` sees the command of every entry and raises `ValueError` for one that is not in the canonical
        envelope. With `must_exist` an empty directory is an error: the replica had a journal there.

        Raises `JournalCorruptError` when the journal is damaged, `LogFailedError` when it is of another format or the
        disk fails.
        """
        try:
            fs.make_dir(directory)
            recovered = recover(fs, directory, check_command)
            if recovered.last is None and must_exist:
                raise JournalCorruptError(
                    f"{directory}: the journal is missing, but this replica had one. It must not vote without "
                    f"it: restore the files, or let it join again under a new name."
                )
            journal = cls(fs, directory, recovered, segment_bytes)
        except OSError as error:
            raise LogFailedError(
                f"cannot open the journal in {directory}: {error}. Repair the disk and start again."
            ) from error
        return journal

    # What PySyncObj calls.

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry. Its index must be the next one; the first entry of an empty log may have any."""
        if self._next_index not in (0, idx):
            raise LogFailedError(f"bug: entry {idx} added where entry {self._next_index} must come")
        if type(command) is not bytes:
            raise TypeError(f"a command must be bytes, not {type(command).__name__}")
        if not self._log:
            self._base = idx
        entry = (command, idx, term)
        self._log.append(entry)
        self._next_index = idx + 1
        self._pending.entries.append(entry)
        self.write_seq += 1
        self._dirty = True

    def clear(self) -> None:
        """Forget every entry. With the `add`s that follow before the next `flush` this is one atomic change."""
        self._log = []
        self._pending = RecordBatch(flags=records.RESET)
        self.durable_index = self._flushed_index = self._syncing_index = 0
        self._base = self._next_index = 0
        self.write_seq += 1
        self._dirty = True

    def deleteEntriesFrom(self, entryFrom: int) -> None:  # noqa: N802, N803 - PySyncObj's name
        """Forget the entries from this position on."""
        if not 0 <= entryFrom < len(self._log):
            return
        cut = self._log[entryFrom][1]
        del self._log[entryFrom:]
        pending = self._pending
        kept = [entry for entry in pending.entries if entry[1] < cut]
        if not kept and not pending.flags & records.RESET:
            pending.cut = min(pending.cut, cut) if pending.flags & records.CUT else cut
            pending.flags |= records.CUT
        pending.entries = kept
        self._next_index = cut
        self.durable_index = min(self.durable_index, cut - 1)
        self._flushed_index = min(self._flushed_index, cut - 1)
        self._syncing_index = min(self._syncing_index, cut - 1)
        self.write_seq += 1
        self._dirty = True

    def deleteEntriesTo(self, entryTo: int) -> None:  # noqa: N802, N803 - PySyncObj's name
        """Forget the entries before this position. The caller has a durable snapshot that covers them."""
        if entryTo <= 0:
            return
        if entryTo >= len(self._log):
            raise LogFailedError(f"bug: compaction of {entryTo} of {len(self._log)} entries would leave none")
        self._base = self._pending.base = self._log[entryTo][1]
        self._pending.flags |= records.BASE
        del self._log[:entryTo]
        self.write_seq += 1
        self._dirty = True

    @overload
    def __getitem__(self, item: int) -> Entry: ...
    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...
    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        return self._log[item]

    def __len__(self) -> int:
        return len(self._log)

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:  # noqa: N802, N803 - PySyncObj's name
        """Note the commit index; it is written along with the next record, at the latest by the timer."""
        self._commit = raftCommitIndex

    def getRaftCommitIndex(self) -> int:  # noqa: N802 - PySyncObj's name
        """Return the commit index; after opening never above the last entry."""
        return self._commit

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:  # noqa: N802, N803 - PySyncObj's name
        """Set term and vote. They are durable once `durable_seq` reaches `term_seq`."""
        if votedForNodeId is not None and not isinstance(votedForNodeId, str):
            raise TypeError(f"a node id must be a string, not {type(votedForNodeId).__name__}")
        self._term = term
        self._vote = votedForNodeId
        self.write_seq += 1
        self.term_seq = self.write_seq
        self._dirty = True

    def getCurrentTerm(self) -> int:  # noqa: N802 - PySyncObj's name
        """Return the current term."""
        return self._term

    def getVotedForNodeId(self) -> str | None:  # noqa: N802 - PySyncObj's name
        """Return the vote of this replica in the current term."""
        return self._vote

    def onOneSecondTimer(self) -> None:  # noqa: N802 - PySyncObj's name
        """Write a moved commit index, and the proof that the last synced records were durable (see `segments`)."""
        if self._commit != self._writer.written.commit or self._writer.unproven:
            self._dirty = True
        self.flush()

    def _destroy(self) -> None:
        """Close, as the library calls it."""
        self.close()

    # What the engine calls.

    @property
    def first_index(self) -> int:
        """Index of the first entry kept; 0 for an empty log."""
        return self._log[0][1] if self._log else 0

    @property
    def last_index(self) -> int:
        """Index of the last entry; 0 for an empty log."""
        return self._log[-1][1] if self._log else 0

    @property
    def last_term(self) -> int:
        """Term of the last entry; 0 for an empty log."""
        return self._log[-1][2] if self._log else 0

    @property
    def failure(self) -> LogFailedError | None:
        """Why the journal has stopped for ever, or None."""
        return self._failure

    def flush(self) -> None:
        """Write everything buffered as one record, without syncing. Raises `LogFailedError`.

        While a new segment is being started the changes stay buffered: the sync under way, or the next, writes them.
        """
        if self._failure is not None:
            raise self._failure
        if self._dirty and not self._writer.starting:
            self._write()

    async def sync(self) -> None:
        """Make everything buffered so far durable without blocking the loop. Raises `LogFailedError`.

        Callers that arrive while a sync runs share the next one.
        """
        self.flush()
        target = self.write_seq
        while self.durable_seq < target:
            if self._sync_task is None:
                self._sync_task = asyncio.create_task(self._sync_once())
            await asyncio.shield(self._sync_task)
            if self._failure is not None:
                raise self._failure

    def sync_if_quick(self) -> bool:
        """Make everything buffered so far durable at once if that takes hardly any time. Raises `LogFailedError`.

        False if it was not done: while another sync runs, if much was written, or if the disk is not quick.
        """
        if self._sync_task is not None or self._writer.starting:
            return False
        self.flush()
        seq, index = self._flushed_seq, self._flushed_index
        try:
            if not self._writer.sync_if_quick():
                return False
        except OSError as error:
            raise self._fail("sync", error) from error
        self._syncing_index = index
        self._note_durable(seq)
        return True

    def sync_now(self) -> None:
        """Make everything buffered so far durable, blocking: for start and end. Raises `LogFailedError`."""
        if self._writer.starting:
            self._sync_writer()  # or the flush would be held back
        self.flush()
        seq, self._syncing_index = self._flushed_seq, self._flushed_index
        self._sync_writer()
        self._note_durable(seq)

    def align(self, prev_entry: Entry, last_entry: Entry) -> None:
        """Make the log begin with the last two entries of the snapshot that is about to be loaded; durable on return.

        Keeps what follows them if the log holds both. A log that ends before or inside the snapshot, or that has
        other entries at these indexes, is replaced by the two. Raises `LogFailedError` if the log begins behind the
        snapshot: the entries between are lost, and an older snapshot must not hide that.
        """
        prev_index, last_index = prev_entry[1], last_entry[1]
        if last_index != prev_index + 1:
            raise ValueError(f"entries {prev_index} and {last_index} do not follow each other")
        if self._log and self.first_index > prev_index:
            raise JournalCorruptError(
                f"{self._directory}: the log begins at entry {self.first_index}, but the newest usable snapshot "
                f"ends at entry "
                f"{last_index}: what is between them is missing. Let this replica join again from its peers under a "
                f"new name."
            )
        position = prev_index - self.first_index
        if self._log and self._log[position : position + 2] == [prev_entry, last_entry]:
            self.deleteEntriesTo(position)
        else:
            self.clear()
            self.add(*prev_entry)
            self.add(*last_entry)
        self._commit = max(min(self._commit, self.last_index), last_index)
        self.sync_now()

    def is_there(self) -> bool:
        """Return False if the present file was removed: entries acknowledged after that would be lost."""
        return self._writer.is_linked()

    def close(self) -> None:
        """Sync, leave the proof that everything was durable, and close. Safe to call twice and after a failure."""
        if self._closed:
            return
        try:
            if self._failure is None:
                self.sync_now()
                self.onOneSecondTimer()
                self.sync_now()
        finally:
            self._closed = True
            if self._failure is None:
                self._failure = LogFailedError(f"the journal in {self._directory} is closed")
            self._writer.close()

    # Writing.

    def _write(self) -> None:
        """Write the buffered batch at the end of the segment."""
        batch = self._pending
        batch.commit, batch.term, batch.vote = self._commit, self._term, self._vote
        try:
            self._writer.append(
                batch, JournalImage(self._next_index, self._base, self._commit, self._term, self._vote)
            )
        except (OSError, ValueError) as error:
            raise self._fail("write", error) from error
        self._pending = RecordBatch()
        self._dirty = False
        self._flushed_seq = self.write_seq
        self._flushed_index = self.last_index

    async def _sync_once(self) -> None:
        """Run one sync; the outcome is in `durable_seq` or in `_failure`."""
        try:
            self.flush()
            seq, self._syncing_index = self._flushed_seq, self._flushed_index
            await self._writer.sync()
            self._note_durable(seq)
        except OSError as error:
            self._fail("sync", error)
        except LogFailedError:
            pass  # recorded by _fail; every waiter raises it
        finally:
            self._sync_task = None

    def _sync_writer(self) -> None:
        try:
            self._writer.sync_now()
        except OSError as error:
            raise self._fail("sync", error) from error

    def _note_durable(self, seq: int) -> None:
        self.durable_seq = max(self.durable_seq, seq)
        self.durable_index = max(self.durable_index, self._syncing_index)

    def _upkeep_failed(self, error: OSError) -> None:
        self._fail("tend", error)

    def _fail(self, what: str, error: Exception) -> LogFailedError:
        """Stop for ever; return the error to raise."""
        if self._failure is None:
            self._failure = LogFailedError(
                f"cannot {what} the journal in {self._directory}: {error}. This replica has stopped; what it had "
                f"acknowledged is "
                f"on disk. Free space or repair the disk, then start it again."
            )
            self._failure.__cause__ = error
        return self._failure
