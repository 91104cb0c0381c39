"""Recorded workflows (WfFormat instances) as a part of the load: their shape and run times, with tasks of ours.

RAFTFLOW_WFINSTANCES names a folder of instances; else `shared/wfinstances` beside the checkout is looked at. The
project ships one small instance of its own, which is used where there is no folder.
"""

from __future__ import annotations

import graphlib
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

import raftflow.formats
from raftflow.chaos.workload.documents import CALL, PlannedWorkflow
from raftflow.chaos.workload.tasks import MODULUS, combine
from raftflow.formats.faults import DocumentError
from raftflow.formats.foreign.wfformat import Conversion, convert

VARIABLE: Final = "RAFTFLOW_WFINSTANCES"
TASKS_MAX: Final = 120
"""Greater instances are left out: one of them would be most of the load of a run."""
_TOTAL_S: Final = 8.0
"""Run times are scaled down so that the tasks of an instance sleep for so long altogether."""
_SLEEP_MS: Final = (5, 2_000)
_RETRIES: Final = 6


@dataclass(frozen=True, slots=True)
class InstanceTask:
    """One task of an instance."""

    id: str
    needs: Sequence[str]
    share: float
    """Its part of the run time of all tasks."""


@dataclass(frozen=True, slots=True)
class WorkflowInstance:
    """One instance: its tasks, each after those that it needs."""

    name: str
    tasks: Sequence[InstanceTask]


def instances_folder() -> Path:
    """Return where instances are looked for."""
    beside = Path(raftflow.formats.__file__).resolve().parents[3] / "shared" / "wfinstances"
    return Path(os.environ.get(VARIABLE) or beside)


def read_instances() -> tuple[list[WorkflowInstance], str]:
    """Return the instances that are there, and a sentence that says which."""
    folder = instances_folder()
    found = [each for path in sorted(folder.glob("*.json")) if (each := _read(path)) is not None]
    if found:
        return found, f"{len(found)} recorded workflows of at most {TASKS_MAX} tasks from {folder}"
    own = _read(Path(raftflow.formats.__file__).parent / "examples" / "recorded.wfformat.json")
    words = f"NO RECORDED WORKFLOWS in {folder}: only the example of the project is used; {VARIABLE} names a folder"
    return ([] if own is None else [own]), words


def _read(path: Path) -> WorkflowInstance | None:
    """Read an instance; returns None if it is too great, or not an instance."""
    try:
        document = convert(msgspec.json.decode(path.read_bytes(), type=dict[str, Any]), Conversion())
    except (OSError, msgspec.DecodeError, DocumentError):
        return None
    tasks = {str(task["id"]): task for task in document["tasks"]}
    if len(tasks) > TASKS_MAX:
        return None
    seconds = {name: _runtime_s(task) for name, task in tasks.items()}
    total_s = sum(seconds.values()) or 1.0
    needs = {name: [str(need) for need in task.get("needs", [])] for name, task in tasks.items()}
    order = graphlib.TopologicalSorter(needs).static_order()
    recorded = [InstanceTask(name, needs[name], seconds[name] / total_s) for name in order]
    return WorkflowInstance(path.name.partition(".")[0], recorded)


def _runtime_s(task: Mapping[str, Any]) -> float:
    return float(task["expected"])


def plan_instance(name: str, recorded: WorkflowInstance, chance: random.Random, collector: str) -> PlannedWorkflow:
    """Return a workflow of the shape of an instance, with tasks that sleep in proportion to its run times."""
    tasks: list[dict[str, Any]] = []
    told: list[Mapping[str, Any]] = []
    results: dict[str, int] = {}
    for each in recorded.tasks:
        salt = chance.randrange(MODULUS)
        sleep_ms = max(_SLEEP_MS[0], min(_SLEEP_MS[1], round(each.share * _TOTAL_S * 1_000)))
        arguments = {"salt": salt, "sleep_ms": sleep_ms, "fails": 0, "collector": collector}
        tasks.append({
            "id": each.id, "needs": each.needs, "retries": _RETRIES, "expected": f"{sleep_ms}ms",
            "python": CALL, "kwargs": arguments,
        })  # fmt: skip
        results[each.id] = combine(salt, {need: results[need] for need in each.needs})
        told.append({"id": each.id, "needs": each.needs, "backup": False, "expect": results[each.id]})
    defaults = {"resources": {"cpu": 0.25}, "retry_delay": "100ms", "retry_delay_max": "400ms"}
    return PlannedWorkflow({"name": name, "priority": 50, "defaults": defaults, "tasks": tasks}, told)
