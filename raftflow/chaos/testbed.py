"""The cluster of a chaos run: replicas and agents, each on a machine of its own where that is possible."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from raftflow.chaos.background_loop import BackgroundLoop
from raftflow.chaos.failpoints import VARIABLE as FAILPOINTS_VARIABLE
from raftflow.chaos.failpoints import FailpointFile
from raftflow.chaos.history import HistoryWriter
from raftflow.chaos.proxy import ReplicaProxies
from raftflow.chaos.undo import RunCommand, UndoList
from raftflow.chaos.workload.collector import Collector
from raftflow.chaos.workload.tasks import AGENT_VARIABLE
from raftflow.client.errors import ClientError
from raftflow.coordinator.build import LEVEL_VARIABLE
from raftflow.domain.features import LEVEL, NEXT_LEVEL
from raftflow.local import processes
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import LocalClusterError
from raftflow.local.faults.disk_images import DiskImage, why_impossible
from raftflow.local.faults.namespaces import Machines
from raftflow.local.processes import ProcessRecord

LEASE_MS: Final = 2_000
SPARE_REPLICAS: Final = 3
READY_S: Final = 60.0
SNAPSHOT_ENTRIES: Final = 100
"""Snapshots and compaction happen all the time, so that faults hit them too."""
_POLL_S: Final = 0.03
_IMAGE_BYTES: Final = 512 * 1024 * 1024


def make_image(directory: Path, name: str, undo: UndoList) -> DiskImage:
    """Give a replica a file system of its own in an image file. Raises `ImageError`."""
    mountpoint = directory / name
    mountpoint.mkdir()
    image = DiskImage(directory / f"{name}.img", mountpoint, size=_IMAGE_BYTES)
    image.make()
    undo.add(RunCommand(["umount", "--lazy", str(mountpoint)]))
    image.mount()
    return image


def collector_path() -> Path:
    """Return where the collector listens. A path of a Unix socket has at most 107 bytes."""
    return Path(tempfile.gettempdir()) / f"raftflow-chaos-{os.getpid()}.sock"


class Testbed:
    """A cluster, its machines, and what has to be undone."""

    def __init__(
        self, cluster: LocalCluster, history: HistoryWriter, undo: UndoList, machines: Machines | None
    ) -> None:
        self.cluster = cluster
        self.history = history
        self.undo = undo
        self.machines = machines
        self.loop = BackgroundLoop()
        self.collector = Collector(history, collector_path())
        self.busy: set[str] = set()
        """Replicas and agents with a fault at present."""
        self._points: dict[str, FailpointFile] = {}
        self._machine_of: dict[str, int] = {}
        names = [*cluster.replica_names, *cluster.agent_names]
        if machines is not None:
            self._machine_of = {name: number for number, name in enumerate(names)}
        self.free_machines = list(range(len(names), len(names) + SPARE_REPLICAS))
        self.images: dict[str, DiskImage] = {}
        """File systems of replicas that have one of their own."""
        self.proxies: ReplicaProxies | None = None
        """What stands before the replicas where network namespaces are not allowed."""
        self._proxy_loop: BackgroundLoop | None = None
        self.small_disks: set[str] = set()
        """Agents whose work directory is a small file system."""
        self.made_for_chaos = True
        self.replicas = len(cluster.replica_names)
        self.cores = os.cpu_count() or 1
        self._level: int | None = None
        """The feature level that replicas play, None before the first upgrade."""

    # --- processes

    def start(self) -> None:
        """Start everything that does not run, and wait until it is ready. Raises `LocalClusterError`."""
        self.loop.call(self.collector.start())
        if self.proxies is not None:
            self._proxy_loop = BackgroundLoop()
            for name in self.cluster.replica_names:
                self._listen_for(name)
        for name in self.cluster.replica_names:
            self.start_process(name)
        self.cluster.wait_ready(READY_S)
        self.start_all()
        self.wait_ready()

    def _listen_for(self, name: str) -> None:
        """Let the proxies listen at the addresses of a replica."""
        if self.proxies is not None and self._proxy_loop is not None:
            for port, behind in self.cluster.ports_behind(name):
                self._proxy_loop.call(self.proxies.listen(name, port, behind))

    def names_by_pid(self) -> dict[int, str]:
        """Return the replicas and agents that run, by pid."""
        names = (*self.cluster.replica_names, *self.cluster.agent_names)
        return {pid: name for name in names if (pid := self.cluster.pid_of(name)) is not None}

    def start_all(self) -> None:
        """Start every replica and agent that does not run."""
        for name in (*self.cluster.replica_names, *self.cluster.agent_names):
            self.start_process(name)

    def start_process(self, name: str) -> None:
        """Start a replica or an agent unless it runs."""
        if name in self.cluster.replica_names:
            self.cluster.start_replica(name, self.replica_environment(name))
        else:
            self.cluster.start_agent(name, self._task_environment(name))

    def _task_environment(self, name: str) -> dict[str, str]:
        return {AGENT_VARIABLE: name}

    def agent_environment(self, name: str) -> dict[str, str]:
        """Return all variables of an agent that is started beside the cluster's own."""
        token = {"RAFTFLOW_TOKEN": self.cluster.token} if self.cluster.token else {}
        return {"PATH": os.environ.get("PATH", ""), **token, **self._task_environment(name)}

    def command_of(self, name: str) -> list[str]:
        """Return what goes before a command that is to run on the machine of a replica or an agent."""
        return [] if self.machines is None else self.machines.command(self._machine_of[name])

    def add_replica(self) -> str | None:
        """Add a replica as a member; returns its name, None if no machine is free.

        Raises `LocalClusterError`, `ClientError`, `ImageError`.
        """
        if self.machines is None:
            name = self.cluster.plan_replica()
        elif self.free_machines:
            machine = self.free_machines.pop(0)
            name = self.cluster.plan_replica(self.machines.hosts[machine], self.machines.command(machine))
            self._machine_of[name] = machine
        else:
            return None
        if self.images:
            self.images[name] = make_image(self.cluster.directory, name, self.undo)
        self._listen_for(name)
        self.cluster.join_replica(name, self.replica_environment(name))
        return name

    def remove_replica(self, name: str) -> None:
        """Remove a member for ever. Raises `LocalClusterError`, `ClientError`."""
        self.cluster.remove_replica(name)
        if self.machines is not None:
            self.free_machines.append(self._machine_of[name])

    def upgrade(self) -> int:
        """Let replicas that are started from now on be of the next version; returns the level before."""
        before = LEVEL if self._level is None else self._level
        self._level = NEXT_LEVEL
        return before

    def log_size(self, name: str) -> int:
        """Return the size of a process's log."""
        return self.cluster.log_file(name).stat().st_size

    def log_since(self, name: str, size: int) -> str:
        """Return what a process has logged since its log had a size."""
        return self.cluster.log_file(name).read_bytes()[size:].decode(errors="replace")

    def replica_environment(self, name: str) -> dict[str, str]:
        """Return the variables of a replica, and make its failpoints."""
        if not self.made_for_chaos:
            return {}
        path = self.points_path(name)
        if name not in self._points:
            path.parent.mkdir(exist_ok=True)
            self._points[name] = FailpointFile.create(path)
        played = {} if self._level is None else {LEVEL_VARIABLE: str(self._level)}
        return {FAILPOINTS_VARIABLE: str(path), **played}

    def points_of(self, name: str) -> FailpointFile:
        """Return the failpoints of a replica."""
        return self._points[name]

    def points_path(self, name: str) -> Path:
        """Return the file of a replica's failpoints."""
        return self.cluster.directory / "failpoints" / name

    def process_of(self, name: str) -> ProcessRecord:
        """Return the process of a replica or an agent that runs. Raises `LocalClusterError`."""
        record = self.cluster.process_of(name)
        if record is None or not processes.alive(record):
            raise LocalClusterError(f"{name} does not run")
        return record

    # --- machines

    def machine_of(self, name: str) -> int:
        """Return the number of the machine on which a replica or an agent runs."""
        return self._machine_of[name]

    def host_of(self, name: str) -> str:
        """Return the address of a machine."""
        assert self.machines is not None  # noqa: S101 - faults of the network are only drawn with machines
        return self.machines.hosts[self._machine_of[name]]

    def why_not(self, needs: str) -> str | None:
        """Return why a fault that needs something is impossible here, None if it is possible."""
        if needs and not self.made_for_chaos:
            return "the cluster was not made for chaos"
        if needs in {"network", "late-packets"} and self.machines is None and self.proxies is None:
            return "it needs network namespaces or proxies"
        if needs == "late-packets" and self.proxies is None and not self._has_netem():
            return "it needs netem in the kernel, or proxies (--network proxies)"
        if needs == "images" and not self.images:
            return f"it needs file systems in image files: {why_impossible() or 'they could not be made'}"
        if needs == "memory-disks" and not self.small_disks:
            return "it needs a file system in memory: root and Linux"
        return None

    def _has_netem(self) -> bool:
        """Tell whether the kernel can delay and drop packets of a machine."""
        if self.machines is None:
            return False
        words = ["tc", "-netns", self.machines.names[-1], "qdisc"]
        netem = [*words, "replace", "dev", "lo", "root", "netem", "delay", "1ms"]
        try:
            return subprocess.run(netem, check=False, capture_output=True, timeout=10.0).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False

    # --- waiting

    def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until every replica and agent that runs is ready. Raises `LocalClusterError`.

        An agent that was lost several times in a row is in quarantine: it is resumed, as an operator does who knows
        why it was lost.
        """
        self.cluster.wait_ready(timeout_s)
        wanted = set(self.cluster.agent_names)

        def up() -> bool:
            try:
                with self.cluster.client(timeout_s=5.0) as client:
                    agents = {agent.name: agent for agent in client.agents() if agent.name in wanted}
                    for name, agent in agents.items():
                        if agent.quarantine_until is not None:
                            client.resume_agent(name)
                    return all(name in agents and agents[name].up for name in wanted)
            except ClientError:
                return False

        if not self.wait_for(up, timeout_s):
            raise LocalClusterError(f"the agents {', '.join(sorted(wanted))} are not all up after {timeout_s:g} s")

    def leader(self, timeout_s: float = 10.0) -> str | None:
        """Return the leader, None if nobody leads within the time."""
        try:
            return self.cluster.wait_leader(timeout_s)
        except (LocalClusterError, ClientError):
            return None

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition holds; returns whether it did."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def close(self) -> None:
        """End everything that was started."""
        self.loop.close()
        if self.proxies is not None and self._proxy_loop is not None:
            self._proxy_loop.call(self.proxies.close())
            self._proxy_loop.close()
        with contextlib.suppress(OSError):
            self.collector.path.unlink(missing_ok=True)
