"""Functions of users with effects, for the tests on a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import raftflow


def note(path: str, *words: object) -> None:
    """Append a line to a file of the test: the service outside, which was called so often."""
    with Path(path).open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def send(path: str, gate: str = "", *, idempotency_key: str, fence: int) -> str:
    """Call the service. The first call never returns: it waits at the gate, or the process dies."""
    first = not Path(path).exists()
    note(path, idempotency_key, fence)
    if first and not gate:
        os.kill(os.getpid(), signal.SIGKILL)
    while first and not Path(gate).exists():
        time.sleep(0.01)
    return idempotency_key


def was_sent(path: str, gate: str = "", *, idempotency_key: str) -> object:
    """Look whether the service was called."""
    lines = Path(path).read_text().split() if Path(path).exists() else []
    return raftflow.done(f"found {idempotency_key}") if idempotency_key in lines else raftflow.NOT_DONE


@raftflow.task(retries=5, retry_delay=0)
def mails(ctx: raftflow.Context, path: str, gate: str = "") -> list[str]:
    """An effect between two steps, with `verify`."""
    return [
        ctx.step("before", str, 1),
        ctx.effect("mail", send, path, gate, verify=was_sent),
        ctx.step("after", str, 2),
    ]


@raftflow.task(retries=5, retry_delay=0)
def blind(ctx: raftflow.Context, path: str) -> str:
    """An effect of which nobody can tell what became of the first call."""
    return ctx.effect("pay", send, path)


@raftflow.task(retries=5, retry_delay=0)
def blind_at(ctx: raftflow.Context, path: str, gate: str) -> str:
    """The same; the first call waits at a gate."""
    return ctx.effect("pay", send, path, gate)


@raftflow.task(retries=5, retry_delay=0)
async def charges(ctx: raftflow.Context, path: str) -> list[str]:
    """Effects of one event loop, of plain and of `async` functions; the service recognises the keys."""

    async def call(idempotency_key: str) -> str:
        await asyncio.sleep(0)
        return await asyncio.to_thread(send, path, idempotency_key=idempotency_key, fence=1)

    first = await ctx.effect_async("first", call, idempotent=True)
    others = await asyncio.gather(*[ctx.effect_async(f"e{number}", str, number) for number in range(5)])
    return [first, *others]
