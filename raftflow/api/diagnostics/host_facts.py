"""Everything that a replica says of its machine, put together for one answer.

What needs the disk is read in a thread of its own and waited for at most `READ_S`: a file system that does not answer
must not hold the event loop, nor the stop of the process.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import raftflow
from raftflow.api.diagnostics.certificates import certificate_facts, list_facts
from raftflow.api.diagnostics.file_modes import file_modes, files_below
from raftflow.api.diagnostics.pressure import pressure_stall
from raftflow.api.diagnostics.watch import ReplicaWatch
from raftflow.api.figures.process import ProcessFigures, process_figures
from raftflow.coordinator.clock import SystemClock
from raftflow.domain.contract.cluster import (
    CertificateFacts,
    DiskFacts,
    FileMode,
    HostView,
    SavedSnapshotFacts,
)
from raftflow.machine.read.identities.tokens import ending_tokens
from raftflow.recovery.service import saved_snapshots
from raftflow.replication.repair.repair import RECORD_FILE, SET_ASIDE_MARK

if TYPE_CHECKING:
    from raftflow.coordinator.clock import MachineClock
    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.coordinator.replica import Replica
    from raftflow.replication.histogram import Histogram

READ_S: Final = 1.0
"""How long facts of the disk are waited for."""
DAMAGED_MAX: Final = 20
"""Damaged files that are named."""
_CERTIFICATES: Final = ("api_cert", "api_ca", "api_client_ca", "peer_cert", "peer_ca")


class _FileFacts(NamedTuple):
    """What is read from file systems."""

    disk: DiskFacts
    files: list[FileMode]
    certificates: list[CertificateFacts]
    snapshots: SavedSnapshotFacts | None
    repairing: bool
    damaged_files: list[str]


ENDING_TOKENS_MAX = 20


class HostFacts:
    """Facts of one replica's machine.

    Args:
        replica: the replica.
        syncs: how long syncs of its disk took.
        clock: the clocks of the machine.
    """

    def __init__(self, replica: Replica, syncs: Histogram, clock: MachineClock | None = None) -> None:
        self._replica = replica
        self._clock = clock or SystemClock()
        self.watch = ReplicaWatch(replica, syncs)
        self._reading: asyncio.Future[_FileFacts] | None = None

    async def view(self) -> HostView:
        """Return all facts."""
        read, why = None, ""
        try:
            async with asyncio.timeout(READ_S):
                read = await asyncio.shield(self._read())
        except TimeoutError:
            why = f"its file systems did not answer within {READ_S:g} s"
        except OSError as error:
            why = f"the data directory cannot be read: {error.strerror}"
        # In a thread, because it lists the open descriptors, which may be many.
        view = self._without_files(await asyncio.to_thread(process_figures))
        if read is None:
            view.unread = why
            return view
        view.disk, view.files, view.certificates = read.disk, read.files, read.certificates
        view.snapshots, view.repairing, view.damaged_files = read.snapshots, read.repairing, read.damaged_files
        return view

    def _without_files(self, process: ProcessFigures) -> HostView:
        config, watch = self._replica.config, self.watch
        return HostView(
            name=config.name,
            version=raftflow.__version__,
            cluster_time_ms=self._replica.clock.now_ms(),
            lease_ms=config.timing.lease_ms,
            election_min_ms=config.timing.election_min_ms,
            heartbeat_ms=config.timing.heartbeat_ms,
            cpu_count=os.cpu_count() or 1,
            load_1m=round(os.getloadavg()[0], 2),
            resident_bytes=process.resident_bytes,
            open_fds=process.open_fds,
            max_fds=process.max_fds,
            loop=watch.loop_lag(),
            syncs=watch.sync_times(),
            terms=watch.terms(),
            drained_agents=watch.drained_agents(),
            ending_tokens=ending_tokens(self._replica.machine, ENDING_TOKENS_MAX),
            pressure=pressure_stall(),
            # Last: the client compares them with the moment of the answer.
            running_ms=int(self._clock.running_s() * 1000),
            time_ms=self._clock.now_ms(),
        )

    def _read(self) -> asyncio.Future[_FileFacts]:
        """Read the files, once for all who ask at a time."""
        reading = self._reading
        if reading is not None and not reading.done():
            return reading
        loop = asyncio.get_running_loop()
        reading = self._reading = loop.create_future()
        config = self._replica.config

        def tell(facts: _FileFacts | None, error: OSError | None) -> None:
            if reading.done():
                return
            if error is not None:
                reading.set_exception(error)
                reading.exception()  # it may be that nobody waits for it any longer
            elif facts is not None:
                reading.set_result(facts)

        def work() -> None:
            facts, failed = None, None
            try:
                facts = _read_files(config)
            except OSError as error:
                failed = error
            try:
                loop.call_soon_threadsafe(tell, facts, failed)
            except RuntimeError:
                return  # the loop has ended meanwhile

        # A daemon: one that hangs does not delay the end of the process.
        threading.Thread(target=work, name="raftflow-host-facts", daemon=True).start()
        return reading


def _read_files(config: CoordinatorConfig) -> _FileFacts:
    names = os.listdir(config.data_dir)
    certificates = [(key, getattr(config.tls, key)) for key in _CERTIFICATES]
    facts = [certificate_facts(f"tls.{key}", path) for key, path in certificates if path is not None]
    if config.tls.crl is not None:
        facts.append(list_facts("tls.crl", config.tls.crl))
    return _FileFacts(
        disk=_disk_of(config.data_dir),
        files=file_modes(config),
        certificates=facts,
        snapshots=saved_snapshots(config),
        repairing=RECORD_FILE in names,
        damaged_files=_set_aside(config.data_dir),
    )


def _disk_of(directory: Path) -> DiskFacts:
    disk = os.statvfs(directory)
    return DiskFacts(
        path=str(directory),
        free_bytes=disk.f_bavail * disk.f_frsize,
        size_bytes=disk.f_blocks * disk.f_frsize,
        free_files=disk.f_favail,
        files_max=disk.f_files,
        read_only=bool(disk.f_flag & os.ST_RDONLY),
    )


def _set_aside(directory: Path) -> list[str]:
    """Return the damaged files that were set aside."""
    found = [str(file.relative_to(directory)) for file in files_below(directory) if SET_ASIDE_MARK in file.name]
    return sorted(found)[:DAMAGED_MAX]
