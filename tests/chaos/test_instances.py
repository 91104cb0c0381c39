"""Recorded workflows in the load of a chaos run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from raftflow.chaos.workload import instances
from raftflow.chaos.workload.instances import VARIABLE, plan_instance, read_instances
from raftflow.chaos.workload.tasks import combine


def instance(path: Path, tasks: int) -> None:
    names = [f"t{number}" for number in range(tasks)]
    specified = [
        {"id": name, "name": name, "parents": names[number - 1 : number], "children": [], "inputFiles": []}
        for number, name in reversed(list(enumerate(names)))
    ]
    ran = [{"id": name, "runtimeInSeconds": 100.0} for name in names]
    workflow = {"specification": {"tasks": specified}, "execution": {"tasks": ran}}
    path.write_text(json.dumps({"name": "recorded", "schemaVersion": "1.5", "workflow": workflow}))


def test_instances_of_the_named_folder_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    instance(tmp_path / "chain.json", 3)
    instance(tmp_path / "great.json", instances.TASKS_MAX + 1)
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    found, words = read_instances()
    assert [each.name for each in found] == ["chain"]
    assert words.startswith("1 recorded workflows")
    assert [(task.id, list(task.needs)) for task in found[0].tasks] == [("t0", []), ("t1", ["t0"]), ("t2", ["t1"])]


def test_missing_folder_is_told_and_the_own_example_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    found, words = read_instances()
    assert words.startswith("NO RECORDED WORKFLOWS")
    assert [each.name for each in found] == ["recorded"]


def test_planned_instance_has_the_results_and_the_scaled_run_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    instance(tmp_path / "chain.json", 8)
    (recorded,) = read_instances()[0]
    planned = plan_instance("run-1", recorded, random.Random(1), "/socket")
    assert [task["kwargs"]["sleep_ms"] for task in planned.document["tasks"]] == [1_000] * 8
    first, second = planned.tasks[:2]
    salt = planned.document["tasks"][1]["kwargs"]["salt"]
    assert second["expect"] == combine(salt, {"t0": first["expect"]})
