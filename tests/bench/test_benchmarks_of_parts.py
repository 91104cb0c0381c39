"""Benchmarks of single parts, as small as they can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftflow.bench import main
from raftflow.bench.benchmarks import agents, flood, pauses, soak


def test_commit(tmp_path: Path) -> None:
    result = main.run("commit", runs=1, data_dir=tmp_path, seconds=0.5)
    rates = {"per_s", "per_s_4", "per_s_16", "per_s_64", "per_s_256"}
    latencies = {"ms_median", "ms_p99", "ms_median_4096", "ms_median_32768"}
    assert set(result["median"]) == {*latencies, *rates, "transitions_per_s"}
    crowd = result["runs"][0]["many_clients"]
    assert crowd["transitions"] >= crowd["workflows"] > 0, "counted from the audit; a workflow has more than one"
    assert set(crowd["cpu_us_per_transition"]) == {"leader", "follower", "clients"}
    assert all(value > 0 for value in result["median"].values())
    json.dumps(result)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("apply", {"per_s", "us_per_task_life", "bytes_per_live_task"}),
        ("place", {"per_s", "place_ms", "view_ms", "add_us"}),
        ("snapshot", {f"{key}_1500" for key in ("pause_ms", "seconds", "restore_s", "mib", "resident_mib")}),
    ],
)
def test_pure_parts(name: str, wanted: set[str], tmp_path: Path) -> None:
    result = main.run(name, runs=1, data_dir=tmp_path, tasks=1_500)
    assert set(result["median"]) == wanted
    assert all(value > 0 for value in result["median"].values())
    json.dumps(result)


def test_agents(tmp_path: Path) -> None:
    result = main.run("agents", runs=1, data_dir=tmp_path, tasks=20, seconds=0.5)
    assert set(result["median"]) == set(agents.FIGURES)
    assert result["median"]["idle_polls_per_s"] >= 0
    assert result["median"]["wake_seconds"] > 0
    json.dumps(result)
    assert list(tmp_path.iterdir()) == []


def test_pauses(tmp_path: Path) -> None:
    result = main.run("pauses", runs=1, data_dir=tmp_path, tasks=2_000, seconds=0.5)
    assert set(result["median"]) == set(pauses.FIGURES)
    assert set(result["runs"][0]["snapshot_s"]) == {"n1", "n2", "n3"}, "each has written one with all tasks in it"
    assert result["median"]["snapshot_leader_ms_most"] >= result["median"]["snapshot_leader_ms_p999"] > 0
    json.dumps(result)
    assert list(tmp_path.iterdir()) == []


def test_a_long_answer_stands_for_the_requests_that_were_due_meanwhile() -> None:
    samples = [("n1", 1.0, 0.012), ("n1", 2.0, 0.001), ("n2", 1.0, 0.5)]
    found = list(pauses._inside(samples, "n1", [(0.5, 1.5)]))
    assert found == pytest.approx([0.012, 0.007, 0.002])


def test_flood(tmp_path: Path) -> None:
    result = main.run("flood", runs=1, data_dir=tmp_path, tasks=20, seconds=1.0)
    assert set(result["median"]) == set(flood.FIGURES)
    run = result["runs"][0]
    for phase in ("bad", "heavy"):
        assert run[f"{phase}_offered_per_s"] >= run[f"{phase}_answered_per_s"] > 0
    statuses = {status for tally in run["bad_flood"] for status in tally["statuses"]}
    assert {"400", "401", "404", "405"} <= statuses, "each kind of bad request is refused for what it is"
    assert not statuses & {"200", "201"}
    json.dumps(result)
    assert list(tmp_path.iterdir()) == []


def test_recovery(tmp_path: Path) -> None:
    result = main.run("recovery", runs=1, data_dir=tmp_path, tasks=100)
    assert set(result["median"]) == {"seconds", "resident_mib"}
    assert result["median"]["seconds"] > 0
    json.dumps(result)
    assert list(tmp_path.iterdir()) == []


def test_soak(tmp_path: Path) -> None:
    result = main.run("soak", runs=1, data_dir=tmp_path, tasks=100, seconds=1.0, slots=2, agents=1)
    assert set(result["median"]) == set(soak.FIGURES)
    assert result["median"]["ms_median"] > 0
    assert result["median"]["leader_mib_first"] > 10
    json.dumps(result)
    assert list(tmp_path.iterdir()) == []
