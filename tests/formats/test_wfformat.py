"""Recorded workflows become documents that cost what was recorded."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import orjson
import pytest

from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.files import load
from raftflow.formats.foreign.wfformat import Conversion, convert, cores_of


@pytest.fixture
def recorded(examples: Path) -> dict[str, Any]:
    document = orjson.loads((examples / "recorded.wfformat.json").read_bytes())
    assert isinstance(document, dict)
    return document


def test_what_a_recording_becomes(recorded: dict[str, Any]) -> None:
    assert convert(recorded, Conversion(time_scale=0.1)) == {
        "name": "recorded",
        "tasks": [
            {
                "id": "split_1_",
                "needs": [],
                "resources": {"cpu": 1, "memory": "8MiB"},
                "expected": 0.05,
                "backup": True,
                "python": "raftflow.burn:burn",
                "kwargs": {"cpu_seconds": 0.02, "memory_mib": 0, "threads": 1, "seconds": 0.05},
            },
            {
                "id": "work_1",
                "needs": ["split_1_"],
                "resources": {"cpu": 2, "memory": "64MiB"},
                "expected": 0.4,
                "backup": True,
                "python": "raftflow.burn:burn",
                "kwargs": {"cpu_seconds": 0.722, "memory_mib": 7, "threads": 2, "seconds": 0.4},
            },
            {
                "id": "work_2",
                "needs": ["split_1_"],
                "resources": {"cpu": 1, "memory": "33MiB"},
                "expected": 0.35,
                "backup": True,
                "python": "raftflow.burn:burn",
                "kwargs": {"cpu_seconds": 0.35, "memory_mib": 4, "threads": 1, "seconds": 0.35},
            },
            {
                "id": "join",
                "needs": ["work_1", "work_2"],
                "resources": {"cpu": 1},
                "expected": 0.1,
                "backup": True,
                "python": "raftflow.burn:burn",
                "kwargs": {"cpu_seconds": 0.1, "memory_mib": 0, "threads": 1, "seconds": 0.1},
            },
        ],
    }


def test_the_command_burner_and_the_scale_of_memory(recorded: dict[str, Any]) -> None:
    task = convert(recorded, Conversion(memory_scale=0.5, burner="command", python="py"))["tasks"][1]
    assert task["resources"] == {"cpu": 2, "memory": "32MiB"}
    assert task["command"] == [
        *("py", "-m", "raftflow.burn", "--cpu-seconds", "7.22", "--memory-mib", "32"),
        *("--threads", "2", "--seconds", "4.0"),
    ]


@pytest.mark.parametrize(
    ("core_count", "avg_cpu", "cores"),
    [
        (None, None, 1),
        (4.0, 20.0, 4),
        (None, 3.5, 1),
        (None, 100.67, 1),
        (None, 106.0, 2),
        (None, 390.0, 4),
        (0.0, 250.0, 3),
    ],
)
def test_cores(core_count: float | None, avg_cpu: float | None, cores: int) -> None:
    assert cores_of(core_count, avg_cpu) == cores


def test_ids_stay_unique_when_they_are_cleaned(recorded: dict[str, Any]) -> None:
    tasks = [{"id": "a b"}, {"id": "a/b", "parents": ["a b"]}, {"id": "-x", "parents": ["a/b"]}, {"id": "é" * 300}]
    recorded["workflow"] = {"specification": {"tasks": tasks}}
    document = convert(recorded, Conversion())
    assert [(task["id"], task["needs"]) for task in document["tasks"]] == [
        ("a_b", []),
        ("a_b-2", ["a_b"]),
        ("_x", ["a_b-2"]),
        ("_", []),
    ]
    assert [task["expected"] for task in document["tasks"]] == [1.0] * 4
    normalize(document)


def test_an_edge_may_stand_on_either_side(recorded: dict[str, Any]) -> None:
    whole = convert(copy.deepcopy(recorded), Conversion())
    for side in ("parents", "children"):
        half = copy.deepcopy(recorded)
        for task in half["workflow"]["specification"]["tasks"]:
            del task[side]
        assert convert(half, Conversion()) == whole


def test_every_fault_is_named(recorded: dict[str, Any]) -> None:
    tasks = recorded["workflow"]["specification"]["tasks"]
    tasks[1]["parents"] = ["nobody"]
    tasks[2]["children"] = "join"
    tasks.append({"id": "join"})
    tasks.append({"name": "no id"})
    runs = recorded["workflow"]["execution"]["tasks"]
    runs[0]["runtimeInSeconds"] = -1
    runs[1]["avgCPU"] = "much"
    runs[3]["memoryInBytes"] = 1e300
    runs.append(None)
    with pytest.raises(DocumentError) as caught:
        convert(recorded, Conversion())
    assert sorted(problem.path for problem in caught.value.problems) == sorted(
        [
            "workflow.execution.tasks[4].id",
            "workflow.execution.tasks[join].memoryInBytes",
            "workflow.execution.tasks[split (1)].runtimeInSeconds",
            "workflow.execution.tasks[work/1].avgCPU",
            "workflow.specification.tasks[1].parents[0]",
            "workflow.specification.tasks[2].children",
            "workflow.specification.tasks[4].id",
            "workflow.specification.tasks[5].id",
        ]
    )


@pytest.mark.parametrize(
    "change",
    [
        {"schemaVersion": "1.3"},
        {"workflow": {}},
        {"workflow": {"specification": {}}},
        {"workflow": {"specification": 3}},
    ],
)
def test_what_is_no_wfformat(recorded: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(DocumentError):
        convert({**recorded, **change}, Conversion())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_scales_that_make_no_sense(scale: float) -> None:
    with pytest.raises(ValueError, match="time-scale must be"):
        Conversion(time_scale=scale)


def test_every_published_instance_loads(wfinstances: list[Path]) -> None:
    """And asks for no more than two local agents are declared with."""
    sizes = {}
    for file in wfinstances:
        spec = normalize(load(file, conversion=Conversion(time_scale=0.001)))
        raw = orjson.loads(file.read_bytes())["workflow"]["specification"]["tasks"]
        sizes[file.name] = len(spec.tasks)
        assert len(spec.tasks) == len(raw)
        assert sum(len(task.needs) for task in spec.tasks) == sum(len(task["parents"]) for task in raw)
        assert max(task.resources["cpu"] for task in spec.tasks) <= 2_000
        assert max(task.resources.get("memory", 0) for task in spec.tasks) <= 2_281
    assert sum(sizes.values()) > 1_000, sizes
