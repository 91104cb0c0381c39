"""apply, place, snapshot: the state machine and the scheduler alone, with no log, no disk and no network.

Each measurement has a fresh process of its own, for the memory and the state of the garbage collector of the one
before would be in its figures.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from raftflow.bench.figures import rounded, summary
from raftflow.bench.load.usage import resident_bytes
from raftflow.bench.settings import Settings
from raftflow.domain.commands import (
    AttemptEnd,
    CommitPlacements,
    Placement,
    RegisterAgent,
    ReportAttempts,
    SubmitWorkflow,
    encode_entry,
)
from raftflow.domain.tasks.feasibility import AgentRoom, ReadyTask, shape_of
from raftflow.domain.tasks.program import PythonCall
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.helpers import spawn_context
from raftflow.machine.machine import Machine
from raftflow.scheduler.place import place
from raftflow.scheduler.queue.ready_queue import ReadyQueue
from raftflow.scheduler.view import PlacementView

BATCH: Final = 64
"""Tasks that one entry places and reports, as group commit makes them under load."""
WORKFLOW: Final = 1_000
AGENTS: Final = 1_000
SHAPES: Final = 10
PLACEMENTS_MAX: Final = 10_000
SIZES: Final = (10_000, 100_000, 1_000_000)
"""Tasks of the snapshots that `snapshot` takes, if it is not told a size."""
_LIMIT_S: Final = 600.0


def _alone(measurement: Callable[[int], dict[str, Any]], size: int) -> dict[str, Any]:
    """Run a measurement in a new process."""
    with ProcessPoolExecutor(1, spawn_context()) as pool:
        return pool.submit(measurement, size).result(timeout=_LIMIT_S)


def apply(settings: Settings) -> dict[str, Any]:
    """Apply whole lives of tasks, and measure the memory of tasks that wait."""
    runs = [_alone(lives, settings.tasks) for _ in range(settings.runs)]
    return {
        "name": "apply",
        "runs": runs,
        **summary(runs, ("per_s", "us_per_task_life", "bytes_per_live_task")),
        "tasks": settings.tasks,
    }


def placements(settings: Settings) -> dict[str, Any]:
    """Fill the ready queue and decide over empty agents."""
    runs = [_alone(decide, settings.tasks) for _ in range(settings.runs)]
    return {
        "name": "place",
        "runs": runs,
        **summary(runs, ("per_s", "place_ms", "view_ms", "add_us")),
        "tasks": settings.tasks,
        "fixed": {"agents": AGENTS, "shapes": SHAPES, "placements_max": PLACEMENTS_MAX},
    }


def snapshot(settings: Settings) -> dict[str, Any]:
    """Take snapshots of machines of several sizes and restore them."""
    sizes = (settings.tasks,) if settings.tasks else SIZES
    runs = []
    for _ in range(settings.runs):
        run: dict[str, float] = {}
        for size in sizes:
            run |= {f"{key}_{size}": value for key, value in _alone(copy, size).items()}
        runs.append(run)
    return {"name": "snapshot", "runs": runs, **summary(runs, runs[0])}


def spec(count: int, tag: str) -> WorkflowSpec:
    """Return a bag of small callables."""
    return WorkflowSpec(
        name="bench",
        tasks=tuple(
            TaskSpec(id=f"{tag}-{n}", program=PythonCall("operator:add", b"[%d, 1]" % n)) for n in range(count)
        ),
    )


def filled(count: int) -> tuple[Machine, int]:
    """Return a machine with one agent and `count` ready tasks, and its index."""
    machine = Machine()
    index = 1
    register = RegisterAgent(
        at_ms=1_000, actor="bench", name="a1", instance="bench-instance", capacity={"cpu": 64_000}, prefetch=0
    )
    machine.apply(index, 1, encode_entry((register,)))
    for first in range(0, count, WORKFLOW):
        index += 1
        name = str(first // WORKFLOW)
        size = min(WORKFLOW, count - first)
        submit = SubmitWorkflow(at_ms=1_000, actor="bench", workflow_id=f"wf-{name}", spec=spec(size, name))
        machine.apply(index, 1, encode_entry((submit,)))
    return machine, index


def lives(count: int) -> dict[str, float]:
    """Place and report every task, one entry of two commands a batch, encoded before the clock starts.

    A transition is a change of a task's state; a task's life here is `started` and `succeeded`.
    """
    gc.collect()
    before = resident_bytes(os.getpid())
    machine, index = filled(count)
    gc.collect()
    used = resident_bytes(os.getpid()) - before
    tasks = [(f"wf-{n // WORKFLOW}", f"{n // WORKFLOW}-{n % WORKFLOW}", n % WORKFLOW) for n in range(count)]
    entries = []
    for first in range(0, count, BATCH):
        batch = tasks[first : first + BATCH]
        start = CommitPlacements(
            at_ms=2_000 + first,
            actor="leader:r1",
            placements=tuple(Placement(workflow, position, "a1", 1) for workflow, _, position in batch),
        )
        ends = tuple(
            AttemptEnd(first + n, workflow, task, AttemptOutcome.SUCCEEDED, 0, "", b"12345", 3, 2, 10)
            for n, (workflow, task, _) in enumerate(batch, 1)
        )
        report = ReportAttempts(at_ms=2_001 + first, actor="agent:a1", agent="a1", incarnation=1, ends=ends)
        entries.append(encode_entry((start, report)))
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    for entry in entries:
        index += 1
        machine.apply(index, 1, entry)
    seconds = time.perf_counter() - began
    if not all(workflow.finished_ms for workflow in machine.tables.workflows.values()):
        raise RuntimeError("not all workflows have ended: the commands of this benchmark are wrong")
    return {
        "per_s": 2 * count / seconds,
        "us_per_task_life": seconds / count * 1e6,
        "bytes_per_live_task": used / count,
    }


def decide(count: int) -> dict[str, float]:
    """Place as much as one round may, over empty agents."""
    agents = tuple(
        AgentRoom(
            name=f"a{number:05d}",
            incarnation=number + 1,
            capacity={"cpu": 16_000, "memory": 65_536},
            free={"cpu": 16_000, "memory": 65_536},
            prefetch=4,
        )
        for number in range(AGENTS)
    )
    shapes = [shape_of({"cpu": 500 + 500 * (n % 4), "memory": 128 * (1 + n)}, {}) for n in range(SHAPES)]
    tasks = [
        ReadyTask(workflow_id="wf", task=n, shape=shapes[n % len(shapes)], rank=n * 7919 % 1_000, number=1)
        for n in range(count)
    ]
    queue = ReadyQueue()
    began = time.perf_counter()
    for task in tasks:
        queue.add(task)
    added = time.perf_counter()
    view = PlacementView(agents=agents, groups=queue.groups(PLACEMENTS_MAX), placements_max=PLACEMENTS_MAX)
    viewed = time.perf_counter()
    found = place(view)
    placed = time.perf_counter()
    return {
        "per_s": len(found) / (placed - viewed),
        "place_ms": (placed - viewed) * 1e3,
        "view_ms": (viewed - added) * 1e3,
        "add_us": (added - began) / count * 1e6,
    }


def copy(count: int) -> dict[str, float]:
    """Take a snapshot, with the longest time that one of its pieces takes from the event loop; then restore it."""
    machine, _ = filled(count)
    gc.collect()
    gc.freeze()
    resident = resident_bytes(os.getpid())
    began = time.perf_counter()
    pieces = machine.snapshot()
    pause_s = time.perf_counter() - began
    written: list[bytes] = []
    while True:
        at = time.perf_counter()
        piece = next(pieces, None)
        pause_s = max(pause_s, time.perf_counter() - at)
        if piece is None:
            break
        written.append(piece)
    taken = time.perf_counter()
    Machine().restore(written)
    return {
        "pause_ms": rounded(pause_s * 1e3),
        "seconds": rounded(taken - began),
        "restore_s": rounded(time.perf_counter() - taken),
        "mib": rounded(sum(map(len, written)) / 2**20),
        "resident_mib": rounded(resident / 2**20),
    }
