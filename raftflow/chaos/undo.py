"""What undoes a fault, as data: carried out by the nemesis itself, or by its watchdog when the nemesis is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Final

import msgspec

from raftflow import helpers
from raftflow.agent.launcher.process_tree import read_tree
from raftflow.local import processes
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import LocalClusterError
from raftflow.local.processes import ProcessRecord

_COMMAND_S: Final = 20.0
_JOIN_S: Final = 60.0


class ResumeProcesses(msgspec.Struct, frozen=True, tag="resume-processes"):
    """Let a process and its descendants go on (SIGCONT)."""

    record: ProcessRecord


class RunCommand(msgspec.Struct, frozen=True, tag="run-command"):
    """Run a command, such as `ip link set ... up`; that it fails is fine, since what it undoes may be gone."""

    argv: list[str]


class WriteBytes(msgspec.Struct, frozen=True, tag="write-bytes"):
    """Write bytes into an existing file, at an offset."""

    path: str
    offset: int
    data: bytes


class RemoveFile(msgspec.Struct, frozen=True, tag="remove-file"):
    """Remove a file."""

    path: str


class MoveBack(msgspec.Struct, frozen=True, tag="move-back"):
    """Put a directory that was moved away in place of what is there now."""

    kept: str
    path: str


class EndProcess(msgspec.Struct, frozen=True, tag="end-process"):
    """Kill one process and its descendants."""

    record: ProcessRecord


class RestartMember(msgspec.Struct, frozen=True, tag="restart-member"):
    """Start a replica or an agent of a local cluster again."""

    directory: str
    name: str


class EndCluster(msgspec.Struct, frozen=True, tag="end-cluster"):
    """Kill every process of a local cluster that was made for chaos."""

    directory: str


Undo = ResumeProcesses | RunCommand | WriteBytes | RemoveFile | MoveBack | EndProcess | RestartMember | EndCluster


def perform(undo: Undo) -> None:
    """Carry out one undo. It may be repeated, and what is undone already is fine."""
    match undo:
        case ResumeProcesses(record=record):
            signal_tree(record, signal.SIGCONT)
        case RunCommand(argv=argv):
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(argv, check=False, capture_output=True, timeout=_COMMAND_S)
        case WriteBytes(path=path, offset=offset, data=data):
            with contextlib.suppress(OSError), Path(path).open("r+b") as file:
                file.seek(offset)
                file.write(data)
        case RemoveFile(path=path):
            with contextlib.suppress(OSError):
                Path(path).unlink(missing_ok=True)
        case MoveBack(kept=kept, path=path):
            if Path(kept).is_dir():
                shutil.rmtree(path, ignore_errors=True)
                Path(kept).rename(path)
        case EndProcess(record=record):
            signal_tree(record, signal.SIGKILL)
            processes.wait_end(record, 5.0)
        case RestartMember(directory=directory, name=name):
            with contextlib.suppress(LocalClusterError):
                restart(LocalCluster.load(Path(directory)), name)
        case EndCluster(directory=directory):
            end_cluster(Path(directory))


def signal_tree(record: ProcessRecord, number: signal.Signals) -> list[int]:
    """Send a signal to a process and its descendants; returns their pids."""
    if not processes.alive(record):
        return []
    pids = read_tree([record.pid]).pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return list(pids)


def restart(cluster: LocalCluster, name: str) -> None:
    """Start a replica or an agent unless it runs."""
    if name in cluster.replica_names:
        cluster.start_replica(name)
    else:
        cluster.start_agent(name)


def end_cluster(directory: Path) -> None:
    """Kill every process that a cluster's file names, with descendants."""
    try:
        cluster = LocalCluster.load(directory)
    except LocalClusterError:
        return
    records = [cluster.process_of(name) for name in (*cluster.agent_names, *cluster.replica_names)]
    for record in records:
        if record is not None:
            signal_tree(record, signal.SIGKILL)
    for record in records:
        if record is not None:
            processes.wait_end(record, 10.0)


class UndoList:
    """What must be undone. The watchdog holds a copy and carries it out when this process is gone."""

    def __init__(self, log: IO[bytes] | None = None) -> None:
        """Start the watchdog. Its output goes to `log`."""
        self._pending: dict[int, Undo] = {}
        self._number = 0
        self._encode = msgspec.json.Encoder().encode
        self._watchdog = subprocess.Popen(
            helpers.command("raftflow.chaos.watchdog"),
            stdin=subprocess.PIPE,
            stdout=log or subprocess.DEVNULL,
            stderr=log or subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def watchdog_pid(self) -> int:
        """The process that undoes everything when this one is gone."""
        return self._watchdog.pid

    def add(self, undo: Undo) -> int:
        """Note what is to be undone, before the fault begins; returns its number."""
        self._number += 1
        self._pending[self._number] = undo
        self._tell({"add": self._number, "undo": undo})
        return self._number

    def undo(self, number: int) -> None:
        """Carry one out."""
        undo = self._pending.get(number)
        if undo is not None:
            perform(undo)
            self.drop(number)

    def drop(self, number: int) -> None:
        """Forget one: it is undone, or there is nothing to undo any more."""
        if self._pending.pop(number, None) is not None:
            self._tell({"drop": number})

    def undo_all(self) -> None:
        """Carry out everything that is left, the newest first."""
        for number in sorted(self._pending, reverse=True):
            self.undo(number)

    def close(self) -> None:
        """Undo everything and end the watchdog."""
        self.undo_all()
        if self._watchdog.stdin is not None:
            with contextlib.suppress(OSError):
                self._watchdog.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._watchdog.wait(_JOIN_S)

    def _tell(self, word: dict[str, object]) -> None:
        if self._watchdog.stdin is None:
            return
        try:
            self._watchdog.stdin.write(self._encode(word) + b"\n")
            self._watchdog.stdin.flush()
        except OSError as error:
            print(f"chaos: the watchdog is gone ({error}); faults end with this process only", file=sys.stderr)  # noqa: T201
