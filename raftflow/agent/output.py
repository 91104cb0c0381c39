"""What attempts wrote: a directory each, kept within bounds, read for logs."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from typing import Literal

import msgspec

from raftflow.agent.files import open_file, opened_folder
from raftflow.agent.workdir import ATTEMPTS, WorkDirectory

StreamName = Literal["stdout", "stderr"]
STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")


class Kept(msgspec.Struct):
    """Output of one attempt."""

    ended_at_s: float
    """Monotonic time."""
    sizes: tuple[int, int]
    truncated: tuple[bool, bool]


class Piece(msgspec.Struct, frozen=True):
    """A piece of a stream."""

    data: bytes
    size: int
    """Bytes captured so far."""
    truncated: bool
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
        self._live: dict[int, tuple[int, int] | None] = {}
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._silent: OrderedDict[int, None] = OrderedDict()
        """Ended attempts that wrote nothing: they must not push out those that did."""
        self._bytes = 0

    def directory(self, fence: int) -> str:
        """Return the attempt's directory. It need not exist."""
        return f"{self._root}/{fence}"

    def began(self, fence: int, files: tuple[int, int] | None = None) -> None:
        """Remember a running attempt; `files` are descriptors if its output is captured elsewhere until it ends."""
        self._live[fence] = files

    def ended(self, fence: int, sizes: tuple[int, int], truncated: tuple[bool, bool]) -> None:
        """The attempt ended. Its directory is kept if it wrote something, for a while."""
        self._live.pop(fence, None)
        limit = self._output_bytes_max
        sizes = (min(max(sizes[0], 0), limit), min(max(sizes[1], 0), limit))  # a worker may tell anything
        if not any(sizes) and not any(truncated):
            self._silent[fence] = None
            if len(self._silent) > self._count_max:
                self._silent.popitem(last=False)
            return
        self._kept[fence] = Kept(time.monotonic(), sizes, truncated)
        self._bytes += sum(sizes)
        self.prune()

    def prune(self) -> None:
        """Remove what is too much or too old, the oldest first."""
        oldest_s = time.monotonic() - self._age_max_s
        while self._kept:
            fence, kept = next(iter(self._kept.items()))
            if len(self._kept) <= self._count_max and self._bytes <= self._bytes_max and kept.ended_at_s >= oldest_s:
                return
            del self._kept[fence]
            self._bytes -= sum(kept.sizes)
            self._trash.put(self.directory(fence))

    def read(self, fence: int, stream: StreamName, offset: int, bytes_max: int) -> Piece | None:
        """Read a piece, or return None if nothing is known (any more) about the attempt.

        Raises `UnfitFileError` if something else is in the place of its file, and `OSError`.
        """
        index = STREAMS.index(stream)
        count = max(min(bytes_max, self._output_bytes_max - offset), 0)
        kept = self._kept.get(fence)
        files = None
        if kept is None:
            if fence in self._silent:
                return Piece(b"", 0, truncated=False, complete=True)
            if fence not in self._live:
                return None
            files = self._live[fence]
        if files is not None:
            data, size = os.pread(files[index], count, max(offset, 0)), os.fstat(files[index]).st_size
        else:
            data, size = _read(self.directory(fence), stream, offset, count)
        if kept is not None:
            size, truncated = kept.sizes[index], kept.truncated[index]
            if len(data) < min(count, size - offset):  # somebody has shortened the file: nobody waits for the rest
                size, truncated = max(offset, 0) + len(data), True
            return Piece(data, size, truncated, complete=True)
        limit = self._output_bytes_max
        return Piece(data, min(size, limit), truncated=size >= limit, complete=False)


def _read(directory: str, stream: StreamName, offset: int, count: int) -> tuple[bytes, int]:
    role = f"the file of captured {stream}"
    with opened_folder(directory, role) as folder:
        fd = None if folder is None else open_file(stream, role, folder=folder)
        if fd is None:
            return b"", 0
        try:
            return os.pread(fd, count, max(offset, 0)), os.fstat(fd).st_size
        finally:
            os.close(fd)
