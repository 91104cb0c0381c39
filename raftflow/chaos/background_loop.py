"""An event loop on a thread of its own, for the parts of a run that are coroutines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_CLOSES_S: Final = 5.0


class BackgroundLoop:
    """An event loop on a thread: the workload and the collector live there, the nemesis blocks elsewhere."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-loop", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], timeout_s: float | None = 30.0) -> T:
        """Run a coroutine there and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def begin(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Let a coroutine run there; returns a future for this thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def soon(self, work: Callable[[], object]) -> None:
        """Call a function there."""
        self._loop.call_soon_threadsafe(work)

    def close(self) -> None:
        """Cancel what still runs there and end the loop."""
        with contextlib.suppress(concurrent.futures.TimeoutError):
            self.call(_cancel_all(), _CLOSES_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSES_S)


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    if others:
        await asyncio.wait(others, timeout=_CLOSES_S)
