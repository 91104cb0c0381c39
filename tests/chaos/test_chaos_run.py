"""`raftflow chaos run` on real processes: its contract, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from raftflow import helpers
from raftflow.local import processes
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

KINDS = ("kill-leader", "pause-follower", "kill-agent", "kill-all", "isolate-leader")
GONE_S = 30.0


def chaos(directory: Path, minutes: float, kinds: Sequence[str], *more: str) -> list[str]:
    faults = [word for kind in kinds for word in ("--fault", kind)]
    arguments = ["--minutes", str(minutes), "--dir", str(directory), *faults, *more]
    return helpers.command("raftflow", "chaos", "run", *arguments)


def eventually(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def namespaces() -> set[str]:
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_a_short_run_injects_faults_and_finds_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    argv = chaos(directory, 0.2, KINDS, "--seed", "7", "-o", "json")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["violations"] == []
    assert report["seed"] == 7
    assert len(report["faults"]) >= 3
    assert report["acknowledged"] > 20
    assert report["tasks"] > 50
    assert report["recovery_s"].keys() == report["faults"].keys()
    assert {*report["faults"], *report["without_effect"], *report["impossible"]} <= set(KINDS)
    lines = [json.loads(line) for line in Path(report["history"]).read_text().splitlines()]
    assert (lines[0]["type"], lines[-1]["type"]) == ("header", "end")
    effects = [line["kind"] for line in lines if line["type"] == "fault" and line["event"] == "effect"]
    assert len(effects) == sum(report["faults"].values())
    final = next(line for line in lines if line["type"] == "final")
    assert (final["audit_verified"], final["digests_equal"], final["unfinished"]) == (True, True, 0)
    assert not (directory / "cluster").exists(), "a cluster without a violation is removed"
    assert str(directory) not in Path("/proc/mounts").read_text()


AS_NOBODY = (
    "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
    "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search",
    "--bounding-set=-all,+dac_read_search",
)  # fmt: skip
"""Another user, who may read every file: the interpreter may lie in a home."""


@pytest.mark.long
def test_run_without_root_goes_through_proxies_and_says_what_is_impossible() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("NOT CHECKED: it needs root and setpriv, to become another user")
    directory = Path(tempfile.mkdtemp(prefix="chaos-nobody-"))
    try:
        os.chown(directory, 65534, 65534)
        kinds = [
            "silence-leader",
            "isolate-leader",
            "cut-one-way",
            "slow-link",
            "delay-link",
            "lossy-link",
            "power-loss",
        ]
        argv = [*AS_NOBODY, *chaos(directory / "run", 0.4, kinds, "-o", "json")]
        environment = {**os.environ, "HOME": str(directory), "TMPDIR": str(directory)}
        done = subprocess.run(
            argv, env=environment, cwd=directory, capture_output=True, text=True, check=False, timeout=170
        )
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(done.stdout)
        assert report["impossible"].keys() == {"power-loss"}
        assert "impossible here: power-loss" in done.stderr
        assert len(report["faults"]) >= 3
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.long
def test_changes_of_members_and_of_their_disks_take_effect(tmp_path: Path) -> None:
    kinds = ["shrink-members", "grow-members", "wipe-majority-apart", "flip-bits-of-two"]
    argv = chaos(tmp_path / "run", 1.2, kinds, "-o", "json")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["violations"] == []
    assert set(report["faults"]) == set(kinds)


def test_a_cluster_that_was_not_made_for_chaos_is_left_alone(tmp_path: Path) -> None:
    """It is used only by somebody who says so. In the end every process of it runs."""
    cluster = LocalCluster.create(tmp_path / "cluster", ClusterOptions(nodes=3, agents=2))
    try:
        argv = chaos(tmp_path / "refused", 0.1, ["kill-leader"], "--cluster", str(cluster.directory))
        refused = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        assert refused.returncode == 4
        assert "--i-mean-it" in refused.stderr
        assert cluster.pid_of("n1") is None, "nothing was started"
        cluster.start()
        kinds = ["kill-leader", "kill-agent", "clock-forward", "isolate-leader"]
        argv = chaos(tmp_path / "run", 0.1, kinds, "--cluster", str(cluster.directory), "--i-mean-it", "-o", "json")
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(done.stdout)
        assert set(report["impossible"]) == {"clock-forward", "isolate-leader"}
        assert report["faults"]
        assert all(cluster.pid_of(name) is not None for name in (*cluster.replica_names, *cluster.agent_names))
        cluster.wait_ready()
    finally:
        cluster.down()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_nothing_stays_behind_when_the_nemesis_is_ended_in_a_fault(tmp_path: Path, signum: signal.Signals) -> None:
    """A fault is under way: a replica is stopped. The watchdog undoes it and ends the cluster."""
    before = namespaces()
    directory = tmp_path / "run"
    argv = chaos(directory, 5.0, ["pause-majority"], "--seed", "3")
    with (tmp_path / "said").open("wb") as said:
        nemesis = subprocess.Popen(argv, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    try:
        eventually(lambda: b"pause-majority on" in (tmp_path / "said").read_bytes(), 60.0, "no fault begins")
        cluster = LocalCluster.load(directory / "cluster")
        records = [cluster.process_of(name) for name in (*cluster.replica_names, *cluster.agent_names)]
        assert all(record is not None and processes.alive(record) for record in records)
        nemesis.send_signal(signum)
        assert nemesis.wait(60.0) == (-signal.SIGKILL if signum == signal.SIGKILL else 130)
    finally:
        nemesis.kill()
        nemesis.wait()
    eventually(lambda: not any(processes.alive(record) for record in records), GONE_S, "the cluster goes on")
    eventually(lambda: namespaces() <= before, GONE_S, "namespaces stay")
