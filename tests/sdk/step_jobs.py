"""Functions of users with durable steps, for the tests on a cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import raftflow


def note(path: str, line: str) -> str:
    """Append a line to a file of the test: what ran, and how often."""
    with Path(path).open("a") as file:
        file.write(line + "\n")
    return line


@raftflow.task(retries=5, retry_delay=0)
def loop(ctx: raftflow.Context, path: str, count: int, gate: str = "") -> list[str]:
    """Do steps one after the other. At the gate wait until the file is there."""
    done = []
    for number in range(count):
        done.append(ctx.step("note", note, path, str(number)))
        while gate and number == count // 2 and not Path(gate).exists():
            time.sleep(0.01)
    return done


@raftflow.task(retries=3, retry_delay=0)
def dies_between(ctx: raftflow.Context, path: str) -> dict[str, object]:
    """Steps of all sorts, with a death of the worker between them."""
    values = {"now": ctx.now(), "random": ctx.random(), "pair": ctx.step("pair", lambda: (1, {"a": None}))}
    note(path, f"{ctx.attempt} {values}")
    began = time.time()
    ctx.sleep(0.5)
    slept = time.time() - began
    if ctx.attempt < 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return {**values, "slept": slept, "again": [ctx.now(), ctx.random()]}


@raftflow.task(retries=1, retry_delay=0)
async def gather(ctx: raftflow.Context, path: str) -> list[str]:
    """Steps at the same time in one event loop."""

    async def ask(text: str) -> str:
        await asyncio.sleep(0.01)
        return note(path, text)

    found = await asyncio.gather(*[ctx.step(f"ask {number}", ask, str(number)) for number in range(20)])
    await ctx.sleep_async(0.01)
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return list(found)


@raftflow.task(retries=2, retry_delay=0)
def flaky(ctx: raftflow.Context, path: str) -> str:
    """A step that fails is run again under its own occurrence, in this attempt and in the next one."""

    def fails() -> str:
        note(path, "fails")
        raise ValueError("not yet")

    with contextlib.suppress(ValueError):
        ctx.step("s", fails)
    return ctx.step("s", note, path, "works")


@raftflow.task(retries=1, retry_delay=0)
def other_function(ctx: raftflow.Context) -> str:
    """The second attempt calls another function under the key of the first one."""
    ctx.step("same", time.time if ctx.attempt == 1 else os.getpid)
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


@raftflow.task
def forks(ctx: raftflow.Context, path: str) -> list[str]:
    """Steps in threads, and in processes that are forked after the first step."""
    ctx.step("before", str)
    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        found = list(threads.map(lambda number: ctx.step(f"thread {number}", note, path, f"t{number}"), range(40)))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found += pool.starmap(_fork_step, [(path, number) for number in range(6)])
    return found


def _fork_step(path: str, number: int) -> str:
    return raftflow.current().step(f"fork {number}", note, path, f"f{number}")


@raftflow.task
def bad_values(ctx: raftflow.Context) -> list[str]:
    """What cannot be recorded is told, and the task may go on."""
    told = []
    for value in (object(), float("nan"), "x" * 70_000):
        try:
            ctx.step("bad", lambda value=value: value)
        except raftflow.UsageError as error:
            told.append(str(error))
    for name in ("", "x" * 300, "a\nb"):
        try:
            ctx.step(name, int)
        except raftflow.CallRefused as error:
            told.append(f"{error.kind}: {error}")
    return told


@raftflow.task
def child_program(ctx: raftflow.Context, program: list[str]) -> str:
    """A program that the task starts speaks to the agent as the task does."""
    return subprocess.run(program, check=True, capture_output=True, text=True).stdout + ctx.step("s", str)
