"""The file operations that the log needs, as an interface: the real one here, a simulated disk elsewhere.

Every durable step of the journal and the snapshots goes through `FileSystem`, so that a test can crash between
any two operations, lose what was not synced, tear a write or fail a sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path


class OpenFile(Protocol):
    """A file opened for appending, overwriting in place and truncating."""

    @property
    def path(self) -> Path:
        """Where the file lives."""
        ...

    def size(self) -> int:
        """Return the length in bytes, unsynced writes included."""
        ...

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`. Not durable before a sync. Raises `OSError` (a full disk, for one)."""
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend (with zeros) to `size` bytes."""
        ...

    def sync(self) -> None:
        """Make content and length durable now (`fdatasync`), blocking."""
        ...

    async def sync_off_loop(self) -> None:
        """Make durable what was written before the call, without blocking the event loop. Raises `OSError`."""
        ...

    def close(self) -> None:
        """Close; does not sync."""
        ...


class FileSystem(Protocol):
    """The directory operations and file opens that the log uses."""

    def make_dir(self, path: Path) -> None:
        """Create the directory and its parents; durable in its parent."""
        ...

    def list_dir(self, path: Path) -> list[str]:
        """Return the names in a directory, sorted."""
        ...

    def read(self, path: Path) -> bytes:
        """Return the whole content."""
        ...

    def open(self, path: Path, *, create: bool = False) -> OpenFile:
        """Open for reading and writing; with `create` the file must not exist."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` atomically. Durable after `sync_dir`."""
        ...

    def remove(self, path: Path) -> None:
        """Unlink; a missing file is fine. Durable after `sync_dir`."""
        ...

    def sync_dir(self, path: Path) -> None:
        """Make creations, renames and removals in the directory durable."""
        ...


class RealFile:
    """An `OpenFile` on the operating system."""

    def __init__(self, path: Path, fd: int, syncer: ThreadPoolExecutor) -> None:
        self._path = path
        self._fd = fd
        self._syncer = syncer

    @property
    def path(self) -> Path:
        """Where the file lives."""
        return self._path

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

    def truncate(self, size: int) -> None:
        """Cut or extend to `size` bytes."""
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """`fdatasync`, blocking."""
        os.fdatasync(self._fd)

    async def sync_off_loop(self) -> None:
        """`fdatasync` in the file system's sync thread."""
        await asyncio.get_running_loop().run_in_executor(self._syncer, os.fdatasync, self._fd)

    def close(self) -> None:
        """Close the descriptor; a second close is harmless."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class RealFileSystem:
    """A `FileSystem` on the operating system. Syncs run in one thread of its own; `close` ends it."""

    def __init__(self) -> None:
        self._syncer = ThreadPoolExecutor(max_workers=2, thread_name_prefix="raftflow-sync")

    def make_dir(self, path: Path) -> None:
        """Create the directory and its parents, and sync the parent's entry."""
        if path.is_dir():
            return
        self.make_dir(path.parent)
        path.mkdir(exist_ok=True)
        self.sync_dir(path.parent)

    def list_dir(self, path: Path) -> list[str]:
        """Return the names, sorted."""
        return sorted(os.listdir(path))

    def read(self, path: Path) -> bytes:
        """Return the whole content."""
        return path.read_bytes()

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

    def close(self) -> None:
        """End the sync thread, waiting for a sync that is under way."""
        self._syncer.shutdown(wait=True)
