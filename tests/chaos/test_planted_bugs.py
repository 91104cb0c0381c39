"""Planted bugs: they are put into processes of chaos clusters, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raftflow import helpers
from raftflow.chaos.checker.findings import KINDS
from raftflow.chaos.making import MARKER
from raftflow.chaos.nemesis.catalogue import NAMES
from raftflow.chaos.planted.__main__ import VARIABLE, is_for_chaos
from raftflow.chaos.planted.bugs import BUGS, PlantedBug
from raftflow.chaos.planted.hunt import hunt_bug, planted, run_without


def start(bug: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "raftflow.chaos.planted", *arguments]
    return subprocess.run(argv, env={**os.environ, VARIABLE: bug}, capture_output=True, text=True, check=False)


def test_bug_is_refused_outside_of_a_chaos_cluster(tmp_path: Path) -> None:
    done = start("lease-not-checked", "coordinator", "run", "--config", str(tmp_path / "n1.toml"))
    assert done.returncode == 1
    assert MARKER in done.stderr


def test_unknown_bug_is_refused(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{}")
    done = start("typo", "coordinator", "run", "--config", str(tmp_path / "n1.toml"))
    assert done.returncode == 1
    assert "lease-not-checked" in done.stderr


def test_planted_process_takes_the_arguments_of_raftflow(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text("{}")
    done = start("lease-not-checked", "coordinator", "run", "--config", str(tmp_path / "n1.toml"))
    assert done.returncode == 2
    assert "n1.toml" in done.stderr
    assert is_for_chaos(["--work-dir", str(tmp_path / "a1" / "work")])


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_bug_can_be_planted_and_brought_to_light(bug: PlantedBug) -> None:
    with bug.plant():
        pass
    assert set(bug.faults) <= set(NAMES)
    assert set(bug.kinds) <= KINDS.keys()


def test_replicas_and_agents_are_started_with_the_bug_and_helpers_without() -> None:
    with planted(BUGS[0]):
        assert "raftflow.chaos.planted" in helpers.command("raftflow", "agent", "run")
        assert "raftflow.chaos.planted" in helpers.command("raftflow.chaos.failpoints", "coordinator", "run")
        assert "raftflow.chaos.planted" not in helpers.command("raftflow.chaos.checker", "history")
        assert os.environ[VARIABLE] == BUGS[0].name
    assert "raftflow.chaos.planted" not in helpers.command("raftflow", "agent", "run")
    assert VARIABLE not in os.environ


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_bug_is_found_on_real_processes(bug: PlantedBug, tmp_path: Path) -> None:
    found = hunt_bug(bug, tmp_path, minutes=10, run_minutes=0.4, seed=1, say=print)
    assert found.found


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_nothing_is_found_with_the_same_faults_and_no_bug(bug: PlantedBug, tmp_path: Path) -> None:
    found = run_without(bug, tmp_path, run_minutes=0.4, seed=1, say=print)
    assert not found.violations
    assert found.faults or bug.restores
    assert found.operations > 100
