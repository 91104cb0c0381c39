"""Functions of users that spawn children, for the tests on a cluster."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import raftflow


def note(path: str, line: str) -> None:
    """Append a line to a file of the test: what ran, and how often."""
    with Path(path).open("a") as file:
        file.write(line + "\n")


@raftflow.task(resources={"cpu": 0.25})
def double(x: int) -> int:
    return 2 * x


@raftflow.task
def main(ctx: raftflow.Context, n: int) -> int:
    """The example of the contract, up to its approval."""
    parts = ctx.map(double, range(n))
    text = ctx.step("ask", str.upper, "prompt")
    assert text == "PROMPT"
    return sum(parts)


@raftflow.task
async def main_async(ctx: raftflow.Context, n: int) -> list[Any]:
    """Children of an async task, some of them async too."""
    first = await ctx.spawn_async(double, 1)
    second = await ctx.spawn_async(halve, 8)
    parts = await ctx.map_async(double, range(n))
    raced = await ctx.race_async(first)
    return [await ctx.gather_async(first, second), parts, await second.result_async(), raced]


@raftflow.task(resources={"cpu": 0.25})
async def halve(x: int) -> int:
    return x // 2


@raftflow.task(resources={"cpu": 1})
def parent(ctx: raftflow.Context, n: int) -> int:
    """One of many parents that wait at the same time."""
    return sum(ctx.map(double, range(n)))


@raftflow.task(resources={"cpu": 0.25}, kind="fails")
def fail(x: int) -> int:
    if x == 2:
        raise ValueError(f"no {x}")
    return x


@raftflow.task
def handles(ctx: raftflow.Context) -> list[Any]:
    """Deal with children that fail."""
    told: list[Any] = []
    try:
        ctx.map(fail, [1, 2, 3])
    except Exception as error:  # noqa: BLE001 - it must not catch the parking
        told.append([type(error).__name__, "child 'fail.1'" in str(error), "ValueError: no 2" in str(error)])
    both = ctx.map(fail, [1, 2, 3], key="all", return_exceptions=True)
    told.append([each if isinstance(each, int) else str(type(each).__name__) for each in both])
    return told


@raftflow.task
def fails_with_its_child(ctx: raftflow.Context) -> None:
    ctx.spawn(fail, 2).result()


@raftflow.task
def races(ctx: raftflow.Context, path: str) -> Any:
    quick = ctx.spawn(
        {"command": ["sh", "-c", 'echo 7 > "$RAFTFLOW_RESULT"'], "resources": {"cpu": 0.25}}, key="quick"
    )
    slow = ctx.spawn(sleeper, path, key="slow")
    return ctx.race(slow, quick)


@raftflow.task(resources={"cpu": 0.25})
def sleeper(path: str) -> None:
    time.sleep(60)
    note(path, "slept")


@raftflow.task(retries=3, retry_delay=0)
def dies_after_spawn(ctx: raftflow.Context, path: str, gate: str) -> int:
    """Die between the spawn and the gather, more than once."""
    children = [ctx.spawn(counted, path, number, gate) for number in range(6)]
    if ctx.attempt < 3:
        note(path, f"attempt {ctx.attempt}")
        os.kill(os.getpid(), signal.SIGKILL)
    return sum(ctx.gather(*children))


@raftflow.task(resources={"cpu": 0.25})
def counted(path: str, number: int, gate: str = "") -> int:
    note(path, f"child {number}")
    while gate and number == 5 and not Path(gate).exists():
        time.sleep(0.01)
    return number


@raftflow.task(resources={"cpu": 0.25})
def chain(ctx: raftflow.Context, depth: int) -> int:
    """Spawn the next of a chain, and wait for it."""
    return 0 if depth == 0 else 1 + ctx.spawn(chain, depth - 1, key="c").result()


@raftflow.task(resources={"cpu": 0.25})
def chain_ahead(ctx: raftflow.Context, depth: int) -> int:
    """Spawn the next of a chain, and do not wait for it."""
    if depth:
        ctx.spawn(chain_ahead, depth - 1, key="c")
    return depth


@raftflow.task
def mismatched(ctx: raftflow.Context) -> str:
    ctx.spawn(double, 1, key="same")
    try:
        ctx.spawn(double, 2, key="same")
    except raftflow.CallRefused as error:
        return f"{error.kind}: {error}"
    return ""
