"""A simulated disk in memory. It loses unsynced data, tears writes, flips bits and fails operations.

It promises what an operating system promises, and no more: written bytes are durable after a sync of their file,
names after a sync of their directory. A crash can be set before any operation (`crash_at`). Then every operation
raises `SimulatedCrash` until `restart` chooses which unsynced data survive, by a `Loss`. Sectors of 512
bytes are written whole or not at all, in any order; `Loss.TORN` ends one write at any byte, as a killed process does.

A sync that fails (`fail`) leaves what Linux leaves: the page cache shows the new bytes and calls them clean, the disk
does not have them, the next sync succeeds. Only `read` (of the whole file, from the device) shows the truth.

A write can be lost or misdirected (`misplace_next`): its sync succeeds, the page cache shows it, and the disk keeps
what was there before. That leaves a hole: it happens only when a write that was made after that sync is durable.

There are no threads. The only choices are those of the random generator given to `restart`. `delay_s` says how long a
sync or other work off the loop takes, in seconds of the running loop's clock.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

SECTOR_BYTES = 512
T = TypeVar("T")


class SimulatedCrash(BaseException):
    """The machine has lost power. Like KeyboardInterrupt, it passes every `except Exception`."""


class Loss(enum.Enum):
    """Which unsynced writes and directory operations survive a crash."""

    ALL = "all"
    """Nothing unsynced survives."""
    NONE = "none"
    """Everything survives, as when only the process was killed."""
    SOME = "some"
    """Each sector is in one of its states since the last sync. Each directory operation survives or not."""
    TORN = "torn"
    """The writes of each file survive up to some byte of some write; directory operations up to some moment."""


@dataclass
class Write:
    """An unsynced change of a file: bytes at an offset, or a new length."""

    number: int
    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        """Apply it."""
        if self.data is None:
            _resize(content, self.offset)
        else:
            _resize(content, max(len(content), self.offset + len(self.data)))
            content[self.offset : self.offset + len(self.data)] = self.data


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


class Misplacement(NamedTuple):
    """A fault of a disk that loses the next write of a file, or puts it at another place of that file."""

    part_of_path: str
    elsewhere: Callable[[int], int | None]
    """Given where the write belongs, return where it goes; None if it is lost."""
    happens: Callable[[], bool]
    """Asked at the moment of the loss whether it may happen."""


@dataclass
class MisplacedWrite:
    """A write that the disk loses as soon as one that was made after its sync is durable."""

    write: Write
    fault: Misplacement
    before: bytes | None = None
    """What the disk had at its place; None as long as it is not synced."""
    synced_at: int = 0
    """The number of the newest write at the end of its sync."""

    def take_back(self, content: bytearray) -> None:
        """Restore what the disk had there before, and put the write elsewhere if it was misdirected."""
        assert self.before is not None and self.write.data is not None  # noqa: S101, PT018 - it was synced
        offset, data = self.write.offset, self.write.data
        content[offset : offset + len(self.before)] = self.before
        place = self.fault.elsewhere(offset)
        if place is not None:
            end = min(place + len(data), len(content))
            content[place:end] = data[: end - place]


@dataclass
class Inode:
    """A file's content: what the disk has, what readers see, and the writes between."""

    durable: bytearray = field(default_factory=bytearray)
    visible: bytearray = field(default_factory=bytearray)
    unsynced: list[Write] = field(default_factory=list)
    ghost: bool = False
    """A sync failed: `visible` has bytes that will never reach the disk."""
    misplaced: MisplacedWrite | None = None

    def sync(self, up_to: int, newest: int) -> None:
        """Make the writes up to this number durable. `newest` is the number of the newest write at this moment."""
        misplaced = self.misplaced
        for write in self.unsynced:
            if write.number > up_to:
                continue
            if misplaced is not None and write is misplaced.write and write.data is not None:
                end = write.offset + len(write.data)
                misplaced.before = bytes(self.durable[write.offset : end]).ljust(len(write.data), b"\0")
                misplaced.synced_at = newest
            write.apply(self.durable)
            if misplaced is not None and misplaced.before is not None and write.number > misplaced.synced_at:
                self.misplaced = None
                if misplaced.fault.happens():
                    misplaced.take_back(self.durable)
                misplaced = None
        self.unsynced = [write for write in self.unsynced if write.number > up_to]

    def crash(self, loss: Loss, rng: Random) -> None:
        """Decide what survives."""
        writes, self.unsynced, self.ghost, self.misplaced = self.unsynced, [], False, None
        if loss is Loss.NONE:
            for write in writes:
                write.apply(self.durable)
        elif loss is Loss.TORN and writes:
            survivors = rng.randrange(len(writes) + 1)
            for write in writes[:survivors]:
                write.apply(self.durable)
            if survivors < len(writes) and (data := writes[survivors].data):
                Write(0, writes[survivors].offset, data[: rng.randrange(len(data))]).apply(self.durable)
        elif loss is Loss.SOME:
            self._crash_by_sector(writes, rng)
        self.visible = bytearray(self.durable)

    def _crash_by_sector(self, writes: list[Write], rng: Random) -> None:
        versions: dict[int, list[Write]] = {}
        for write in writes:
            if write.data is None:
                if rng.random() < 0.5:
                    write.apply(self.durable)
                continue
            at = write.offset
            end = write.offset + len(write.data)
            while at < end:
                following = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
                piece = Write(0, at, write.data[at - write.offset : following - write.offset])
                versions.setdefault(at // SECTOR_BYTES, []).append(piece)
                at = following
        for pieces in versions.values():
            for piece in pieces[: rng.randrange(len(pieces) + 1)]:
                piece.apply(self.durable)


@dataclass
class NameChange:
    """An unsynced change of a directory: names bound to a file, or unbound (None)."""

    bindings: dict[Path, Inode | None]

    def apply(self, names: dict[Path, Inode]) -> None:
        """Apply it as a whole."""
        for path, inode in self.bindings.items():
            if inode is None:
                names.pop(path, None)
            else:
                names[path] = inode


class FaultyFile:
    """An open file. Unusable after a crash."""

    def __init__(self, fs: FaultyFileSystem, path: Path, inode: Inode) -> None:
        self._fs = fs
        self._path = path
        self._inode = inode
        self._life = fs.life
        self._closed = False

    @property
    def path(self) -> Path:
        """The name under which it was opened."""
        return self._path

    def _check(self) -> None:
        if self._life != self._fs.life:
            raise SimulatedCrash
        if self._closed:
            raise OSError(errno.EBADF, "the file is closed", str(self._path))

    def is_linked(self) -> bool:
        """Return True: files in use are never removed here."""
        return True

    def size(self) -> int:
        """Return the visible length."""
        self._check()
        return len(self._inode.visible)

    def write_at(self, offset: int, data: bytes) -> None:
        """Write, unsynced. A full disk takes what still fits and raises."""
        self._check()
        self._fs.step("write", self._path)
        growth = offset + len(data) - len(self._inode.visible)
        room = self._fs.room()
        if room is not None and growth > room:
            self._put(offset, data[: max(0, len(data) - growth + room)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._put(offset, data)

    def _put(self, offset: int, data: bytes | None) -> None:
        self._fs.writes += 1
        write = Write(self._fs.writes, offset, None if data is None else bytes(data))
        self._inode.unsynced.append(write)
        fault = self._fs.misplace_next
        if fault is not None and write.data and fault.part_of_path in str(self._path):
            self._fs.misplace_next = None
            self._inode.misplaced = MisplacedWrite(write, fault)
        write.apply(self._inode.visible)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return visible bytes."""
        self._check()
        return bytes(self._inode.visible[offset : offset + size])

    def truncate(self, size: int) -> None:
        """Change the length, unsynced."""
        self._check()
        self._fs.step("truncate", self._path)
        self._put(size, None)

    def sync(self) -> None:
        """Make all writes durable."""
        self._check()
        self._sync(self._fs.writes)

    def sync_if_quick(self) -> bool:
        """Make all writes durable if that takes no longer than `quick_s`."""
        self._check()
        if self._fs.quick_s < 0 or self._fs.delay_s("sync") > self._fs.quick_s:
            return False
        self._sync(self._fs.writes)
        return True

    async def sync_off_loop(self) -> None:
        """Make durable what was written before the call. Other tasks run meanwhile."""
        self._check()
        up_to = self._fs.writes
        await asyncio.sleep(self._fs.delay_s("sync"))
        self._check()
        self._sync(up_to)

    def _sync(self, up_to: int) -> None:
        try:
            self._fs.step("sync", self._path)
        except OSError:
            self._inode.unsynced.clear()
            self._inode.ghost = True
            raise
        self._inode.sync(up_to, self._fs.writes)

    def close(self) -> None:
        """Close; syncs nothing."""
        self._closed = True


class FaultyLock:
    """Held until closed or until the machine crashes."""

    def __init__(self, fs: FaultyFileSystem, path: Path) -> None:
        self._fs = fs
        self._path = path

    def is_there(self) -> bool:
        """Return True: directories are never removed here."""
        return True

    def close(self) -> None:
        """Release it."""
        self._fs.locked.discard(self._path)


class FaultyFileSystem:
    """The disk of one machine."""

    def __init__(self, *, capacity_bytes: int | None = None, keep_trace: bool = True) -> None:
        self.steps = 0
        """The number of operations so far that change the disk or make data durable."""
        self.trace: list[str] = []
        """These operations."""
        self.crash_at: int | None = None
        """Crash before the operation with this number (from 1)."""
        self.fail: Callable[[str, Path], int | None] = lambda _operation, _path: None
        """Asked before every operation; an error number makes it fail with that error."""
        self.delay_s: Callable[[str], float] = lambda _operation: 0.0
        """Asked how long a `sync` or `work` off the loop takes, in seconds; `work` takes a turn at least."""
        self.quick_s = -1.0
        """A small sync that takes no longer is done at once; none is if this is negative."""
        self.on_power_loss: Callable[[], None] = lambda: None
        """Called at the moment of a crash that was set by `crash_at`, before anything else happens."""
        self.misplace_next: Misplacement | None = None
        """Asked for by a fault: the next write of such a file is lost or misdirected."""
        self.capacity_bytes = capacity_bytes
        self._keep_trace = keep_trace
        self.life = 0
        self.writes = 0
        self.locked: set[Path] = set()
        self._crashed = False
        self._names: dict[Path, Inode] = {}
        self._durable_names: dict[Path, Inode] = {}
        self._directories: set[Path] = {Path("/")}
        self._changes: dict[Path, list[NameChange]] = {}

    def step(self, operation: str, path: Path) -> None:
        """Count an operation; crash or fail if that was asked for."""
        if self._crashed:
            raise SimulatedCrash
        self.steps += 1
        if self._keep_trace:
            self.trace.append(f"{operation} {path}")
        if self.steps == self.crash_at:
            self._crashed = True
            self.on_power_loss()
            raise SimulatedCrash
        error = self.fail(operation, path)
        if error is not None:
            raise OSError(error, os.strerror(error), str(path))

    def power_off(self) -> None:
        """Let every operation fail from now on, until `restart`."""
        self._crashed = True

    def files(self) -> list[Path]:
        """Return the names of the files that would be there after a crash, sorted."""
        return sorted(self._durable_names)

    def restart(self, loss: Loss, rng: Random) -> None:
        """Cut the power, lose what is lost, and start again. Open files and locks are gone."""
        for path in sorted(self._changes):
            changes = self._changes[path]
            if loss is Loss.TORN:
                changes = changes[: rng.randrange(len(changes) + 1)]
            elif loss is Loss.SOME:
                changes = [change for change in changes if rng.random() < 0.5]
            elif loss is Loss.ALL:
                changes = []
            for change in changes:
                change.apply(self._durable_names)
        self._changes = {}
        self._names = dict(sorted(self._durable_names.items()))
        for inode in self._names.values():
            inode.crash(loss, rng)
        self.locked.clear()
        self.life += 1
        self.crash_at = None
        self._crashed = False

    def copy(self) -> dict[Path, bytes]:
        """Return every file as it is on the disk, for `replace`."""
        return {path: bytes(inode.durable) for path, inode in sorted(self._durable_names.items())}

    def replace(self, files: dict[Path, bytes]) -> None:
        """Replace all files by a copy, while the disk is not in use."""
        self._changes = {}
        self._durable_names = {
            path: Inode(durable=bytearray(data), visible=bytearray(data)) for path, data in files.items()
        }
        self._names = dict(self._durable_names)

    def room(self) -> int | None:
        """Return how many bytes still fit, None if that is not limited."""
        if self.capacity_bytes is None:
            return None
        return self.capacity_bytes - self.used_bytes()

    def used_bytes(self) -> int:
        """Return the bytes in all files."""
        return sum(len(inode.visible) for inode in self._names.values())

    def flip(self, path: Path, offset: int, mask: int) -> None:
        """Flip bits of a byte on the disk."""
        inode = self._on_disk(path)
        inode.durable[offset] ^= mask
        inode.visible[offset] ^= mask

    def durable(self, path: Path) -> bytes:
        """Return what a file whose name is durable would hold after a loss of power."""
        return bytes(self._durable_names[path].durable)

    def content(self, path: Path) -> bytes:
        """Return what the disk has, for tests."""
        return bytes(self._on_disk(path).durable)

    def _on_disk(self, path: Path) -> Inode:
        """Return a file by its name, also one that was removed and would be there after a crash."""
        return self._names[path] if path in self._names else self._durable_names[path]

    def make_dir(self, path: Path) -> None:
        """Create the directory and its parents, durably."""
        if self._crashed:
            raise SimulatedCrash
        if path in self._directories:
            return
        self.make_dir(path.parent)
        self.step("make_dir", path)
        self._directories.add(path)

    def list_dir(self, path: Path) -> list[str]:
        """Return names of files and directories, sorted."""
        if self._crashed:
            raise SimulatedCrash
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return sorted({child.name for child in (*self._names, *self._directories) if child.parent == path} - {""})

    def read(self, path: Path) -> bytes:
        """Write unsynced data out, drop the cache, and return what the disk has."""
        self.step("read", path)
        inode = self._inode(path)
        inode.sync(self.writes, self.writes)
        inode.ghost = False
        inode.visible = bytearray(inode.durable)
        return bytes(inode.visible)

    def open(self, path: Path, *, create: bool = False) -> FaultyFile:
        """Open a file. Creating one needs a sync of the directory to be durable."""
        if self._crashed:
            raise SimulatedCrash
        if create:
            if path in self._names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            if path.parent not in self._directories:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self.step("create", path)
            self._change({path: Inode()})
        return FaultyFile(self, path, self._inode(path))

    def rename(self, source: Path, target: Path) -> None:
        """Rename within a directory, atomically."""
        self.step("rename", target)
        self._change({source: None, target: self._inode(source)})

    def remove(self, path: Path) -> None:
        """Unlink; a missing file is fine."""
        self.step("remove", path)
        if path in self._names:
            self._change({path: None})

    def sync_dir(self, path: Path) -> None:
        """Make the directory's operations durable."""
        self.step("sync_dir", path)
        for change in self._changes.pop(path, []):
            change.apply(self._durable_names)

    def lock(self, path: Path) -> FaultyLock:
        """Lock a file exclusively."""
        if self._crashed:
            raise SimulatedCrash
        if path in self.locked:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(path))
        self.locked.add(path)
        return FaultyLock(self, path)

    async def off_loop(self, work: Callable[[], T], *, urgent: bool = False) -> T:
        """Run the work after others had a turn."""
        await asyncio.sleep(self.delay_s("urgent" if urgent else "work"))
        return work()

    def _inode(self, path: Path) -> Inode:
        try:
            return self._names[path]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None

    def _change(self, bindings: dict[Path, Inode | None]) -> None:
        change = NameChange(bindings)
        change.apply(self._names)
        (directory,) = {path.parent for path in bindings}
        self._changes.setdefault(directory, []).append(change)
