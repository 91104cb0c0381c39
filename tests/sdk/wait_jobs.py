"""Tasks that wait."""

from __future__ import annotations

import asyncio
from typing import Any

import raftflow


@raftflow.task
def waits(ctx: raftflow.Context, name: str) -> Any:
    return ctx.wait(name, timeout="1h", schema={"type": "object"})


@raftflow.task
def times_out(ctx: raftflow.Context) -> list[Any]:
    default = ctx.wait("never", timeout=0.05, default="default")
    try:
        ctx.wait("never", timeout="50ms")
    except raftflow.WaitTimeout as error:
        told = str(error)
    answer = ctx.approval("nobody", timeout=0.05, on_timeout="deny")
    return [default, told, answer, answer.at]


@raftflow.task
def asks(ctx: raftflow.Context, title: str) -> list[Any]:
    answer = ctx.approval(title, details={"text": "draft"}, timeout="1h")
    return [answer, answer == "approve", answer.comment, answer.payload, answer.by]


@raftflow.task
async def waits_for_two(ctx: raftflow.Context) -> list[Any]:
    return await asyncio.gather(ctx.wait_async("a"), ctx.wait_async("b"))
