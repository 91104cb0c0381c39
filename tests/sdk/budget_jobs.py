"""Functions of users that spend and take from rate limits, for the tests on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import raftflow


def note(path: str, line: str) -> str:
    """Append a line to a file of the test."""
    with Path(path).open("a") as file:
        file.write(line + "\n")
    return line


@raftflow.task(retries=5, retry_delay=0, resources={"cpu": 1})
def spender(ctx: raftflow.Context, path: str, count: int) -> int:
    """Spend one usd in each step."""

    def ask(number: int) -> str:
        ctx.spend(usd=1)
        return note(path, f"{ctx.task} {number}")

    for number in range(count):
        ctx.step("ask", ask, number)
    return count


@raftflow.task(retries=2, retry_delay=0, resources={"cpu": 1})
def all_ways(ctx: raftflow.Context) -> list[str]:
    """Spend inside a step, in one that fails, outside of any, and in an event loop. The first attempt fails."""

    def fails() -> None:
        ctx.spend(usd=0.5)
        raise ValueError("it failed")

    async def ask() -> str:
        ctx.spend({"usd": "0.25"})
        await ctx.spend_async(usd=0.25)
        return "asked"

    async def several() -> str:
        await ctx.spend_async(tokens=5)
        await ctx.rate_async("shared", 2)
        return await ctx.step("async", ask)

    ctx.spend(tokens=10)
    ctx.rate("shared")
    with contextlib.suppress(ValueError):
        ctx.step("fails", fails)
    told = [asyncio.run(several())]
    for wrong in (0.1 + 0.2, -1):
        try:
            ctx.spend(usd=wrong)
        except raftflow.UsageError as error:
            told.append(str(error))
    try:
        ctx.rate("nobody set it")
    except raftflow.CallRefused as refused:
        told.append(refused.kind)
    if ctx.attempt == 1:
        raise RuntimeError("the first attempt fails")
    return told


@raftflow.task(retries=2, retry_delay=0, resources={"cpu": 1})
async def cut_off(ctx: raftflow.Context) -> list[str]:
    """In the first attempt one step is cancelled by its caller, and one because the task parks: both have spent."""
    wait_s = 600.0 if ctx.attempt == 1 else 0.0
    spent = asyncio.Event()

    async def slow(name: str) -> str:
        ctx.spend(usd=0.25)
        spent.set()
        await asyncio.sleep(wait_s)
        return name

    async def dear() -> str:
        await spent.wait()
        ctx.spend(usd=5)
        return "dear"

    async def two_steps() -> str:
        await ctx.step("dear", dear)
        return await ctx.step("after", slow, "after")

    limited = asyncio.create_task(ctx.step("limited", slow, "limited"))
    await spent.wait()
    spent.clear()
    if wait_s:
        limited.cancel()
    await asyncio.wait([limited])
    told = [] if wait_s else [await limited]
    told += await asyncio.gather(ctx.step("beside", slow, "beside"), two_steps())
    return told
