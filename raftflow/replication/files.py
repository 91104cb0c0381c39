"""The file operations that the log needs, as an interface: the real one here, a simulated disk elsewhere.

Every durable step of the journal and the snapshots goes through `FileSystem`, so that a test can crash between
any two operations, lose what was not synced, tear a write or fail a sync.

Blocking steps that belong together (start a segment, install a snapshot) are run by `FileSystem.off_loop`, so that a
simulated disk can run them at a moment of its choosing without threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


class Lock(Protocol):
    """A lock that is held until it is closed."""

    def is_there(self) -> bool:
        """Return False if its path names another file now, or none: the file was moved or removed."""
        ...

    def close(self) -> None:
        """Release it; a second close is harmless."""
        ...


class ReadableFile(Protocol):
    """A file that can be read at any place."""

    @property
    def path(self) -> Path:
        """Where the file lives."""
        ...

    def size(self) -> int:
        """Return the length in bytes, unsynced writes included."""
        ...

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer at the end of the file."""
        ...


class OpenFile(ReadableFile, Protocol):
    """A file opened for appending, overwriting in place and truncating."""

    def is_linked(self) -> bool:
        """Return False if the file was removed: its content is lost when it is closed."""
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

    def sync_if_quick(self) -> bool:
        """Sync now if few bytes were written and the disk is so quick that another thread would cost more.

        False if that was not done. Raises `OSError`.
        """
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
        """Return the whole content from the device, not from a cache that a failed sync may have left."""
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

    def lock(self, path: Path) -> Lock:
        """Take an exclusive lock on a file, creating it. Raises `BlockingIOError` if another process holds it."""
        ...

    async def off_loop(self, work: Callable[[], T], *, urgent: bool = False) -> T:
        """Run blocking file work without blocking the event loop, and return what it returns.

        Work runs in the order in which it was given. Urgent work shares a queue with `OpenFile.sync_off_loop` instead
        of waiting behind the rest.
        """
        ...
