"""What attempts wrote: a directory each, kept within bounds, read for logs."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import msgspec

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
    """The directories `root/<fence>`. Only one agent may use `root`: what is found there at the start is removed."""

    def __init__(
        self, root: Path, *, count_max: int, bytes_max: int, age_max_s: float, output_bytes_max: int
    ) -> None:
        self._root = root
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._age_max_s = age_max_s
        self._output_bytes_max = output_bytes_max
        self._live: dict[int, tuple[Path, Path] | None] = {}
        self._kept: OrderedDict[int, Kept] = OrderedDict()
        self._silent: OrderedDict[int, None] = OrderedDict()
        """Ended attempts that wrote nothing: they must not push out those that did."""
        self._bytes = 0
        if root.exists():
            shutil.rmtree(root)
        root.mkdir(parents=True, mode=0o700)

    def directory(self, fence: int) -> str:
        """Return the attempt's directory. It need not exist."""
        return f"{self._root}/{fence}"

    def began(self, fence: int, files: tuple[Path, Path] | None = None) -> None:
        """Remember a running attempt; `files` if its output is captured elsewhere until it ends."""
        self._live[fence] = files

    def ended(self, fence: int, sizes: tuple[int, int], truncated: tuple[bool, bool]) -> None:
        """The attempt ended. Its directory is kept if it wrote something, for a while."""
        self._live.pop(fence, None)
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
            shutil.rmtree(self.directory(fence), ignore_errors=True)

    def read(self, fence: int, stream: StreamName, offset: int, bytes_max: int) -> Piece | None:
        """Read a piece, or return None if nothing is known (any more) about the attempt."""
        index = STREAMS.index(stream)
        path = Path(self.directory(fence)) / stream
        kept = self._kept.get(fence)
        if kept is None:
            if fence in self._silent:
                return Piece(b"", 0, truncated=False, complete=True)
            if fence not in self._live:
                return None
            files = self._live[fence]
            if files is not None:
                path = files[index]
        data, size = _read(path, offset, min(bytes_max, max(self._output_bytes_max - offset, 0)))
        if kept is not None:
            return Piece(data, kept.sizes[index], kept.truncated[index], complete=True)
        limit = self._output_bytes_max
        return Piece(data, min(size, limit), truncated=size >= limit, complete=False)


def _read(path: Path, offset: int, count: int) -> tuple[bytes, int]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b"", 0
    try:
        return os.pread(fd, max(count, 0), max(offset, 0)), os.fstat(fd).st_size
    finally:
        os.close(fd)


def remove_file(path: str) -> None:
    """Remove a file if it is there, and a directory that a program left in its place."""
    try:
        os.unlink(path)  # noqa: PTH108 - runs once an attempt
    except FileNotFoundError:
        return
    except OSError:
        shutil.rmtree(path, ignore_errors=True)


def keep_head(source: Path, target: str, bytes_max: int) -> tuple[int, bool]:
    """Copy the head of `source` to `target` if there is any. Returns (bytes kept, whether some were cut)."""
    with contextlib.suppress(FileNotFoundError), source.open("rb") as file:
        data = file.read(bytes_max)
        if data:
            path = Path(target)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return len(data), os.fstat(file.fileno()).st_size > bytes_max
    return 0, False
