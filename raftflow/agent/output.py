"""What attempts wrote: a directory each, kept within bounds, read for logs."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Literal

import msgspec

from raftflow.agent.files import opened_folder
from raftflow.agent.kept import Found, LiveFile, read_stream
from raftflow.agent.workdir import ATTEMPTS, WorkDirectory

StreamName = Literal["stdout", "stderr"]
STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")


class Kept(msgspec.Struct):
    """Output of one attempt."""

    ended_at_s: float
    """Monotonic time."""
    sizes: tuple[int, int]
    """Bytes that it wrote, kept or not."""
    truncated: tuple[bool, bool]


class Piece(msgspec.Struct, frozen=True):
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
        self._root = work.part(ATTEMPTS)
        self._trash = work.trash
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._age_max_s = age_max_s
        self._output_bytes_max = output_bytes_max
        self._live: dict[int, tuple[LiveFile, LiveFile] | None] = {}
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._silent: OrderedDict[int, None] = OrderedDict()
        """Ended attempts that wrote nothing: they must not push out those that did."""
        self._bytes = 0

    def directory(self, fence: int) -> str:
        """Return the attempt's directory. It need not exist."""
        return f"{self._root}/{fence}"

    def began(self, fence: int, files: tuple[LiveFile, LiveFile] | None = None) -> None:
        """Remember a running attempt; `files` are given if its output is captured elsewhere until it ends."""
        self._live[fence] = files

    def ended(self, fence: int, sizes: tuple[int, int], truncated: tuple[bool, bool]) -> None:
        """The attempt ended. Its directory is kept if it wrote something, for a while."""
        self._live.pop(fence, None)
        sizes = (max(sizes[0], 0), max(sizes[1], 0))  # a worker may tell anything
        if not any(sizes) and not any(truncated):
            self._silent[fence] = None
            if len(self._silent) > self._count_max:
                self._silent.popitem(last=False)
            return
        self._kept[fence] = Kept(time.monotonic(), sizes, truncated)
        self._bytes += self._room(sizes)
        self.prune()

    def _room(self, sizes: tuple[int, int]) -> int:
        """Return about how many bytes are kept of streams of these sizes."""
        return sum(min(size, self._output_bytes_max) for size in sizes)

    def prune(self) -> None:
        """Remove what is too much or too old, the oldest first."""
        oldest_s = time.monotonic() - self._age_max_s
        while self._kept:
            fence, kept = next(iter(self._kept.items()))
            if len(self._kept) <= self._count_max and self._bytes <= self._bytes_max and kept.ended_at_s >= oldest_s:
                return
            del self._kept[fence]
            self._bytes -= self._room(kept.sizes)
            self._trash.put(self.directory(fence))

    def read(self, fence: int, stream: StreamName, offset: int, bytes_max: int) -> Piece | None:
        """Read a piece, or return None if nothing is known (any more) about the attempt.

        Raises `UnfitFileError` if something else is in the place of its file, and `OSError`.
        """
        index, offset = STREAMS.index(stream), max(offset, 0)
        kept = self._kept.get(fence)
        files = None
        if kept is None:
            if fence in self._silent:
                return Piece(b"", offset, 0, truncated=False, complete=True)
            if fence not in self._live:
                return None
            files = self._live[fence]
        if files is not None:
            found, lost = files[index].read(offset, bytes_max), files[index].lost
        else:
            found, lost = self._read(fence, stream, offset, bytes_max), 0
        data, at, size = found
        if kept is None:
            size += lost
            return Piece(data, at, size, truncated=lost > 0 or size > self._output_bytes_max, complete=False)
        size, truncated = max(kept.sizes[index], size), kept.truncated[index]
        if not data and at < size and bytes_max > 0:
            # Somebody has shortened the file, or the disk was full: what is missing does not come any more.
            at, truncated = size, True
        return Piece(data, at, size, truncated, complete=True)

    def _read(self, fence: int, stream: StreamName, offset: int, bytes_max: int) -> Found:
        role = f"the file of captured {stream}"
        with opened_folder(self.directory(fence), role) as folder:
            if folder is None:
                return Found(b"", offset, 0)
            return read_stream(folder, stream, role, offset, bytes_max)
