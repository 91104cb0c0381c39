"""Tasks of the benchmark of durable steps."""

from __future__ import annotations

import time
from pathlib import Path

import raftflow

GO = "go"
"""The file that opens the gate."""
_LOOK_EVERY_S = 0.005


def _nothing() -> int:
    return 1


@raftflow.task
def sequence(ctx: raftflow.Context, count: int) -> list[int]:
    """Do steps one after the other, and return how many microseconds each took."""
    found = []
    for _ in range(count):
        began_ns = time.perf_counter_ns()
        ctx.step("nothing", _nothing)
        found.append((time.perf_counter_ns() - began_ns) // 1_000)
    return found


@raftflow.task
def gated(ctx: raftflow.Context, count: int, gate: str) -> int:
    """Say that it has started, wait until the gate is open, then do steps one after the other."""
    ctx.step("started", _nothing)
    folder = Path(gate)
    (folder / ctx.task).touch()
    while not (folder / GO).exists():
        time.sleep(_LOOK_EVERY_S)
    for _ in range(count):
        ctx.step("nothing", _nothing)
    return count
