"""`cluster doctor` on real processes: healthy, with wrong modes and limits, with one that hangs, and all down."""

from __future__ import annotations

import asyncio
import resource
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from raftflow.cli.main import root
from raftflow.client import AsyncClient
from raftflow.doctor.examine import examine
from raftflow.doctor.findings import CheckResult, Diagnosis
from raftflow.doctor.gather import ASK_S, PAUSE_S, gather
from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

OF_A_BUSY_MACHINE = {"cpu-pressure", "io-pressure", "memory-pressure", "loop-lag", "disk-sync", "lag", "elections"}
"""Findings that a machine can cause which runs other tests beside this one."""


def diagnose(cluster: LocalCluster) -> Diagnosis:
    async def ask() -> Diagnosis:
        async with AsyncClient(cluster.urls, token=cluster.token, environ={}) as client:
            return examine(await gather(client))

    return asyncio.run(ask())


def bad(found: Diagnosis) -> dict[tuple[str, str], CheckResult]:
    return {
        (each.subject, each.code): each
        for each in found.findings
        if not each.is_ok and each.code not in OF_A_BUSY_MACHINE
    }


def open_to_others(directory: Path) -> list[str]:
    """Folders that other users can enter, and files with a mode for others in them."""
    folders = [directory, *(path for path in directory.rglob("*") if path.is_dir())]
    return [str(path) for path in folders if stat.S_IMODE(path.stat().st_mode) & 0o077] + [
        str(path) for path in (directory / "logs").iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def test_a_cluster_that_gets_sick(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=1, with_token=True)
    cluster.wait_leader()
    cluster.wait_agents()
    assert open_to_others(cluster.directory) == []
    found = diagnose(cluster)
    assert bad(found) == {}
    assert (found.leader, sorted(found.reached)) == (cluster.leader(), ["n1", "n2", "n3"])

    victim = next(name for name in cluster.replica_names if name != found.leader)
    pid = cluster.pid_of(victim)
    assert pid is not None
    secret = cluster.directory / "secret"
    secret.chmod(0o644)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (300, 300))
    found = diagnose(cluster)
    secret.chmod(0o600)
    sick = bad(found)
    assert sick.keys() == {*((name, "file-mode") for name in cluster.replica_names), (victim, "descriptors")}
    assert f"{secret} has mode 0644" in sick[victim, "file-mode"].measured
    assert sick[victim, "descriptors"].measured.endswith("the limit is 300")

    assert cluster.signal(victim, signal.SIGSTOP)
    try:
        began_s = time.monotonic()
        found = diagnose(cluster)
        took_s = time.monotonic() - began_s
    finally:
        cluster.signal(victim, signal.SIGCONT)
    assert bad(found).keys() == {(victim, "replica"), ("cluster", "quorum")}
    assert "no answer in time" in bad(found)[victim, "replica"].measured
    assert took_s < 3 * ASK_S + PAUSE_S

    cluster.down()
    found = diagnose(cluster)
    assert (found.leader, found.reached) == (None, [])
    assert {code for _, code in bad(found)} == {"replica", "quorum", "leader", "agents"}
    printed = CliRunner().invoke(root, ["cluster", "doctor", "--data-dir", str(cluster.directory)]).output
    assert [
        name for name in cluster.replica_names if f"PROBLEM {name}: replica: connection refused" not in printed
    ] == []
