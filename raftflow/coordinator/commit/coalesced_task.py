"""Work of the leader that runs once at a time, and runs again if it was asked for meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from raftflow.coordinator.commit.submitter import ProposeError

_log = logging.getLogger(__name__)

RETRY_S = 0.1
"""Pause before work whose command got no reply is tried again."""


class CoalescedTask:
    """Runs `work` while started; `kick` asks for one more run, and any number of kicks before it begins are one.

    Work that fails with a `ProposeError` is tried again soon. It decides again from the state as it is then, so
    nothing is proposed twice for an old reason. Any other exception is a bug and goes to `on_bug`.
    """

    def __init__(
        self, name: str, work: Callable[[], Awaitable[None]], on_bug: Callable[[BaseException], None]
    ) -> None:
        self._name = name
        self._work = work
        self._on_bug = on_bug
        self._active = False
        self._wanted = False
        self._begun = 0
        self._done = 0
        self._task: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._waiters: list[tuple[int, Callable[[], None]]] = []

    def start(self) -> None:
        """Accept kicks from now on."""
        self._active = True

    def stop(self) -> None:
        """End the work under way and forget what was asked for. Callbacks that wait for it are called."""
        self._active = self._wanted = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._done = self._begun
        self._release(everyone=True)

    @property
    def busy(self) -> bool:
        """True while there is work under way or asked for."""
        return self._task is not None

    def kick(self) -> None:
        """Ask for a run in the next turn of the event loop, or after the present one."""
        if not self._active:
            return
        self._wanted = True
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"leader:{self._name}")

    def when_settled(self, callback: Callable[[], None]) -> bool:
        """Call back once everything asked for so far has been done; returns False, without a call, if it has been."""
        target = self._begun + (1 if self._wanted else 0)
        if self._done >= target or not self._active:
            return False
        self._waiters.append((target, callback))
        return True

    async def _run(self) -> None:
        task = asyncio.current_task()
        try:
            while self._wanted:
                self._wanted = False
                self._begun += 1
                try:
                    await self._work()
                except ProposeError as error:
                    _log.debug("%s: %s; trying again", self._name, error)
                    self._schedule_retry()
                self._done = self._begun
                self._release()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - handed on, not swallowed: it stops the replica
            self._on_bug(error)
        finally:
            if self._task is task:
                self._task = None

    def _schedule_retry(self) -> None:
        if self._active and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._retry_now)

    def _retry_now(self) -> None:
        self._retry = None
        self.kick()

    def _release(self, *, everyone: bool = False) -> None:
        ready = [callback for target, callback in self._waiters if everyone or target <= self._done]
        if ready:
            self._waiters = [(t, c) for t, c in self._waiters if not everyone and t > self._done]
            for callback in ready:
                callback()
