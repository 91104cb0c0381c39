"""The file operations of the log on the operating system."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from raftflow.replication.histogram import DISK_BOUNDS_S, Histogram

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


QUICK_SYNC_S: Final = 0.001
"""A sync that takes at most this long costs the event loop less than the two switches of threads around it."""
QUICK_STREAK: Final = 32
"""After so many quick syncs in a row the disk counts as quick; one slow sync ends that."""


class Syncer:
    """The thread for syncs, and whether the disk is so quick at present that small syncs need no thread.

    A disk that gets stuck then blocks the event loop once, for one sync. Every sync after that uses the thread.
    """

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="raftflow-sync")
        self.others = 0
        """Other file work under way: a sync may have to wait for its writes."""
        self.times = Histogram(DISK_BOUNDS_S)
        """How long syncs took."""
        self._streak = 0

    @property
    def is_quick(self) -> bool:
        """Whether a small sync may be done on the event loop."""
        return self._streak >= QUICK_STREAK and not self.others

    def fdatasync(self, fd: int) -> None:
        """Sync, and note how long it took. Raises `OSError`."""
        began_s = time.perf_counter()
        os.fdatasync(fd)
        took_s = time.perf_counter() - began_s
        self.times.note(took_s)
        self._streak = self._streak + 1 if took_s <= QUICK_SYNC_S else 0


class RealFile:
    """An `OpenFile` on the operating system."""

    def __init__(self, path: Path, fd: int, syncer: Syncer) -> None:
        self._path = path
        self._fd = fd
        self._syncer = syncer
        self._open = threading.Lock()  # a descriptor must not be closed, and reused, under a sync in a thread

    @property
    def path(self) -> Path:
        """Where the file lives."""
        return self._path

    def is_linked(self) -> bool:
        """Return False if the file has no name any more."""
        return os.fstat(self._fd).st_nlink > 0

    def size(self) -> int:
        """Return the length in bytes."""
        return os.fstat(self._fd).st_size

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`, however many system calls it takes."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view = view[written:]
            offset += written

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`."""
        pieces: list[bytes] = []
        while size > 0:
            piece = os.pread(self._fd, size, offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def truncate(self, size: int) -> None:
        """Cut or extend to `size` bytes."""
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """`fdatasync`, blocking."""
        with self._open:
            if self._fd < 0:  # a ValueError from fdatasync itself would look like a bug
                raise OSError(errno.EBADF, "the file is closed", str(self._path))
            self._syncer.fdatasync(self._fd)

    def sync_if_quick(self) -> bool:
        """`fdatasync` if the disk has been quick of late."""
        if not self._syncer.is_quick:
            return False
        self.sync()
        return True

    async def sync_off_loop(self) -> None:
        """`fdatasync` in the file system's sync thread."""
        await asyncio.get_running_loop().run_in_executor(self._syncer.executor, self.sync)

    def close(self) -> None:
        """Close the descriptor, after a sync that is under way; a second close is harmless."""
        with self._open:
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)


class RealLock:
    """An `flock` on an open descriptor: the kernel releases it when the process ends, however it ends."""

    def __init__(self, path: Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def is_there(self) -> bool:
        """Compare the file at the path with the locked one. A path that cannot be read counts as present."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Release the lock."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class RealFileSystem:
    """A `FileSystem` on the operating system.

    The journal's syncs and urgent work run in a thread of their own, so that a snapshot or the preparation of a
    segment never stands before them; other blocking work has a second thread. `close` ends both. While the disk is
    quick and nothing else is written, small syncs are done on the event loop (`Syncer`).
    """

    def __init__(self) -> None:
        self._syncer = Syncer()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="raftflow-files")

    @property
    def sync_times(self) -> Histogram:
        """How long syncs of open files took."""
        return self._syncer.times

    def make_dir(self, path: Path) -> None:
        """Create the directory and its parents, and sync the parent's entry."""
        if path.is_dir():
            return
        self.make_dir(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        self.sync_dir(path.parent)

    def list_dir(self, path: Path) -> list[str]:
        """Return the names, sorted."""
        return sorted(os.listdir(path))

    def read(self, path: Path) -> bytes:
        """Return the whole content.

        After a failed `fsync` Linux keeps the pages, marked clean, though the disk has other bytes. So the file is
        written out first (an error is raised here, not found later) and its pages are dropped before the read.
        """
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            with open(fd, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(fd)

    def open(self, path: Path, *, create: bool = False) -> RealFile:
        """Open for reading and writing."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        return RealFile(path, os.open(path, flags, 0o600), self._syncer)

    def rename(self, source: Path, target: Path) -> None:
        """`rename(2)`."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Unlink; a missing file is fine."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def sync_dir(self, path: Path) -> None:
        """`fsync` the directory."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def lock(self, path: Path) -> RealLock:
        """`flock`, exclusive, without waiting."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return RealLock(path, fd)

    async def off_loop(self, work: Callable[[], T], *, urgent: bool = False) -> T:
        """Run `work` in the file thread, or in the sync thread if it is urgent."""
        executor = self._syncer.executor if urgent else self._worker
        self._syncer.others += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        finally:
            self._syncer.others -= 1

    def close(self) -> None:
        """End the threads, waiting for work that is under way."""
        self._syncer.executor.shutdown(wait=True)
        self._worker.shutdown(wait=True)
