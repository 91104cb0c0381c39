"""What attempts wrote: a directory each, kept within bounds also over restarts, read for logs."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import msgspec

from raftflow.agent.output.log_index import BeginRecord, EndRecord, LogIndex, Record, StoredRecord
from raftflow.agent.output.stream_file import (
    LiveFile,
    StreamPiece,
    keep_stream,
    read_stream,
    stream_start,
    write_times,
)
from raftflow.agent.workdir.directory import ATTEMPTS, WORKERS, WorkDirectory
from raftflow.agent.workdir.files import CaptureFolder, UnfitFileError, open_file, opened_below
from raftflow.domain.contract.views import Assignment

_log = logging.getLogger("raftflow.agent.logs")

StreamName = Literal["stdout", "stderr"]
STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")
INDEX = "logs.index"
_REMOVALS_MAX = 64
"""Attempts whose output is removed in one step; the next step comes within a second."""
_RECORDS_MIN = 4_096


class KeptOutput(msgspec.Struct):
    """Output of one attempt that has ended."""

    began: BeginRecord
    ended: EndRecord
    is_found: bool = False
    """The agent or its launcher was killed while it ran: the files tell how much there is."""
    is_stored: bool = False


class RunningOutput(msgspec.Struct):
    """A running attempt."""

    began: BeginRecord
    files: tuple[LiveFile, LiveFile] | None
    """Set if its output is captured elsewhere until it ends."""


class OutputPiece(msgspec.Struct, frozen=True):
    """A piece of a stream."""

    data: bytes
    offset: int
    """Byte at which it begins; what lies between the wanted one and it is not kept."""
    size: int
    """Bytes written so far, kept or not."""
    truncated: bool
    """Some of these are not kept."""
    complete: bool
    """The attempt has ended."""


class OutputStore:
    """The directories `attempts/<fence>` of a work directory."""

    def __init__(
        self, work: WorkDirectory, *, count_max: int, bytes_max: int, age_max_s: float, output_bytes_max: int
    ) -> None:
        self._work = work
        self._root = work.part(ATTEMPTS)
        self._trash = work.trash
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._age_max_ms = int(age_max_s * 1000)
        self._output_bytes_max = output_bytes_max
        self._live: dict[int, RunningOutput] = {}
        self._kept: OrderedDict[int, KeptOutput] = OrderedDict()
        self._silent: OrderedDict[int, KeptOutput] = OrderedDict()
        """Ended attempts that wrote nothing: they must not push out those that did."""
        self._bytes = 0
        self.on_kept: Callable[[KeptOutput], None] | None = None
        """Called with each attempt that has ended and wrote something."""
        self.on_removed: Callable[[int], None] | None = None
        """Called with the fence of each whose output is removed."""
        self._index = LogIndex(work.part(INDEX))
        self._recover()

    def directory(self, fence: int) -> str:
        """Return the attempt's directory. It may be missing."""
        return f"{self._root}/{fence}"

    def began(self, assignment: Assignment, files: tuple[LiveFile, LiveFile] | None = None, worker: str = "") -> None:
        """Remember a running attempt; `files` and `worker` are given if a worker captures its output."""
        fence = assignment.fence
        # The same number as in an earlier cluster: the directory belongs to that one.
        if self._silent.pop(fence, None) is None and fence in self._kept:
            self._remove(fence)
        began = BeginRecord(
            fence,
            assignment.workflow_id,
            assignment.task_id,
            assignment.attempt,
            _now_ms(),
            worker.rpartition("/")[2],
        )
        self._live[fence] = RunningOutput(began, files)
        self._index.add(began)

    def ended(self, fence: int, sizes: tuple[int, int], truncated: tuple[bool, bool]) -> None:
        """The attempt ended. Its directory is kept if it wrote something, for a while."""
        running = self._live.pop(fence, None)
        if running is None:
            return
        sizes = (max(sizes[0], 0), max(sizes[1], 0))  # a worker may tell anything
        ended = EndRecord(fence, _now_ms(), sizes, truncated)
        self._index.add(ended)
        for name, live in zip(STREAMS, running.files, strict=True) if running.files is not None else ():
            if live.times:
                with contextlib.suppress(OSError, UnfitFileError):
                    write_times(self.directory(fence), name, live.times)
        self._finish(KeptOutput(running.began, ended))

    def broke_off(self, fence: int) -> None:
        """The attempt ended, and nobody counted what it wrote: its files tell."""
        running = self._live.pop(fence, None)
        if running is not None:
            ended = self._rescue(running.began, is_there=True)
            self._index.add(ended)
            self._finish(KeptOutput(running.began, ended, is_found=True))

    def _finish(self, kept: KeptOutput) -> None:
        fence = kept.began.fence
        self._keep(kept)
        if fence not in self._kept:
            return
        self.prune()
        if self.on_kept is not None and fence in self._kept:
            self.on_kept(kept)

    def _keep(self, kept: KeptOutput) -> None:
        fence = kept.began.fence
        if any(kept.ended.sizes) or any(kept.ended.truncated):
            self._kept[fence] = kept
            self._bytes += self._room(kept.ended.sizes)
            return
        self._silent[fence] = kept
        if len(self._silent) > self._count_max:
            self._silent.popitem(last=False)

    def _room(self, sizes: tuple[int, int]) -> int:
        """Return about how many bytes are kept of streams of these sizes."""
        return sum(min(size, self._output_bytes_max) for size in sizes)

    def prune(self) -> None:
        """Remove what is too much or too old, the oldest first, a bounded part of it at a time."""
        oldest_ms = _now_ms() - self._age_max_ms
        for _ in range(_REMOVALS_MAX):
            if not self._kept:
                break
            fence, kept = next(iter(self._kept.items()))
            is_young = kept.ended.at_ms >= oldest_ms
            if len(self._kept) <= self._count_max and self._bytes <= self._bytes_max and is_young:
                break
            self._remove(fence)
        if self._index.count > _RECORDS_MIN + 4 * (len(self._kept) + len(self._silent) + len(self._live)):
            self._index.rewrite(self._records())

    def _remove(self, fence: int) -> None:
        kept = self._kept.pop(fence)
        self._bytes -= self._room(kept.ended.sizes)
        self._trash.put(self.directory(fence))
        if self.on_removed is not None:
            self.on_removed(fence)

    def holds(self, kept: KeptOutput) -> bool:
        """Tell whether this attempt's output is still here."""
        return self._kept.get(kept.began.fence) is kept

    def unstored(self) -> list[KeptOutput]:
        """Return the attempts whose output is not known to be in a log store, the oldest first."""
        return [kept for kept in self._kept.values() if not kept.is_stored]

    def stored(self, kept: KeptOutput) -> None:
        """Remember that an attempt's output is in the log store."""
        kept.is_stored = True
        self._index.add(StoredRecord(kept.began.fence))

    def read(
        self, fence: int, stream: StreamName, offset: int, bytes_max: int, *, workflow_id: str = ""
    ) -> OutputPiece | None:
        """Read a piece, or return None if nothing is known (any more) about the attempt.

        `workflow_id` is that of the attempt, if it is known: numbers of attempts come again in another cluster.
        Raises `UnfitFileError` if its file was replaced by something else, and `OSError`.
        """
        index, offset = STREAMS.index(stream), max(offset, 0)
        running = self._live.get(fence)
        kept = self._kept.get(fence) or self._silent.get(fence)
        known = running or kept
        if known is None or (workflow_id and known.began.workflow_id != workflow_id):
            return None
        if running is not None:
            return self._read_running(running, stream, offset, bytes_max)
        assert kept is not None  # noqa: S101 - one of them is known
        if fence in self._silent:
            return OutputPiece(b"", offset, 0, truncated=False, complete=True)
        data, at, size = self._read(fence, stream, offset, bytes_max)
        truncated = kept.ended.truncated[index]
        if not kept.is_found:
            size = max(kept.ended.sizes[index], size)
        if not data and at < size and bytes_max > 0:
            # Somebody has shortened the file, or the disk was full: what is missing does not come any more.
            at, truncated = size, True
        return OutputPiece(data, at, size, truncated, complete=True)

    def _read_running(self, running: RunningOutput, stream: StreamName, offset: int, bytes_max: int) -> OutputPiece:
        if running.files is None:
            data, at, size = self._read(running.began.fence, stream, offset, bytes_max)
            lost = 0
        else:
            live = running.files[STREAMS.index(stream)]
            data, at, size = live.read(offset, bytes_max)
            lost = live.lost
        size += lost
        return OutputPiece(data, at, size, truncated=lost > 0 or size > self._output_bytes_max, complete=False)

    def _read(self, fence: int, stream: StreamName, offset: int, bytes_max: int) -> StreamPiece:
        role = _role(stream)
        with opened_below(self.directory(fence), role) as folder:
            if folder is None:
                return StreamPiece(b"", offset, 0)
            return read_stream(folder, stream, role, offset, bytes_max)

    def start_since(
        self, fence: int, stream: StreamName, since_ms: int, *, workflow_id: str = ""
    ) -> OutputPiece | None:
        """Return a piece without data that begins where the output begins that came at a time or later.

        It may begin up to a second, or a thousandth of what the attempt has lasted, too early. Raises as `read`.
        """
        piece = self.read(fence, stream, 0, 0, workflow_id=workflow_id)
        if piece is None or not piece.size:
            return piece
        running = self._live.get(fence)
        if running is not None and running.files is not None:
            start = running.files[STREAMS.index(stream)].start_since(since_ms)
        else:
            role = _role(stream)
            with opened_below(self.directory(fence), role) as folder:
                start = None if folder is None else stream_start(folder, stream, role, since_ms)
        return msgspec.structs.replace(piece, offset=piece.size if start is None else min(start, piece.size))

    # --- over restarts

    def _recover(self) -> None:
        """Find what an earlier agent has left here; remove what nobody knows."""
        began: OrderedDict[int, BeginRecord] = OrderedDict()
        ended: dict[int, EndRecord] = {}
        stored: set[int] = set()
        for record in self._index.load():
            match record:
                case BeginRecord(fence=fence):
                    began[fence] = record
                    began.move_to_end(fence)
                    ended.pop(fence, None)
                    stored.discard(fence)
                case EndRecord(fence=fence):
                    ended[fence] = record
                case StoredRecord(fence=fence):
                    stored.add(fence)
        with os.scandir(self._root) as entries:
            names = {entry.name for entry in entries}
        found: list[KeptOutput] = []
        for fence, record in began.items():
            end = ended.get(fence)
            if end is None:
                end, is_found = self._rescue(record, is_there=str(fence) in names), True
                names.add(str(fence))
            else:
                is_found = False
            if str(fence) in names or not any(end.sizes):
                found.append(KeptOutput(record, end, is_found=is_found, is_stored=fence in stored))
        found.sort(key=lambda kept: kept.ended.at_ms)
        now_ms = _now_ms()
        for kept in found:
            kept.ended.at_ms = min(kept.ended.at_ms, now_ms)
            self._keep(kept)
        for name in names - {str(fence) for fence in self._kept}:
            self._trash.put(f"{self._root}/{name}")
        self._work.empty(WORKERS)
        self._index.rewrite(self._records())
        if self._kept:
            _log.info("the output of %d earlier attempts is here", len(self._kept))

    def _rescue(self, began: BeginRecord, *, is_there: bool) -> EndRecord:
        """Return the end of an attempt that was running when the agent was killed, and keep its output."""
        fence = began.fence
        if not is_there and began.worker and "/" not in began.worker and not began.worker.startswith("."):
            folder = CaptureFolder(self.directory(fence))
            with contextlib.suppress(OSError, UnfitFileError):
                role = "the folder of a worker"
                with opened_below(f"{self._work.part(WORKERS)}/{began.worker}", role) as worker:
                    for name in STREAMS if worker is not None else ():
                        fd = open_file(name, _role(name), folder=worker)
                        if fd is not None:
                            try:
                                keep_stream(fd, folder, name, self._output_bytes_max)
                            finally:
                                os.close(fd)
        sizes, cut, at_ms = [0, 0], [False, False], began.at_ms
        with contextlib.suppress(OSError):
            at_ms = max(at_ms, int(os.stat(self.directory(fence)).st_mtime * 1000))  # noqa: PTH116 - a text
        for index, name in enumerate(STREAMS):
            with contextlib.suppress(OSError, UnfitFileError):
                sizes[index] = self._read(fence, name, 0, 0).size
                cut[index] = sizes[index] > self._output_bytes_max
        return EndRecord(fence, at_ms, (sizes[0], sizes[1]), (cut[0], cut[1]))

    def _records(self) -> list[Record]:
        records: list[Record] = []
        for table in (self._silent, self._kept):
            for kept in table.values():
                records += [kept.began, kept.ended]
                if kept.is_stored:
                    records.append(StoredRecord(kept.began.fence))
        records += [running.began for running in self._live.values()]
        return records

    def close(self) -> None:
        """Write down what is known."""
        self._index.close()


def _role(stream: StreamName) -> str:
    return f"the file of captured {stream}"


def _now_ms() -> int:
    return int(time.time() * 1000)
