"""Processes that outlive their starter, known by pid and start time so that a reused pid is never taken for one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from raftflow.private_files import open_private

_POLL_S = 0.01


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One started process."""

    pid: int
    started_ticks: int
    """Start time in clock ticks since boot (`/proc/PID/stat`, field 22)."""


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the command name, or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def record_of(pid: int) -> ProcessRecord:
    """Describe a running process. Raises `ProcessLookupError` if it is gone."""
    fields = _stat_fields(pid)
    if fields is None:
        raise ProcessLookupError(f"process {pid} ended at once")
    return ProcessRecord(pid=pid, started_ticks=int(fields[19]))


def alive(record: ProcessRecord) -> bool:
    """Tell whether that very process still runs (a zombie does not)."""
    fields = _stat_fields(record.pid)
    return fields is not None and fields[0] != "Z" and int(fields[19]) == record.started_ticks


def start(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None) -> ProcessRecord:
    """Start a program in a session of its own with its output appended to `log`.

    Raises `OSError` if the program cannot be started.
    """
    with open(log, "ab", opener=open_private) as output:
        os.fchmod(output.fileno(), 0o600)  # an older version made it with the rights that the umask left
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if env is None else dict(env),
            start_new_session=True,
            close_fds=True,
        )
    _children[process.pid] = process
    return record_of(process.pid)


_children: dict[int, subprocess.Popen[bytes]] = {}
"""Our own children, to be reaped when they end."""

_codes: dict[ProcessRecord, int] = {}
"""Exit codes of our own children that were reaped."""


def exit_code(record: ProcessRecord) -> int | None:
    """Return the exit code of a process that we started and that `wait_end` has seen end; negative for a signal."""
    return _codes.get(record)


def send(record: ProcessRecord, signum: signal.Signals) -> bool:
    """Send a signal to that very process. False if it is gone."""
    if not alive(record):
        return False
    try:
        os.kill(record.pid, signum)
    except ProcessLookupError:
        return False
    return True


def wait_end(record: ProcessRecord, timeout_s: float) -> bool:
    """Wait until the process has ended. False if it still runs after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        running = alive(record)
        child = _children.get(record.pid)
        # After the look: a child that was seen to have ended has a code to be fetched, for certain.
        if child is not None and child.poll() is not None:
            _codes[record] = child.returncode
            del _children[record.pid]
        if not running:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)


def stop(record: ProcessRecord, *, grace_s: float) -> None:
    """SIGTERM, then SIGKILL after `grace_s`."""
    if send(record, signal.SIGTERM) and wait_end(record, grace_s):
        return
    if send(record, signal.SIGKILL):
        wait_end(record, 10.0)
