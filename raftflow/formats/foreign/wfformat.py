"""WfFormat 1.5 and 1.6 (wfcommons.org): recorded workflows become documents whose tasks cost what was recorded.

    specification.tasks[].id, parents, children     -> id, needs
    execution.tasks[].runtimeInSeconds              -> expected, and the time that the burner takes
    coreCount, else avgCPU (percent of one core)    -> resources.cpu, and the burner's threads
    avgCPU                                          -> the burner's CPU time (all of the runtime if it is missing)
    memoryInBytes                                   -> resources.memory, and the memory that the burner touches

What these files look like in practice, as seen in the instances that WfCommons publishes:

- `avgCPU` is noisy: a task of one thread shows 100.5 now and then. A core more is only asked for when the use passes
  the cores before it by more than 5 %.
- Tasks that mostly waited show an `avgCPU` of a few percent. They still held a slot, so they ask for one CPU. The
  burner sleeps for the rest of the time.
- `memoryInBytes` may be 0 (the task ended before it was measured) and is bytes throughout. The
  minimum `MEMORY_FLOOR_MIB` stands for what any process takes. Where it is missing, no memory is asked for.
- Recorded tasks are pure work, so they may have backup attempts.
- Ids contain characters that are not allowed in task ids. Those are replaced, and the ids stay unique.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import msgspec

from raftflow.domain.limits import NAME_CHARS_MAX, RESOURCE_UNITS_MAX
from raftflow.formats.faults import DocumentFaults

VERSIONS = ("1.5", "1.6")
"""What 1.6 adds is optional and not needed here."""
_OLDER = ("1.0", "1.1", "1.2", "1.3", "1.4")
MEMORY_FLOOR_MIB = 8
AVG_CPU_TOLERANCE = 5.0
"""Percent of one core that `avgCPU` may pass a whole number of cores by without asking for another."""

RUNTIME_DEFAULT_S = 1.0
"""For tasks without a recorded run."""

CALLABLE = "raftflow.burn:burn"
_BAD_CHARS = re.compile(r"[^A-Za-z0-9_.:@+-]+")
_MIB = 1024 * 1024
_NUMBER_MAX = 1e15


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """How a recorded workflow is scaled to the machines that replay it."""

    time_scale: float = 1.0
    """Run and CPU times are multiplied by it; below 1 the touched memory is too, because touching takes time."""
    memory_scale: float = 1.0
    """Multiplies the memory that tasks ask for, and touch."""
    burner: Literal["python", "command"] = "python"
    """`python`: a call in a worker that the agent keeps (microseconds). `command`: a program of its own each time."""
    python: str = "python3"
    """Interpreter of the `command` burner; raftflow must be installed for it on the agents."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for scales that are not positive numbers."""
        for name in ("time_scale", "memory_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= 1e6):
                raise ValueError(f"{name.replace('_', '-')} must be a number above 0, at most 1000000")


def looks_like(document: dict[str, Any]) -> bool:
    """Tell whether a parsed JSON document is WfFormat."""
    return "schemaVersion" in document and isinstance(document.get("workflow"), dict)


def convert(document: dict[str, Any], conversion: Conversion) -> dict[str, Any]:
    """Turn a parsed WfFormat document into a workflow document. Raises `DocumentError` naming every fault."""
    faults = DocumentFaults()
    version = document.get("schemaVersion")
    if version not in VERSIONS:
        faults.add("schemaVersion", _other_version(version))
        faults.raise_any()
    workflow = document.get("workflow")
    specification = workflow.get("specification") if isinstance(workflow, dict) else None
    tasks = specification.get("tasks") if isinstance(specification, dict) else None
    if not isinstance(workflow, dict) or not isinstance(tasks, list):
        faults.add("workflow.specification.tasks", "is missing: not a WfFormat document")
        faults.raise_any()
        raise AssertionError
    ids = _task_ids(tasks, faults)
    needs = _needs(tasks, ids, faults)
    runs = _runs(workflow.get("execution"), faults)
    converted = [
        {
            "id": task_id,
            "needs": needs[task_id],
            **_cost(_RecordedRun(original, runs.get(original, {}), faults), conversion),
        }
        for original, task_id in ids.items()
    ]
    faults.raise_any()
    name = document.get("name")
    return {"name": _clean(name) if isinstance(name, str) and name else "wfformat", "tasks": converted}


def _other_version(version: object) -> str:
    """Say what to do with a document of a version that is not read."""
    read = f"raftflow reads WfFormat {' and '.join(VERSIONS)}"
    if version not in _OLDER:
        return f"{repr(version)[:40]} is not a known version: {read}"
    return (
        f"this is WfFormat {version}, which has tasks and their runs in one list: {read}. "
        f"tools/wfcommons-migrate-instance.py "
        "of github.com/wfcommons/WfFormat rewrites older documents"
    )


def _clean(text: str) -> str:
    """Return a text with what names may not hold replaced."""
    cleaned = _BAD_CHARS.sub("_", text)[:NAME_CHARS_MAX]
    return cleaned if cleaned[:1].isalnum() or cleaned.startswith("_") else f"_{cleaned[1:]}"


def _task_ids(tasks: list[Any], faults: DocumentFaults) -> dict[str, str]:
    """Return the id that each task gets, by its id in the file, in the file's order."""
    ids: dict[str, str] = {}
    taken: set[str] = set()
    for number, task in enumerate(tasks):
        path = f"workflow.specification.tasks[{number}]"
        original = task.get("id") if isinstance(task, dict) else None
        if not isinstance(original, str) or not original:
            faults.add(f"{path}.id", "a task has an id, a text")
        elif original in ids:
            faults.add(f"{path}.id", f"{original[:80]!r} is the id of a task before")
        else:
            base = chosen = _clean(original)
            count = 1
            while chosen in taken:
                count += 1
                suffix = f"-{count}"
                chosen = base[: NAME_CHARS_MAX - len(suffix)] + suffix
            taken.add(chosen)
            ids[original] = chosen
    return ids


def _needs(tasks: list[Any], ids: dict[str, str], faults: DocumentFaults) -> dict[str, list[str]]:
    """Return what each task needs, by its new id: its parents, and the tasks that list it as a child."""
    needs: dict[str, dict[str, None]] = {task_id: {} for task_id in ids.values()}
    for number, task in enumerate(tasks):
        original = task.get("id") if isinstance(task, dict) else None
        if not isinstance(original, str) or original not in ids:
            continue
        for side in ("parents", "children"):
            others = task.get(side, [])
            path = f"workflow.specification.tasks[{number}].{side}"
            if not isinstance(others, list):
                faults.add(path, "must be a list of ids")
                continue
            for place, other in enumerate(others):
                if not isinstance(other, str) or other not in ids:
                    faults.add(f"{path}[{place}]", f"no task has the id {str(other)[:80]!r}")
                elif side == "parents":
                    needs[ids[original]][ids[other]] = None
                else:
                    needs[ids[other]][ids[original]] = None
    return {task_id: list(before) for task_id, before in needs.items()}


def _runs(execution: object, faults: DocumentFaults) -> dict[str, dict[str, Any]]:
    """Return the recorded run of each task, by its id in the file."""
    if execution is None:
        return {}
    tasks = execution.get("tasks", []) if isinstance(execution, dict) else None
    if not isinstance(tasks, list):
        faults.add("workflow.execution.tasks", "must be a list")
        return {}
    runs: dict[str, dict[str, Any]] = {}
    for number, run in enumerate(tasks):
        if not isinstance(run, dict) or not isinstance(run.get("id"), str):
            faults.add(f"workflow.execution.tasks[{number}].id", "is required: the id of the recorded task")
        else:
            runs[run["id"]] = run
    return runs


class _RecordedRun:
    """The recorded run of one task."""

    def __init__(self, original: str, figures: dict[str, Any], faults: DocumentFaults) -> None:
        self.original = original
        self.figures = figures
        self.faults = faults

    def number(self, key: str) -> float | None:
        """Return a recorded figure, or None if it is missing."""
        value = self.figures.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _NUMBER_MAX:
            self.faults.add(f"workflow.execution.tasks[{self.original[:80]}].{key}", "must be a number, zero or more")
            return None
        return float(value)


def _cost(run: _RecordedRun, conversion: Conversion) -> dict[str, Any]:
    """Return the fields of a task that costs what its run did, scaled."""
    runtime = run.number("runtimeInSeconds")
    avg_cpu = run.number("avgCPU")
    memory = run.number("memoryInBytes")
    cores = cores_of(run.number("coreCount"), avg_cpu)
    seconds = (RUNTIME_DEFAULT_S if runtime is None else runtime) * conversion.time_scale
    busy = float(cores) if avg_cpu is None else min(avg_cpu / 100, cores)
    resources: dict[str, int | str] = {"cpu": cores}
    touched = 0
    if memory is not None:
        asked = min(max(MEMORY_FLOOR_MIB, math.ceil(memory * conversion.memory_scale / _MIB)), RESOURCE_UNITS_MAX)
        resources["memory"] = f"{asked}MiB"
        touched = math.ceil(memory * conversion.memory_scale / _MIB * min(1.0, conversion.time_scale))
    figures = {
        "cpu_seconds": round(seconds * busy, 6),
        "memory_mib": touched,
        "threads": cores,
        "seconds": round(seconds, 6),
    }
    cost: dict[str, Any] = {"resources": resources, "expected": figures["seconds"], "backup": True}
    if conversion.burner == "python":
        return {**cost, "python": CALLABLE, "kwargs": figures}
    options = [text for key, value in figures.items() for text in (f"--{key.replace('_', '-')}", str(value))]
    return {**cost, "command": [conversion.python, "-m", "raftflow.burn", *options]}


def cores_of(core_count: float | None, avg_cpu: float | None) -> int:
    """Return the CPUs that a recorded task asks for: its cores, else what its average use needs, one at least."""
    if core_count is not None and core_count >= 1:
        return math.ceil(core_count)
    if avg_cpu is None:
        return 1
    return max(1, math.ceil((avg_cpu - AVG_CPU_TOLERANCE) / 100))
