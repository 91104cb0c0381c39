"""Benchmarks of single parts, as small as they can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftflow.bench import fleet, main, soak


def test_commit(tmp_path: Path) -> None:
    result = main.run("commit", runs=1, data_dir=tmp_path, seconds=0.1)
    rates = {"per_s", "per_s_4", "per_s_16", "per_s_64", "per_s_256"}
    assert set(result["median"]) == {"ms_median", "ms_p99", "ms_median_4096", "ms_median_32768", *rates}
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
    assert set(result["median"]) == set(fleet.FIGURES)
    assert result["median"]["idle_polls_per_s"] >= 0
    assert result["median"]["wake_seconds"] > 0
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
