"""The writing end of a journal: the segment that is appended to, its successor, and the removal of old ones.

Records are appended on the event loop. Blocking work runs in two threads: syncs and the start of a segment in one,
removal and the preparation of the next segment's file in the other. Nothing is appended while a segment is started.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING, Final

from raftflow.replication.storage import records
from raftflow.replication.storage.records import RecordBatch
from raftflow.replication.storage.recovery import JournalImage, Recovered, note_batch
from raftflow.replication.storage.segments import TEMPORARY_SUFFIX, Segment, fill, segment_name, start_segment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from raftflow.replication.files import FileSystem, OpenFile

SMALL_BYTES: Final = 256 * 1024
"""So many bytes are written in the time that a sync takes anyway."""


class SegmentWriter:
    """Appends records to the newest segment of a journal. Methods raise `OSError` if the disk does."""

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        recovered: Recovered,
        *,
        segment_bytes: int,
        on_error: Callable[[OSError], None],
    ) -> None:
        """Make what was read durable, remove leftovers and get ready to append, blocking.

        `on_error` learns of a failure in the background; the journal must stop then.
        """
        image, last = recovered.image, recovered.last
        self._fs = fs
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._on_error = on_error
        self._segments = recovered.segments
        self.written = JournalImage(image.next_index, image.base, image.commit, image.term, image.vote)
        """The state after the records so far, without entries; its `start` is the next index."""
        self.starting = False
        """A segment is being started off the loop: do not append."""

        self._lock = threading.Lock()  # held while a segment is started, and to hand over the spare
        self._upkeep_lock = threading.Lock()  # held by work in the background; taken before `_lock`
        self._temporaries = itertools.count(1)  # shared by two threads
        self._spare: OpenFile | None = None
        self._upkeep_task: asyncio.Task[None] | None = None
        self._closed = False
        self._retired: list[OpenFile] = []  # left behind, but a sync off the loop may still be queued on them
        self._syncing = False

        self._file: OpenFile
        self._offset = 0
        self._chain = 0
        self._durable_offset = 0
        self._watermark = 0

        for path in recovered.leftovers:
            fs.remove(path)
        fs.sync_dir(directory)
        if last is None:
            self._start_segment(1, 0)
            return
        self._file = fs.open(last.path)
        self._file.sync()
        self._offset = self._durable_offset = last.end
        self._chain = last.chain
        if last.torn is not None:
            self._file.close()
            self._start_segment(last.number + 1, last.end)

    def is_linked(self) -> bool:
        """Return False if the present segment was removed: writes to it are lost."""
        return self._file.is_linked()

    @property
    def unproven(self) -> bool:
        """True if there are durable records that no later record proves to be durable."""
        return self._durable_offset > self._watermark

    def append(self, batch: RecordBatch, written: JournalImage) -> None:
        """Write a record at the end, unsynced; `written` is the state after it. Raises `ValueError` if too long."""
        segment = self._segments[-1]
        data, chain = records.encode_record(
            batch, segment=segment.number, offset=self._offset, chain=self._chain, watermark=self._durable_offset
        )
        self._file.write_at(self._offset, data)
        self._watermark = self._durable_offset
        self._offset += len(data)
        self._chain = chain
        self.written = written
        if batch.flags & (records.RESET | records.CUT):
            note_batch(self._segments, batch)

    async def sync(self) -> None:
        """Make everything appended before the call durable, off the loop. One call at a time."""
        unneeded = self._unneeded()
        file, offset = self._file, self._offset
        self._syncing = True
        try:
            if offset >= self._segment_bytes:
                self.starting = True
                await self._fs.off_loop(self._sync_and_start_segment, urgent=True)
            else:
                await file.sync_off_loop()
        finally:
            self._syncing = False
            self._close_retired()
        if file is self._file:
            self._durable_offset = max(self._durable_offset, offset)
        self._start_upkeep(self._release(unneeded))

    def sync_if_quick(self) -> bool:
        """Make everything appended durable at once if it is little and the disk quick; False if it was not done."""
        if self._offset >= self._segment_bytes or self._offset - self._durable_offset > SMALL_BYTES:
            return False
        unneeded = self._unneeded()
        if not self._file.sync_if_quick():
            return False
        self._durable_offset = self._offset
        self._start_upkeep(self._release(unneeded))
        return True

    def sync_now(self) -> None:
        """Make everything appended durable, blocking. Afterwards no segment is being started."""
        with self._lock:
            unneeded = self._unneeded()
            self._file.sync()
            self._durable_offset = self._offset
            if self._offset >= self._segment_bytes:
                self._next_segment()
            self.starting = False
        if not self._syncing:
            self._close_retired()
        self._remove(self._release(unneeded))

    def close(self) -> None:
        """Close the files, after work that is under way; syncs nothing."""
        self._closed = True
        if self._upkeep_task is not None:
            self._upkeep_task.cancel()
        with self._upkeep_lock, self._lock:
            self._close_retired()
            self._file.close()
            if self._spare is not None:
                self._spare.close()

    def _close_retired(self) -> None:
        while self._retired:
            self._retired.pop().close()

    def _sync_and_start_segment(self) -> None:
        """Finish the segment and start the next. Runs off the loop; nothing is appended meanwhile."""
        with self._lock:
            if not self.starting:  # `sync_now` was quicker
                return
            try:
                self._file.sync()
                self._next_segment()
            finally:
                self.starting = False

    def _next_segment(self) -> None:
        """Start the next segment; the present one is synced. Then seal that, so that a lost successor shows."""
        old, offset, chain, number = self._file, self._offset, self._chain, self._segments[-1].number
        self._start_segment(number + 1, offset)
        seal = RecordBatch(
            flags=records.SEAL, commit=self.written.commit, term=self.written.term, vote=self.written.vote
        )
        data, _ = records.encode_record(seal, segment=number, offset=offset, chain=chain, watermark=offset)
        old.write_at(offset, data)
        self._retired.append(old)

    def _start_segment(self, number: int, end_before: int) -> None:
        """Start a segment whose opening record restates what is on disk."""
        file, self._spare = self._spare, None
        if file is None:
            file = self._make_spare()
        opening = self._opening(end_before)
        path = self._directory / segment_name(number)
        end, chain = start_segment(self._fs, file, path, number=number, opening=opening, chain=self._chain)
        file.close()
        self._file = self._fs.open(path)
        self._segments.append(Segment(number, path, opening.first_index))
        self._offset = self._durable_offset = self._watermark = end
        self._chain = chain

    def _opening(self, end_before: int) -> RecordBatch:
        """Restate what the records so far say; what the journal still buffers is not part of it."""
        written = self.written
        return RecordBatch(
            flags=records.OPENING,
            cut=end_before,
            base=written.base,
            commit=written.commit,
            term=written.term,
            vote=written.vote,
            first_index=written.start,
        )

    def _make_spare(self) -> OpenFile:
        """Create a temporary file full of zeros, durably."""
        file = self._fs.open(self._directory / f"{next(self._temporaries)}{TEMPORARY_SUFFIX}", create=True)
        try:
            fill(file, self._segment_bytes)
        except OSError:
            file.close()
            raise
        return file

    def _prepare_spare(self) -> None:
        """Have the next segment's file ready before it is needed. Runs off the loop, beside everything else."""
        with self._upkeep_lock:
            if self._spare is not None or self._closed:
                return
            file = self._make_spare()
            with self._lock:
                self._spare = file

    def _unneeded(self) -> list[Segment]:
        """Return the segments that hold no entry from the written base on; they can go once that is durable."""
        base, keep = self.written.base, 0
        for position, segment in enumerate(self._segments):
            if segment.first_index <= base:
                keep = position
        return self._segments[:keep]

    def _release(self, unneeded: list[Segment]) -> list[Segment]:
        """Drop segments from the list; returns those whose files are now to be removed."""
        released = [segment for segment in self._segments[:-1] if segment in unneeded]
        if released:
            del self._segments[: len(released)]
        return released

    def _remove(self, released: list[Segment]) -> None:
        """Remove the files of released segments, oldest first. After `close` they are left to the next start."""
        with self._upkeep_lock:
            if not released or self._closed:
                return
            for segment in released:
                self._fs.remove(segment.path)
            self._fs.sync_dir(self._directory)

    def _start_upkeep(self, released: list[Segment]) -> None:
        """Remove released segments and prepare the next one in the background, one such task at a time."""
        wants_spare = self._spare is None and self._offset >= self._segment_bytes // 2
        if not released and (not wants_spare or self._upkeep_task is not None):
            return
        before = self._upkeep_task

        async def upkeep() -> None:
            try:
                if before is not None:
                    await before
                await self._fs.off_loop(lambda: self._remove(released))
                if wants_spare:
                    await self._fs.off_loop(self._prepare_spare)
            except OSError as error:
                self._on_error(error)
            finally:
                if self._upkeep_task is asyncio.current_task():
                    self._upkeep_task = None

        self._upkeep_task = asyncio.create_task(upkeep())
