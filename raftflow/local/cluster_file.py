"""What a local cluster's directory says of it: `cluster.json`, read and changed by several programs at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import msgspec

from raftflow.domain.values.exact import UNREADABLE
from raftflow.local.processes import ProcessRecord
from raftflow.private_files import open_private, write_private


class LocalClusterError(Exception):
    """A request that the local cluster cannot fulfil. Says why and what to do."""


class ReplicaPlace(msgspec.Struct, kw_only=True):
    """One replica of the local cluster."""

    name: str
    url: str
    peer: str
    machine: list[str] = []
    """What goes before its command, to have it run on a machine of its own (`local.namespaces`)."""
    module: str = "raftflow"
    """The program that takes its command line: raftflow, or raftflow with failpoints."""
    bind: int = 0
    """The loopback port where it listens for clients if `url` is the address of a proxy, else 0."""
    peer_bind: int = 0
    """The same for `peer`."""
    process: ProcessRecord | None = None


class AgentPlace(msgspec.Struct, kw_only=True):
    """One agent of the local cluster."""

    name: str
    arguments: list[str] = []
    machine: list[str] = []
    """What goes before its command, as for a replica."""
    process: ProcessRecord | None = None


class ClusterFile(msgspec.Struct, kw_only=True):
    """What `cluster.json` holds."""

    format: int = 1
    cluster_id: str
    directory: str = ""
    """Where the cluster lives. A copy of the directory has the ports and the pids of its original."""
    with_token: bool = False
    """True if clients need the token that is in the file beside this one."""
    replicas: list[ReplicaPlace]
    agents: list[AgentPlace]


class ClusterOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a local cluster is set up."""

    nodes: int = 3
    agents: int = 2
    agent_cpus: float = 4.0
    """CPUs that each agent offers, whatever the machine has: a local cluster is for trying things out."""
    agent_memory: str = "8GiB"
    prefetch: int = 16
    lease_ms: int = 3_000
    with_token: bool = False
    """Ask clients and agents for a token, which is made here."""
    replica_toml: str = ""
    """More TOML for every replica's file, such as a `[limits]` table."""
    timing: dict[str, int] = {}
    """More keys of the `[timing]` table."""
    restore: Path | None = None
    """A snapshot of a cluster, which this one continues."""
    hosts: tuple[tuple[str, list[str]], ...] = ()
    """Of each replica its address and what goes before its command; this machine's loopback if it is empty."""
    agent_machines: tuple[list[str], ...] = ()
    """Of each agent what goes before its command; nothing if it is empty."""
    agent_labels: tuple[dict[str, str], ...] = ()
    """Labels of each agent; none if it is empty."""
    proxied: bool = False
    """A proxy, which somebody else runs, listens at the addresses of the replicas; they listen on ports behind it."""
    replica_module: str = "raftflow"
    """The program that takes the command line of a replica."""


class ClusterFileStore:
    """The file of a cluster's directory, and what it said when it was read last."""

    def __init__(self, directory: Path, content: ClusterFile) -> None:
        self._directory = directory
        self.content = content
        self._read_from: tuple[int, int] | None = None
        """Inode and time of the file that `content` came from: other programs may start processes too."""

    def check_place(self) -> None:
        """Find out whether the directory was moved or copied. Raises `LocalClusterError` for a copy.

        A copy names the processes and ports of its original, so stopping the copy would stop the original.
        """
        original = Path(self.content.directory)
        if original == self._directory or original.resolve() == self._directory.resolve():
            return
        with contextlib.suppress(OSError, *UNREADABLE):
            found = msgspec.json.decode((original / "cluster.json").read_bytes(), type=ClusterFile)
            if found.cluster_id == self.content.cluster_id:
                raise LocalClusterError(
                    f"{self._directory} is a copy of {original}, and both would use the same ports and processes: "
                    f"use {original}. If the copy is to replace it, stop that cluster, move its directory away, and "
                    f"try again"
                )
        with self.changing():
            self.content.directory = str(self._directory)

    def refresh(self) -> None:
        """Read the file again if another program has changed it."""
        file = self._directory / "cluster.json"
        try:
            found = file.stat()
            if self._read_from != (found.st_ino, found.st_mtime_ns):
                self.content = msgspec.json.decode(file.read_bytes(), type=ClusterFile)
                self._read_from = (found.st_ino, found.st_mtime_ns)
        except OSError as error:
            raise LocalClusterError(f"{file} cannot be read: {error}") from error
        except UNREADABLE as error:
            raise LocalClusterError(f"{file} is damaged: {error}") from error

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the directory's lock, start from what the file says now, and write it afterwards."""
        with open(self._directory / "lock", "w", opener=open_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield
            self.save()

    def save(self) -> None:
        """Write the file as a whole."""
        file = self._directory / "cluster.json"
        write_private(file, msgspec.json.format(msgspec.json.encode(self.content), indent=2))
        found = file.stat()
        self._read_from = (found.st_ino, found.st_mtime_ns)
