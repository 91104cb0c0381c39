"""Tasks for `step_kills`: durable steps, and children. `kill_lines.py` says what they write."""

from __future__ import annotations

import time

from kill_lines import write

import raftflow

LEAF_S = 0.02
BRANCH_LEAVES = 2


def do(path: str, number: int, fence: int) -> str:
    """Do one step."""
    write(path, "ran", number, fence)
    return f"{fence}-{number}"


@raftflow.task(retries=1000, retry_delay=0)
def walk(ctx: raftflow.Context, path: str, steps: int) -> list[str]:
    """Do one step after the other."""
    found = []
    for number in range(steps):
        found.append(ctx.step("do", do, path, number, ctx.fence))
        write(path, "knows", number, found[-1])
    return found


@raftflow.task(retries=1000, retry_delay=0, resources={"cpu": 0.5})
def leaf(ctx: raftflow.Context, path: str) -> str:
    """Be a child that takes a moment."""
    write(path, "ran", ctx.task, ctx.fence)
    time.sleep(LEAF_S)
    return f"{ctx.fence}-{ctx.task}"


@raftflow.task(retries=1000, retry_delay=0, resources={"cpu": 0.5})
def branch(ctx: raftflow.Context, path: str, depth: int) -> list[str]:
    """Be a child that has children, down to a depth."""
    children = [ctx.spawn(leaf, path, key=f"leaf-{number}") for number in range(BRANCH_LEAVES)]
    below = [ctx.spawn(branch, path, depth - 1, key="branch")] if depth else []
    found = [*ctx.gather(*children), *(value for child in below for value in child.result())]
    for value in found:
        write(path, "knows", value.partition("-")[2], value)
    return found


@raftflow.task(retries=1000, retry_delay=0, resources={"cpu": 0.5})
def grow(ctx: raftflow.Context, path: str, width: int, depth: int) -> list[str]:
    """Spawn a fan, a race and a branch, with steps between, and wait for all."""
    fan = [ctx.spawn(leaf, path, key=f"fan-{number}") for number in range(width)]
    nested = ctx.spawn(branch, path, depth, key="nested")
    found = [ctx.step("between", do, path, 0, ctx.fence), *ctx.gather(*fan)]
    first, second = ctx.spawn(leaf, path, key="race-1"), ctx.spawn(leaf, path, key="race-2")
    found += [ctx.race(first, second), ctx.step("between", do, path, 1, ctx.fence), *nested.result()]
    for value in found:
        write(path, "knows", value.partition("-")[2], value)
    return found
