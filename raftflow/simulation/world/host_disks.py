"""Faults of the disks of the simulated replicas: failing operations, full disks, older copies, wiped disks."""

from __future__ import annotations

import contextvars
import errno
from typing import TYPE_CHECKING, Any, Final, cast

from raftflow.simulation.world.disk import FaultyFileSystem, Misplacement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from raftflow.simulation.world.host import SimHost
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.observer import ClusterObserver
    from raftflow.simulation.world.trace import Trace

_FULL_BYTES: Final = 2_000
SYNC_STOP_WITHIN_S: Final = 2.5
"""Longer than the slowest disk needs to report a failed sync."""
LOOK_S: Final = 0.02
QUICK_SYNC_S: Final = 0.0008
"""Syncs that take up to this long are done on the event loop: about half of those of a healthy disk."""


class HostDisks:
    """The disks of the machines.

    Args:
        loop: gives the time.
        trace: is told of the faults.
        observer: is told of violations.
        hosts: the machines by name; more may come.
        latency: seconds that an operation on the disk of a machine takes.
        crash: cuts the power of a machine.
        stop: ends the process of a machine.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        trace: Trace,
        observer: ClusterObserver,
        *,
        hosts: dict[str, SimHost],
        latency: Callable[[str, str], float],
        crash: Callable[[str], None],
        stop: Callable[[SimHost], None],
    ) -> None:
        self._loop = loop
        self._trace = trace
        self._observer = observer
        self._hosts = hosts
        self._latency = latency
        self._crash = crash
        self._stop = stop

    def use(self, host: SimHost, disk: FaultyFileSystem) -> None:
        """Put a disk into a machine."""
        disk.delay_s = lambda operation: self._latency(host.name, operation)
        disk.quick_s = QUICK_SYNC_S
        host.disk = disk

    def fail(
        self, name: str, operation: str, error: int, *, where: str = "", then: Callable[[], None] = lambda: None
    ) -> None:
        """Let the next such operation on a disk fail, on a path that contains `where`. Then call `then`."""
        host = self._hosts[name]

        def fail(asked: str, path: Path) -> int | None:
            if asked != operation or where not in str(path) or host.process is None:
                return None
            host.disk.fail = _sound
            host.may_fail = f"{operation} fails with {errno.errorcode[error]}"
            self._trace.fault(f"failing {operation}", name)
            if operation == "sync" and path.suffix == ".segment":
                self._must_stop(host)
            then()
            return error

        host.disk.fail = fail

    def misplace(
        self, name: str, part_of_path: str, elsewhere: Callable[[int], int | None], happens: Callable[[], bool]
    ) -> None:
        """Let the next write of such a file be lost or misdirected, if `happens` allows it at that moment."""
        host = self._hosts[name]

        def damage() -> bool:
            if not happens():
                return False
            host.damaged = True
            return True

        host.disk.misplace_next = Misplacement(part_of_path, elsewhere, damage)

    def _must_stop(self, host: SimHost) -> None:
        """A replica whose journal could not be synced must stop, because its entries are not on its disk."""
        process, log = host.process, cast("Any", host.replica).log
        durable, until_s = log.parts.journal.durable_index, self._loop.time() + SYNC_STOP_WITHIN_S

        def check() -> None:
            if host.process is not process or process is None or process.frozen:
                return
            now_durable = log.parts.journal.durable_index
            if now_durable > durable or self._loop.time() >= until_s:
                self._observer.violation(
                    "failed sync ignored", f"{host.name} goes on and believes in {now_durable}, after {durable}"
                )
                return
            self._loop.call_later(LOOK_S, check, context=contextvars.Context())

        self._loop.call_later(LOOK_S, check, context=contextvars.Context())

    def fill(self, name: str, room_bytes: int = _FULL_BYTES) -> None:
        """Leave `room_bytes` free on a replica's disk."""
        host = self._hosts[name]
        host.disk.capacity_bytes = host.disk.used_bytes() + room_bytes
        host.may_fail = "the disk is full"
        self._trace.fault("full disk", name)

    def replace(self, name: str, files: dict[Path, bytes]) -> None:
        """Put an older copy of its files on the disk of a replica that is down."""
        host = self._hosts[name]
        self._trace.fault("older disk copy put back", name)
        self._observer.disk_replaced(name)
        host.disk.replace(files)
        host.damaged = True

    def repair(self, name: str) -> None:
        """Remove faults that have not taken effect yet."""
        host = self._hosts[name]
        host.disk.fail = _sound
        host.disk.crash_at = None
        host.disk.capacity_bytes = None
        host.disk.misplace_next = None

    def wipe(self, name: str) -> None:
        """Stop a replica and replace its disk by an empty one. The caller restarts it."""
        host = self._hosts[name]
        if host.gone is None and host.kept is None:
            self._crash(name)
            self._trace.fault("disk wiped", name)
            host.kept = (host.disk, host.damaged)
            self.use(host, FaultyFileSystem(keep_trace=False))

    def put_back(self, name: str) -> None:
        """Put a replica's old disk back. The caller restarts it."""
        host = self._hosts[name]
        if host.kept is not None:
            if host.process is not None:
                self._stop(host)
            self._trace.note(name, "gets its disk back")
            disk, host.damaged = host.kept
            host.kept = None
            self.use(host, disk)


def _sound(_operation: str, _path: Path) -> int | None:
    return None
