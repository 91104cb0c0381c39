"""Makes the cluster of a chaos run: its machines, its file systems, its directory; or takes one that exists."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftflow.chaos.history import HistoryWriter
from raftflow.chaos.proxy import ReplicaProxies
from raftflow.chaos.testbed import LEASE_MS, SNAPSHOT_ENTRIES, SPARE_REPLICAS, Testbed, make_image
from raftflow.chaos.undo import EndCluster, RunCommand, UndoList
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions, LocalClusterError
from raftflow.local.faults.disk_images import DiskImage, ImageError, why_impossible
from raftflow.local.faults.namespaces import Machines, NamespaceError, check

MARKER: Final = "chaos.json"
"""A file that only clusters have which were made for chaos."""
_LIMITS: Final = f"[limits]\nsnapshot_entries = {SNAPSHOT_ENTRIES}\n"
_AGENT_DISK_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TestbedPlan:
    """What a cluster for chaos is made of."""

    replicas: int
    agents: int
    with_disks: bool
    """Each replica and agent has a file system of its own, if that is possible."""
    network: str = "auto"
    """`namespaces`, `proxies`, or `auto`: namespaces where they are allowed."""


@contextlib.contextmanager
def testbed(directory: Path, plan: TestbedPlan, history: HistoryWriter, undo: UndoList) -> Iterator[Testbed]:
    """Make a cluster for chaos and start it; everything is taken down at the end.

    Raises `LocalClusterError`.
    """
    replicas, agents, with_disks = plan.replicas, plan.agents, plan.with_disks
    machines = None
    if plan.network != "proxies":
        machines = _make_machines(replicas + agents + SPARE_REPLICAS, undo)
    if machines is None and plan.network == "namespaces":
        raise LocalClusterError(
            "network namespaces cannot be made here: they need root, Linux and iproute2. Use --network proxies"
        )
    cluster = LocalCluster.create(directory, _options(replicas, agents, machines))
    images = _make_images(cluster, undo) if with_disks else {}
    small_disks = _make_small_disks(cluster, undo) if with_disks else set()
    undo.add(EndCluster(str(cluster.directory)))
    (directory / MARKER).write_text(json.dumps({"made_for": "chaos"}) + "\n", encoding="utf-8")
    bed = Testbed(cluster, history, undo, machines)
    bed.images, bed.small_disks = images, small_disks
    if machines is None:
        bed.proxies = ReplicaProxies(bed.names_by_pid)
    try:
        bed.start()
        yield bed
    finally:
        bed.close()


@contextlib.contextmanager
def existing_testbed(
    directory: Path, history: HistoryWriter, undo: UndoList, *, i_mean_it: bool
) -> Iterator[Testbed]:
    """Use a local cluster that exists, in which every process runs again at the end.

    Raises `LocalClusterError` if it was not made for chaos, unless the user means it.
    """
    cluster = LocalCluster.load(directory)
    if not (cluster.directory / MARKER).exists() and not i_mean_it:
        raise LocalClusterError(
            f"{directory} was not made for chaos: its processes would be killed and stopped, and workflows be "
            f"submitted. If that is what you want, add --i-mean-it"
        )
    bed = Testbed(cluster, history, undo, None)
    bed.made_for_chaos = False
    try:
        bed.start()
        yield bed
    finally:
        bed.close()


def _make_machines(count: int, undo: UndoList) -> Machines | None:
    """Make network namespaces, where that is allowed."""
    try:
        check()
    except NamespaceError:
        return None
    machines = Machines(count)
    for name in (*machines.names, machines.bridge):
        undo.add(RunCommand(["ip", "link", "delete", name]))
    for name in machines.names:
        undo.add(RunCommand(["ip", "netns", "delete", name]))
    try:
        machines.make()
    except NamespaceError:
        machines.remove()
        return None
    return machines


def _make_images(cluster: LocalCluster, undo: UndoList) -> dict[str, DiskImage]:
    """Give each replica a file system in an image file, where that is possible."""
    if why_impossible() is not None:
        return {}
    images: dict[str, DiskImage] = {}
    try:
        for name in cluster.replica_names:
            images[name] = make_image(cluster.directory, name, undo)
    except ImageError:
        for image in images.values():
            image.unmount()
        return {}
    return images


def _make_small_disks(cluster: LocalCluster, undo: UndoList) -> set[str]:
    """Give each agent a small file system in memory, where that is possible."""
    if os.geteuid() != 0:
        return set()
    made: set[str] = set()
    for name in cluster.agent_names:
        mountpoint = cluster.directory / name
        mountpoint.mkdir()
        undo.add(RunCommand(["umount", "--lazy", str(mountpoint)]))  # a process that ends late may still be in it
        argv = ["mount", "-t", "tmpfs", "-o", f"size={_AGENT_DISK_BYTES},mode=0700", "tmpfs", str(mountpoint)]
        if subprocess.run(argv, check=False, capture_output=True).returncode != 0:
            return set()
        made.add(name)
    return made


def _options(replicas: int, agents: int, machines: Machines | None) -> ClusterOptions:
    common: dict[str, Any] = {
        "nodes": replicas,
        "agents": agents,
        "agent_cpus": 3.0,
        "prefetch": 4,
        "lease_ms": LEASE_MS,
        "replica_toml": _LIMITS,
        "replica_module": "raftflow.chaos.failpoints",
    }
    if machines is None:
        return ClusterOptions(**common, proxied=True)
    commands = [machines.command(number) for number in range(replicas + agents)]
    return ClusterOptions(
        **common,
        with_token=True,
        hosts=tuple(zip(machines.hosts[:replicas], commands[:replicas], strict=True)),
        agent_machines=tuple(commands[replicas:]),
    )
