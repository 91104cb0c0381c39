"""Faults of machines: too little CPU time, and clocks that jump."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.disks import failpoint
from raftflow.chaos.nemesis.kinds import ChaosFault, FaultRun, NoEffectError
from raftflow.chaos.testbed import Testbed
from raftflow.chaos.undo import EndProcess, ResumeProcesses
from raftflow.local.faults.slowdown import Slowdown
from raftflow.local.processes import record_of

_BURNERS_PER_CORE: Final = 2
_BURN: Final = "while True: pass"


def _starved(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Let a process and what it has started run for a small share of the time."""
    (name,) = targets
    record = bed.process_of(name)
    factor = chance.choice([4, 8, 16])
    number = bed.undo.add(ResumeProcesses(record))
    try:
        with Slowdown(record, factor) as slowdown:
            if not bed.wait_for(lambda: slowdown.stood_s > 0.15, 5.0):
                raise NoEffectError("the process was not stopped")
            yield {"factor": factor}
    finally:
        bed.undo.undo(number)


def _busy_machine(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Run two busy processes for each core beside everything else."""
    del targets, chance
    count = _BURNERS_PER_CORE * bed.cores
    burners = [subprocess.Popen([sys.executable, "-I", "-S", "-c", _BURN]) for _ in range(count)]
    undo = [bed.undo.add(EndProcess(record_of(burner.pid))) for burner in burners]
    try:
        yield {"busy_processes": count}
    finally:
        for burner, number in zip(burners, undo, strict=True):
            burner.kill()
            burner.wait()
            bed.undo.drop(number)


def _jumped(sign: int) -> FaultRun:
    def run(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
        (name,) = targets
        offset_ms = sign * chance.choice([2_000, 30_000, 600_000])
        before = bed.points_of(name).get("clock_served")
        with failpoint(bed, name, "clock_offset_ms", offset_ms) as points:
            if not bed.wait_for(lambda: points.get("clock_served") > before, 5.0):
                raise NoEffectError("nobody looked at the clock")
            yield {"offset_ms": offset_ms}

    return run


def _whole_machine(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose all replicas that have no fault: each competes with the busy processes."""
    del chance
    return [name for name in bed.cluster.replica_names if name not in bed.busy][:1]


KINDS: Final = (
    ChaosFault("starve-leader", kinds.leader, _starved, (1.0, 2.5), about="the leader runs 1/4 to 1/16 of the time"),
    ChaosFault("starve-follower", kinds.follower, _starved, (1.0, 2.5), about="a follower runs 1/4 to 1/16 of it"),
    ChaosFault("starve-agent", kinds.agent, _starved, (1.0, 2.5), about="an agent and its tasks run for 1/4 to 1/16"),
    ChaosFault(
        "busy-machine",
        _whole_machine,
        _busy_machine,
        (1.5, 3.0),
        about="two busy processes for each core run beside everything",
    ),
    ChaosFault(
        "clock-forward",
        kinds.replica,
        _jumped(1),
        needs=kinds.CHAOS_CLUSTER,
        about="a replica's wall clock jumps 2 s to 10 min ahead",
    ),
    ChaosFault(
        "clock-backward",
        kinds.replica,
        _jumped(-1),
        needs=kinds.CHAOS_CLUSTER,
        about="a replica's wall clock jumps 2 s to 10 min back",
    ),
)
