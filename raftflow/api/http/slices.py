"""Long work in slices: other callbacks of the event loop run every few milliseconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")
S = TypeVar("S")

SLICE_S: Final = 0.004
_CHECK_PERIOD: Final = 16
"""Items between two checks of the clock."""


async def in_slices(items: Iterable[T], work: Callable[[T], S]) -> list[S]:
    """Return `work(item)` for every item, in order. Log entries may be applied between two items."""
    done: list[S] = []
    until_s = time.thread_time() + SLICE_S
    for number, item in enumerate(items):
        done.append(work(item))
        if number % _CHECK_PERIOD == _CHECK_PERIOD - 1 and time.thread_time() >= until_s:
            await asyncio.sleep(0)
            until_s = time.thread_time() + SLICE_S
    return done
