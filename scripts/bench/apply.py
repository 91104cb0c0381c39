"""Measure the bare state machine: transitions a second, bytes a live task, snapshots. Prints JSON.

    python scripts/bench/apply.py [--tasks 20000] [--snapshot-tasks 10000 100000]

A transition is a change of a task's state; a task's life here is `started` and `succeeded`. An entry holds two
commands, one that places 64 tasks and one that reports the ends of 64, as group commit makes them.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

from raftflow.domain.commands import (
    AttemptEnd,
    CommitPlacements,
    Placement,
    RegisterAgent,
    ReportAttempts,
    SubmitWorkflow,
    encode_entry,
)
from raftflow.domain.task import AttemptOutcome
from raftflow.domain.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine

BATCH = 64


def spec(count: int, tag: str) -> WorkflowSpec:
    """Return a bag of small callables."""
    return WorkflowSpec(
        name="bench",
        tasks=tuple(TaskSpec(id=f"{tag}-{n}", python="operator:add", args=b"[%d, 1]" % n) for n in range(count)),
    )


def filled(count: int, per_workflow: int = 1_000) -> tuple[Machine, int]:
    """Return a machine with one agent and `count` ready tasks, and its index."""
    machine = Machine()
    index = 1
    register = RegisterAgent(
        at_ms=1_000, actor="bench", name="a1", instance="bench-instance", capacity={"cpu": 64_000}, prefetch=0
    )
    machine.apply(index, 1, encode_entry((register,)))
    for number in range(count // per_workflow):
        index += 1
        submit = SubmitWorkflow(
            at_ms=1_000, actor="bench", workflow_id=f"wf-{number}", spec=spec(per_workflow, str(number))
        )
        machine.apply(index, 1, encode_entry((submit,)))
    return machine, index


def lives(count: int) -> dict[str, float]:
    """Place and report every task; one entry of two commands per batch, encoded before the clock starts."""
    machine, index = filled(count)
    entries = []
    fence = 0
    tasks = [(f"wf-{n}", str(n), position) for n in range(count // 1_000) for position in range(1_000)]
    for first in range(0, len(tasks), BATCH):
        batch = tasks[first : first + BATCH]
        place = CommitPlacements(
            at_ms=2_000 + first, actor="leader:r1", placements=tuple(Placement(w, p, "a1", 1) for w, _, p in batch)
        )
        ends = []
        for workflow_id, tag, position in batch:
            fence += 1
            ends.append(
                AttemptEnd(fence, workflow_id, f"{tag}-{position}", AttemptOutcome.SUCCEEDED, 0, "", b"12345", 3)
            )
        report = ReportAttempts(at_ms=2_001 + first, actor="agent:a1", agent="a1", incarnation=1, ends=tuple(ends))
        entries.append(encode_entry((place, report)))
    gc.collect()
    gc.freeze()
    started = time.perf_counter()
    for entry in entries:
        index += 1
        machine.apply(index, 1, entry)
    seconds = time.perf_counter() - started
    assert all(workflow.finished_ms for workflow in machine.state.workflows.values())
    return {"transitions_per_s": 2 * count / seconds, "us_per_task_life": seconds / count * 1e6}


def memory(count: int) -> dict[str, float]:
    """Measure resident memory of ready tasks, everything around them included."""
    gc.collect()
    before = _resident_bytes()
    machine, _ = filled(count)
    gc.collect()
    used = _resident_bytes() - before
    return {"tasks": count, "bytes_per_live_task": used / count, "live_tasks": machine.state.live_tasks}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def snapshots(count: int) -> dict[str, float]:
    """Take a snapshot and restore it, with the longest pause of a single piece."""
    machine, _ = filled(count)
    gc.collect()
    started = time.perf_counter()
    pieces = machine.snapshot()
    pauses = [time.perf_counter() - started]
    total = 0
    written = []
    while True:
        at = time.perf_counter()
        piece = next(pieces, None)
        pauses.append(time.perf_counter() - at)
        if piece is None:
            break
        total += len(piece)
        written.append(piece)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    Machine().restore(written)
    return {
        "tasks": count,
        "open_ms": pauses[0] * 1e3,
        "pause_ms_max": max(pauses) * 1e3,
        "total_s": seconds,
        "pieces": len(written),
        "bytes": total,
        "restore_s": time.perf_counter() - started,
    }


def main() -> None:
    """Run everything and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--snapshot-tasks", type=int, nargs="*", default=[10_000, 100_000])
    options = parser.parse_args()
    memory_run = memory(options.tasks)
    runs = [lives(options.tasks) for _ in range(options.runs)]
    result = {
        "name": "apply",
        "runs": runs,
        "median": {"per_s": statistics.median(run["transitions_per_s"] for run in runs)},
        "memory": memory_run,
        "snapshots": [snapshots(count) for count in options.snapshot_tasks],
        "python": platform.python_version(),
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
