"""One captured stream on disk: its head in one file, its tail in another, which is a ring.

    stdout        the first `head` bytes
    stdout.tail   a header, then a ring of `ring` bytes: byte n of the stream lies at (n - head) % ring

Most streams fit into the head and have no second file. What lies between head and tail is not kept, only counted. The
header says how far the ring is written (`total`), and how far its writer may have overwritten it (`begun`), which is
set before a byte is overwritten. So a reader in another process, and one after a crash, know what is whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

from raftflow.agent.workdir.files import (
    CaptureFolder,
    UnfitFileError,
    create_file,
    open_file,
    opened_below,
    read_file,
    write_all,
)
from raftflow.domain.values.utf8 import CHARACTER_BYTES_MAX, continuation_prefix, incomplete_suffix

TAIL = ".tail"
"""What the name of the second file ends with."""
TIMES = ".times"
"""What the name of the file ends with that tells when bytes came; most streams have none."""
_TIME = struct.Struct("<QQ")
_TIMES_BYTES_MAX = 1 << 20
_TIME_STEP_MS = 1_000
_TIME_STEPS = 1_000
"""Times are noted a second apart at least, and so far apart as the stream is old, divided by this."""
_MAGIC = b"rftail1\n"
_HEADER = struct.Struct("<8sQQQQ")
_PROGRESS = struct.Struct("<QQ")
_PROGRESS_AT = _HEADER.size - _PROGRESS.size
_SIZE_MAX = 1 << 40
_CHUNK_BYTES = 1 << 16
_PUNCH_HOLE = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE."""
_BLOCK_BYTES = 1 << 12


def split(bytes_max: int) -> tuple[int, int]:
    """Return how many bytes of a stream are kept of its head and of its tail."""
    return bytes_max - bytes_max // 2, bytes_max // 2


class StreamTimes:
    """When which byte of a stream came: pairs of byte and milliseconds since 1970, at growing distances.

    The first second of a stream needs none: it is over when its file was changed last.
    """

    __slots__ = ("_first", "_last_ms")

    def __init__(self) -> None:
        self._first: tuple[int, int] | None = None
        self._last_ms = 0

    def note(self, offset: int) -> list[tuple[int, int]]:
        """A byte came just now. Returns what is to be remembered."""
        now_ms = int(time.time() * 1000)
        if self._first is None:
            self._first = (offset, now_ms)
            self._last_ms = now_ms
            return []
        if now_ms - self._last_ms < max(_TIME_STEP_MS, (now_ms - self._first[1]) // _TIME_STEPS):
            return []
        fresh = [(offset, now_ms)]
        if self._last_ms == self._first[1]:
            fresh.insert(0, self._first)
        self._last_ms = now_ms
        return fresh


def pack_times(times: list[tuple[int, int]]) -> bytes:
    """Return pairs as the file of times holds them."""
    return b"".join(_TIME.pack(*pair) for pair in times)


def write_times(path: str, name: str, times: list[tuple[int, int]]) -> None:
    """Write the file of times of a stream into the folder `path`. Raises `UnfitFileError` and `OSError`."""
    role = f"the file of the times of {name}"
    with opened_below(path, role) as folder:
        if folder is not None:
            fd = create_file(name + TIMES, role, folder=folder)
            try:
                write_all(fd, pack_times(times))
            finally:
                os.close(fd)


def stream_times(folder: int, name: str, role: str) -> tuple[list[tuple[int, int]], int]:
    """Return the noted times of a stream, and when its files were changed last. Raises as `stream_start`."""
    changed_ms = 0
    for each in (name, name + TAIL):
        fd = open_file(each, role, folder=folder)
        if fd is not None:
            try:
                changed_ms = max(changed_ms, os.fstat(fd).st_mtime_ns // 1_000_000)
            finally:
                os.close(fd)
    data = read_file(name + TIMES, _TIMES_BYTES_MAX, role, folder=folder) or b""
    return [(at, ms) for at, ms in _TIME.iter_unpack(data[: len(data) // _TIME.size * _TIME.size])], changed_ms


def stream_start(folder: int, name: str, role: str, since_ms: int) -> int | None:
    """Return the byte at which what came at a time or later begins, None if nothing did.

    Raises `UnfitFileError` and `OSError`.
    """
    times, changed_ms = stream_times(folder, name, role)
    return _start_since(times, changed_ms, since_ms)


def _start_since(times: list[tuple[int, int]], changed_ms: int, since_ms: int) -> int | None:
    if since_ms > changed_ms:
        return None
    return max((offset for offset, at_ms in times if at_ms <= since_ms), default=0)


class StreamFile:
    """Writes one stream. Its files are made when they are needed, in a folder of captures."""

    __slots__ = ("_begun", "_file", "_folder", "_head", "_name", "_ring", "_tail", "_times", "_when", "total")

    def __init__(self, folder: CaptureFolder, name: str, bytes_max: int) -> None:
        self._folder = folder
        self._name = name
        self._head, self._ring = split(bytes_max)
        self._file = self._tail = self._times = -1
        self._when: StreamTimes | None = None
        self._begun = 0
        """Up to where the ring may be overwritten, as the header says."""
        self.total = 0

    def note_time(self) -> None:
        """Remember that the next bytes come now. Raises `UnfitFileError` and `OSError`."""
        if self._when is None:
            self._when = StreamTimes()
        fresh = self._when.note(self.total)
        if fresh:
            if self._times < 0:
                self._times = self._folder.create(self._name + TIMES, f"the file of the times of {self._name}")
            write_all(self._times, pack_times(fresh))

    def skip(self, count: int, size: int) -> None:
        """Leave out the next bytes of a stream that will have `size` bytes: they are not kept."""
        self.total += count
        self._begun = size

    @property
    def is_cut(self) -> bool:
        """True if bytes between head and tail are gone."""
        return self.total > self._head + self._ring

    def write(self, chunk: bytes) -> None:
        """Take the next bytes of the stream. Raises `UnfitFileError` and `OSError`."""
        room = self._head - self.total
        if room > 0:
            if self._file < 0:
                self._file = self._folder.create(self._name, f"the file of captured {self._name}")
            write_all(self._file, chunk[:room])
            self.total += min(room, len(chunk))
            chunk = chunk[room:]
        if chunk:
            self._write_tail(chunk)

    def _write_tail(self, chunk: bytes) -> None:
        total = self.total + len(chunk)
        begun = max(self._begun, total)
        if self._tail < 0:
            name = self._name + TAIL
            self._tail = self._folder.create(name, f"the file of captured {self._name}", os.O_RDWR)
            header = _HEADER.pack(_MAGIC, self._head, self._ring, self.total, begun)
            _pwrite_all(self._tail, header, 0)
        elif begun > max(self._begun, self._head + self._ring):
            _pwrite_all(self._tail, _PROGRESS.pack(self.total, begun), _PROGRESS_AT)
        self._begun = begun
        at, data = self.total, chunk
        if len(data) > self._ring:
            at, data = total - self._ring, data[-self._ring :]
        start = (at - self._head) % self._ring
        first = self._ring - start
        _pwrite_all(self._tail, data[:first], _HEADER.size + start)
        if len(data) > first:
            _pwrite_all(self._tail, data[first:], _HEADER.size)
        self.total = total
        _pwrite_all(self._tail, _PROGRESS.pack(total, begun), _PROGRESS_AT)

    def close(self) -> None:
        """Close the files."""
        for fd in (self._file, self._tail, self._times):
            if fd >= 0:
                os.close(fd)
        self._file = self._tail = self._times = -1


def keep_stream(source: int, folder: CaptureFolder, name: str, bytes_max: int) -> tuple[int, bool]:
    """Keep what is in the file `source`: head and tail. Returns (bytes that it had, whether some are not kept).

    Raises `UnfitFileError` and `OSError`.
    """
    size = os.fstat(source).st_size
    if not size:
        return 0, False
    head, ring = split(bytes_max)
    if size <= head:
        target = folder.create(name, f"the file of captured {name}")
        try:
            kept = 0
            while kept < size and (count := os.sendfile(target, source, kept, size - kept)):
                kept += count
        finally:
            os.close(target)
        return size, kept < size
    kept_stream = StreamFile(folder, name, bytes_max)
    try:
        _copy(source, 0, head, kept_stream)
        if size > head + ring:
            kept_stream.skip(size - ring - head, size)
        _copy(source, kept_stream.total, size, kept_stream)
        return size, kept_stream.is_cut or kept_stream.total < size
    finally:
        kept_stream.close()


def _copy(source: int, start: int, end: int, target: StreamFile) -> None:
    while start < end and (chunk := os.pread(source, min(_CHUNK_BYTES, end - start), start)):
        target.write(chunk)
        start += len(chunk)


class LiveFile:
    """A file that a worker appends a call's output to, kept from growing without bound by the agent."""

    __slots__ = ("_seen", "_when", "cut_to", "fd", "head", "lost", "ring", "times")

    def __init__(self, fd: int, bytes_max: int) -> None:
        self.fd = fd
        self.head, self.ring = split(bytes_max)
        self.cut_to = 0
        """What lies between the head and this byte is gone."""
        self.lost = 0
        """Bytes that were dropped where a file system can make no holes: nobody can tell any more where."""
        self.times: list[tuple[int, int]] = []
        """When bytes came: see `StreamTimes`."""
        self._when = StreamTimes()
        self._seen = 0

    def begin(self) -> None:
        """Another call begins; the file is empty."""
        if self._seen or self.lost:
            self.cut_to = self.lost = self._seen = 0
            self.times = []
            self._when = StreamTimes()

    def start_since(self, since_ms: int) -> int | None:
        """Return where what came at a time or later begins; see `stream_start`. Raises `OSError`."""
        return _start_since(self.times, os.fstat(self.fd).st_mtime_ns // 1_000_000, since_ms)

    def cut(self) -> None:
        """Give back the space of what lies between head and tail. Raises `OSError`."""
        size = os.fstat(self.fd).st_size
        if size > self._seen:
            self.times += self._when.note(self._seen)
            self._seen = size
        start = -(-self.head // _BLOCK_BYTES) * _BLOCK_BYTES
        end = (size - self.ring) // _BLOCK_BYTES * _BLOCK_BYTES
        if end <= max(start, self.cut_to + _CHUNK_BYTES):
            return
        if _punch(self.fd, start, end - start):
            self.cut_to = end
        else:
            os.ftruncate(self.fd, self.head)
            self.lost += size - self.head

    def read(self, offset: int, count: int) -> StreamPiece:
        """Read a piece; see `read_stream`. Raises `OSError`."""
        size = os.fstat(self.fd).st_size
        start = max(self.head, self.cut_to)
        return _read_around(
            self.head,
            start,
            size,
            offset,
            count,
            lambda at, length: os.pread(self.fd, length, at),
            lambda at, length: (at, os.pread(self.fd, length, at)),
        )


def _punch(fd: int, offset: int, length: int) -> bool:
    """Make a hole in a file. Returns False where that cannot be done."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return False
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return bool(call(fd, _PUNCH_HOLE, offset, length) == 0)


class StreamPiece(NamedTuple):
    """A piece of a stream."""

    data: bytes
    offset: int
    """Byte at which it begins; what lies between the wanted one and it is not kept."""
    size: int
    """Bytes of the stream so far, as the files tell."""


def read_stream(folder: int, name: str, role: str, offset: int, count: int) -> StreamPiece:
    """Read a piece of a stream that is kept in a folder, which may still be written.

    Bytes of a character that was cut in two by the gap between head and tail count as gone. Raises `UnfitFileError`
    and `OSError`.
    """
    with contextlib.ExitStack() as opened:
        fds: list[int | None] = []
        for each in (name, name + TAIL):
            fd = open_file(each, role, folder=folder)
            if fd is not None:
                opened.callback(os.close, fd)
            fds.append(fd)
        file, tail = fds

        def read_head(at: int, length: int) -> bytes:
            return b"" if file is None else os.pread(file, length, at)

        if tail is None:
            size = 0 if file is None else os.fstat(file).st_size
            return StreamPiece(read_head(offset, count), min(offset, max(size, offset)), size)
        header = _read_header(tail, role)

        def read_ring(at: int, length: int) -> tuple[int, bytes]:
            """Read from the ring; what is overwritten meanwhile is left out at the beginning."""
            place = (at - header.head) % header.ring
            data = os.pread(tail, min(length, header.ring - place), _HEADER.size + place)
            if len(data) == header.ring - place and len(data) < length:
                data += os.pread(tail, length - len(data), _HEADER.size)
            gone = min(max(_read_header(tail, role).start - at, 0), len(data))
            return at + gone, data[gone:]

        return _read_around(header.head, header.start, header.total, offset, count, read_head, read_ring)


_ReadHead = Callable[[int, int], bytes]
"""Reads so many bytes from a byte of the stream on."""
_ReadTail = Callable[[int, int], tuple[int, bytes]]
"""The same; says where what is still there begins."""


class _StreamHeader(NamedTuple):
    head: int
    ring: int
    total: int
    begun: int

    @property
    def start(self) -> int:
        """First byte of the stream that the ring still has."""
        return max(self.head, self.begun - self.ring)


def _read_header(tail: int, role: str) -> _StreamHeader:
    data = os.pread(tail, _HEADER.size, 0)
    if len(data) == _HEADER.size and data.startswith(_MAGIC):
        header = _StreamHeader(*_HEADER.unpack(data)[1:])
        if header.ring > 0 and max(header) < _SIZE_MAX and header.head <= header.total <= header.begun:
            return header
    raise UnfitFileError(f"{role} cannot be read: the file of its tail is damaged")


def _read_around(  # noqa: PLR0917 - two kinds of files are read alike
    head: int, start: int, size: int, offset: int, count: int, read_head: _ReadHead, read_tail: _ReadTail
) -> StreamPiece:
    """Read from a stream of which [0, head) and [start, size) are there."""
    end = min(head, size)
    if start > head:
        border = read_head(max(head - CHARACTER_BYTES_MAX, 0), min(head, CHARACTER_BYTES_MAX))
        end -= incomplete_suffix(border)
    data = b""
    if offset < end:
        data = read_head(offset, min(count, end - offset))
        if data and (len(data) == count or start > head or offset + len(data) < end):
            return StreamPiece(data, offset, size)
    at = max(offset + len(data), end)
    if at < start:
        at, border = read_tail(start, CHARACTER_BYTES_MAX - 1)
        at += continuation_prefix(border)
    found_at, more = at, b""
    if at < size and len(data) < count:
        found_at, more = read_tail(at, min(count - len(data), size - at))
    if data:
        return StreamPiece(data + more if found_at == at else data, offset, size)
    return StreamPiece(more, max(found_at, offset) if more else max(min(found_at, size), offset), size)


def _pwrite_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
