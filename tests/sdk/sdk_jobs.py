"""Functions of users, for the tests of the SDK."""

from __future__ import annotations

import functools
import time

import raftflow


@raftflow.task
def double(x):
    return 2 * x


@raftflow.task(
    resources={"cpu": 1, "memory": "64MiB", "gpu": 1}, retries=3, retry_delay="2s", timeout=60, labels={"zone": "a"},
    exclusive=True, kind="sum", cache=True,
)  # fmt: skip
def add(a: int, b: int = 1, *, c: int = 0) -> int:
    """Add."""
    return a + b + c


@raftflow.task
async def wait(x: int) -> int:
    return x


@raftflow.task
def whoami(ctx: raftflow.Context, suffix: str = "") -> str:
    return ctx.task + suffix


@raftflow.task(retries=-1)
def wrong() -> None: ...


def plain(x: int) -> int:
    return x + 1


def fail_on(x: int) -> int:
    if x == 3:
        raise ValueError(f"{x} is not wanted")
    return x


class Kit:
    """Methods."""

    @staticmethod
    @raftflow.task
    def helper(x: int) -> int:
        return x

    @classmethod
    def build(cls) -> str:
        return cls.__name__

    @raftflow.task
    def method(self) -> object:
        return self


renamed = functools.wraps(plain)(lambda x: x)
part = functools.partial(plain, 1)


def mark(x: int, path: str) -> int:
    """Take a moment, and say in a file that this call ran."""
    time.sleep(0.02)
    with open(path, "a") as file:  # noqa: PTH123
        file.write(f"{x}\n")
    return x


def nap(x: float) -> float:
    time.sleep(x)
    return x


def large(_x: int) -> str:
    return "x" * 70_000


def mark_pair(pair: tuple[int, str]) -> int:
    return mark(*pair)


@raftflow.task
def plus(a: dict[str, list[int]], c: int) -> int:
    return sum(a["parts"]) + c
