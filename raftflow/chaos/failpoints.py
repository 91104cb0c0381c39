"""Failpoints: raftflow with doors for faults that no kernel gives at will. Used by chaos clusters only.

`python -m raftflow.chaos.failpoints ARGUMENTS` does what `python -m raftflow ARGUMENTS` does. Before that it replaces
a few functions of `os` and `time` in its own process. Nothing in raftflow itself knows of it. The nemesis switches
the faults in a small file that both map into memory, and reads from the same file how often each took effect. The
variable CHAOS_FAILPOINTS names the file.
"""

from __future__ import annotations

import errno
import mmap
import os
import runpy
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "CHAOS_FAILPOINTS"
FILE_BYTES: Final = 4_096

FIELDS: Final = (
    "clock_offset_ms",
    "sync_delay_us",
    "sync_failures",
    "write_error",
    "kill_at",
    "clock_served",
    "syncs_delayed",
    "syncs_failed",
    "writes_refused",
    "killed",
)
"""Eight bytes each: what is switched on, then what took effect.

    clock_offset_ms   added to the wall clock
    sync_delay_us     how much longer each sync takes
    sync_failures     so many syncs fail with EIO, as Linux tells an error: once
    write_error       the errno with which writes of files fail
    kill_at           the place of `KILL_PLACES` where the process kills itself
"""
KILL_PLACES: Final = {"snapshot-written": 1, "snapshot-renamed": 2, "compaction": 3, "snapshot-begun": 4}


class FailpointFile:
    """The file of one process, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Map an existing file of `FILE_BYTES`. Raises `OSError`."""
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), FILE_BYTES)

    @staticmethod
    def create(path: Path) -> FailpointFile:
        """Make a file with everything switched off."""
        path.write_bytes(bytes(FILE_BYTES))
        return FailpointFile(path)

    @staticmethod
    def offset(field: str) -> int:
        """Return where a field lies in the file."""
        return 8 * FIELDS.index(field)

    def get(self, field: str) -> int:
        """Return the value of a field."""
        value: int = struct.unpack_from("<q", self._map, self.offset(field))[0]
        return value

    def set(self, field: str, value: int) -> None:
        """Set a field."""
        struct.pack_into("<q", self._map, self.offset(field), value)

    def count(self, field: str) -> None:
        """Add one to a field. Losing a count to another thread is fine."""
        self.set(field, self.get(field) + 1)


def install(points: FailpointFile) -> None:
    """Replace the functions of this process."""
    _replace_clock(points)
    _replace_syncs(points)
    _replace_writes(points)
    _replace_names(points)


def _replace_clock(points: FailpointFile) -> None:
    time_ns, time_s = time.time_ns, time.time

    def offset_ms() -> int:
        found = points.get("clock_offset_ms")
        if found:
            points.count("clock_served")
        return found

    def faulty_time_ns() -> int:
        return time_ns() + offset_ms() * 1_000_000

    def faulty_time() -> float:
        return time_s() + offset_ms() / 1000

    _put(time, "time_ns", faulty_time_ns)
    _put(time, "time", faulty_time)


def _replace_syncs(points: FailpointFile) -> None:
    def around(sync: Callable[[int], None]) -> Callable[[int], None]:
        def faulty(fd: int) -> None:
            delay_us = points.get("sync_delay_us")
            if delay_us:
                points.count("syncs_delayed")
                time.sleep(delay_us / 1e6)
            failures = points.get("sync_failures")
            if failures:
                points.set("sync_failures", failures - 1)
                points.count("syncs_failed")
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(fd)

        return faulty

    _put(os, "fdatasync", around(os.fdatasync))
    _put(os, "fsync", around(os.fsync))


def _replace_writes(points: FailpointFile) -> None:
    pwrite = os.pwrite

    def faulty(fd: int, data: Any, offset: int) -> int:
        number = points.get("write_error")
        if number:
            points.count("writes_refused")
            raise OSError(number, os.strerror(number))
        return pwrite(fd, data, offset)

    _put(os, "pwrite", faulty)


def _replace_names(points: FailpointFile) -> None:
    rename, unlink = os.rename, os.unlink

    def reach(place: str) -> None:
        if points.get("kill_at") == KILL_PLACES[place]:
            points.set("kill_at", 0)
            points.count("killed")
            os.kill(os.getpid(), signal.SIGKILL)

    def faulty_rename(source: Any, target: Any, **more: Any) -> None:
        is_snapshot = os.fspath(target).endswith(".snapshot")
        if is_snapshot:
            reach("snapshot-written")
        rename(source, target, **more)
        if is_snapshot:
            reach("snapshot-renamed")

    def faulty_unlink(path: Any, **more: Any) -> None:
        name = os.fspath(path)
        if "/journal/" in name or name.endswith(".snapshot"):
            reach("compaction")
        unlink(path, **more)

    opened = os.open

    def faulty_open(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if flags & os.O_EXCL and os.fspath(path).endswith(".partial"):
            reach("snapshot-begun")
        return opened(path, flags, mode, **more)

    _put(os, "rename", faulty_rename)
    _put(os, "unlink", faulty_unlink)
    _put(os, "open", faulty_open)


def _put(module: Any, name: str, function: Callable[..., Any]) -> None:
    setattr(module, name, function)


def main() -> None:
    """Install the failpoints and run raftflow."""
    install(FailpointFile(Path(os.environ[VARIABLE])))
    sys.argv[0] = "raftflow"
    runpy.run_module("raftflow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
