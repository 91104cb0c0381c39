"""Each benchmark once, as small as it can be: it runs, its figures are whole, and nothing of it stays behind."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from raftflow.bench import figures, main
from raftflow.bench.load import jobs, peer, usage
from raftflow.bench.settings import BenchError, Settings


@pytest.mark.parametrize(
    ("name", "tasks", "wanted"),
    [
        ("lifecycle", 40, {"tasks_per_s"}),
        ("chain", 5, {"ms_per_hop"}),
        ("fanout", 20, {"seconds"}),
        ("subprocess", 20, {"tasks_per_s", "bare_per_s", "times_bare"}),
    ],
)
def test_a_job(name: str, tasks: int, wanted: set[str], tmp_path: Path) -> None:
    result = main.run(name, runs=1, data_dir=tmp_path, tasks=tasks, slots=2, agents=1)
    assert (result["name"], len(result["runs"]), result["tasks"], result["versus"]) == (name, 1, tasks, {})
    assert set(result["median"]) == set(result["spread"]) == wanted
    assert all(value > 0 for value in result["median"].values())
    assert set(result["runs"][0]["cpu_us_per_task"]) == {"leader", "follower", "agents", "workers", "client"}
    assert result["machine"]["cores"] == os.cpu_count()
    json.dumps(result)
    assert list(tmp_path.iterdir()) == []


def test_a_map_is_timed_beside_its_document(tmp_path: Path) -> None:
    result = main.run("map", runs=2, data_dir=tmp_path, tasks=20, slots=2, agents=1)
    assert (result["name"], len(result["runs"]), result["tasks"]) == ("map", 2, 20)
    assert set(result["median"]) == {"times_document", "map_tasks_per_s", "document_tasks_per_s"}
    assert all(value > 0 for value in result["median"].values())
    assert list(tmp_path.iterdir()) == []


def test_steps_are_timed_in_sequence_and_at_once(tmp_path: Path) -> None:
    result = main.run("steps", runs=1, data_dir=tmp_path, tasks=20, slots=2, agents=1, at_once=2, steps_each=5)
    assert (result["name"], len(result["runs"]), result["tasks"], result["versus"]) == ("steps", 1, 20, {})
    assert set(result["median"]) == {"ms_p50", "ms_p99", "per_s"}
    assert all(value > 0 for value in result["median"].values())
    assert list(tmp_path.iterdir()) == []


def test_signals_are_timed_to_the_code_that_waited(tmp_path: Path) -> None:
    result = main.run("waits", runs=1, data_dir=tmp_path, tasks=5, slots=2, agents=1)
    assert (result["name"], len(result["runs"]), result["tasks"]) == ("waits", 1, 5)
    assert set(result["median"]) == {"signal_ms_p50", "signal_ms_p99"}
    assert all(value > 0 for value in result["median"].values())
    assert list(tmp_path.iterdir()) == []


def test_many_parked_tasks_survive_the_end_of_all_replicas(tmp_path: Path) -> None:
    result = main.run("parked", runs=1, data_dir=tmp_path, tasks=2_000, slots=2, agents=1)
    assert (result["name"], len(result["runs"]), result["tasks"], result["cpus_used"]) == ("parked", 1, 2_000, 0)
    assert set(result["median"]) == {"takeover_s", "empty_takeover_s"}
    assert 0 < result["bytes_per_wait"] < 20_000 and result["restart_s"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_fails_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PROGRAM", "/bin/false")
    with pytest.raises(BenchError, match="ended as failed"):
        main.run("subprocess", runs=1, data_dir=tmp_path, tasks=2, slots=1, agents=1)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="no benchmark is called 'nonsense'; there are: lifecycle"):
        main.run("nonsense", data_dir=tmp_path)
    with pytest.raises(BenchError, match="--versus airflow: unknown"):
        main.run("chain", data_dir=tmp_path, versus=("airflow",))
    with pytest.raises(BenchError, match="--versus etcd: has no chain; it has commit"):
        main.run("chain", data_dir=tmp_path, versus=("etcd",))
    with pytest.raises(BenchError, match="3 slots cannot be shared evenly by 2 agents"):
        main.run("chain", data_dir=tmp_path, slots=3)
    assert list(tmp_path.iterdir()) == []


def test_a_ratio_above_one_is_better_for_rates_and_for_times() -> None:
    assert figures.times_better("tasks_per_s", 300.0, 100.0) == 3
    assert figures.times_better("per_s_64", 300.0, 100.0) == 3
    assert figures.times_better("ms_per_hop", 2.0, 6.0) == 3
    assert figures.times_better("ms_median", 2.0, 6.0) == 3
    assert figures.times_better("seconds", 1.0, 2.0) == 2
    runs = [{"per_s": 1.0}, {"per_s": 3.0}, {"per_s": 2.0}]
    assert figures.summary(runs, ["per_s"]) == {"median": {"per_s": 2.0}, "spread": {"per_s": [1.0, 3.0]}}


FAKE = """
import sys, time
from peer_loop import PeerError, Programs, given, serve

def start(programs):
    if given()["tasks"] == 13:
        raise PeerError("install luck")
    programs.start(["sleep", "1000"])
    print("this line is not an answer")
    return lambda: {"seconds": given()["tasks"] / 10}

serve(start, [], fake="1.0")
"""


@pytest.fixture
def fake_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `fake` be a peer whose script runs with our own python."""
    scripts = tmp_path / "peers"
    shutil.copytree(peer.SCRIPTS, scripts)
    (scripts / "fake_peer.py").write_text(FAKE)
    monkeypatch.setattr(peer, "SCRIPTS", scripts)
    monkeypatch.setattr(peer, "environment", lambda _: Path(sys.executable))


def wait_stopped(pid: int, *, stopped: bool) -> None:
    """Wait until a process is stopped, or runs."""
    deadline = time.monotonic() + 10
    while (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T") != stopped:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.usefixtures("fake_peer")
def test_a_peer_is_started_asked_and_stopped(tmp_path: Path) -> None:
    settings = Settings(directory=tmp_path / "run" / "cluster", runs=1, tasks=20)
    settings.directory.parent.mkdir()
    with peer.Peer("fake", "lifecycle", settings) as other:
        assert other.versions == {"fake": "1.0"}
        assert [other.run(), other.run()] == [2.0, 2.0]
        process = other._process
        assert process is not None
        group = process.pid
        os.killpg(group, 0)
        pids = [group, *usage.descendants(group)]
        assert len(pids) == 2
        for pid in pids:
            wait_stopped(pid, stopped=True)  # while others are measured
        other.resume()
        for pid in pids:
            wait_stopped(pid, stopped=False)
        other.suspend()  # and is stopped all the same
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)
    assert list(settings.directory.parent.iterdir()) == []


@pytest.mark.usefixtures("fake_peer")
def test_a_peer_that_cannot_be_run_says_what_to_install(tmp_path: Path) -> None:
    settings = Settings(directory=tmp_path / "cluster", runs=1, tasks=13)
    with pytest.raises(BenchError, match="--versus fake: install luck"), peer.Peer("fake", "lifecycle", settings):
        pass
