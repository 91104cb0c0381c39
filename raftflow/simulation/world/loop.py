# ruff: noqa: SLF001 - the private names are those of the base class and of its handles
"""Virtual time: an asyncio event loop in which waiting takes no real time, shared by simulated processes.

The code under test runs unchanged: it asks the running loop for the time, for timers and for tasks. What is added is
the *process*: every callback carries the `contextvars` context in which it was scheduled, and the context names the
process that it belongs to. So a process can be stopped for a while (its callbacks queue up, time goes on) or killed
(they are dropped), without its code knowing.

Each pass of the loop takes a microsecond, so time always passes while something runs. On a machine that is busy
(`Process.step_s`) each callback takes longer, and all others of that process wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PASS_S: Final = 1e-6
"""Virtual time that one pass of the loop takes."""
PASSES_MAX: Final = 200_000
"""Passes without a pause after which the code under test counts as spinning."""
START_S: Final = 1000.0


class LoopStuckError(Exception):
    """Nothing is scheduled, or callbacks run forever without a pause."""


class Process:
    """A simulated operating system process: a name, and a context in which all of its callbacks run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.backlog: deque[asyncio.Handle] = deque()
        """Callbacks that became due while it was paused, busy or dead."""
        self.step_s: Callable[[], float] | None = None
        """Draws how long one callback takes on its machine; None while computing takes no time."""
        self.busy_until = 0.0
        self.wakes = False
        """A timer is set that continues with the backlog."""
        self.context = contextvars.copy_context()
        self.context.run(_process.set, self)


_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current_process() -> Process | None:
    """Return the process whose code is running, None for the simulation itself."""
    return _process.get()


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now = START_S
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = 0
        self._busy_passes = 0
        self.stuck: str | None = None
        """Why the run cannot continue. It ends with `LoopStuckError` before the next pass."""
        self.over = False
        """Set at the end of a run: callbacks that are scheduled after that are dropped."""

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback. Those of one moment run in the order in which they were scheduled."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if not self.over:
            self._serial += 1
            heapq.heappush(self._timers, (when, self._serial, timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Schedule a callback after a delay."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_soon(  # type: ignore[override]  # the base class spells the same with a type variable tuple
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Schedule a callback for the next pass."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self.over:
            self._ready.append(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As `call_soon`: there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: object, func: object, *args: object) -> Any:  # noqa: ARG002
        """Refuse: threads do not run on a virtual clock."""
        raise RuntimeError("the simulation has no threads")

    def freeze(self, process: Process) -> None:
        """Pause a process."""
        process.frozen = True

    def thaw(self, process: Process) -> None:
        """Continue a paused process, first with the callbacks that became due meanwhile."""
        process.frozen = False
        if process.alive:
            self._ready.extend(process.backlog)
            process.backlog = deque()

    def kill(self, process: Process) -> None:
        """End a process: none of its callbacks run again."""
        process.alive = False
        process.frozen = False

    def bury(self) -> None:
        """End the run: drop all callbacks, present and future."""
        self.over = True
        self._ready.clear()
        self._timers.clear()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an error, but not a task that never ended: killed processes leave such tasks."""
        if not context.get("message", "").startswith("Task was destroyed"):
            super().call_exception_handler(context)

    _ready: deque[asyncio.Handle]

    def _run_once(self) -> None:
        timers, ready = self._timers, self._ready
        if self.stuck is not None:
            raise LoopStuckError(self.stuck)
        if ready:
            self._busy_passes += 1
            if self._busy_passes > PASSES_MAX:
                raise LoopStuckError(f"{PASSES_MAX} passes of the loop without a pause, now {ready[0]!r}")
            self._now += PASS_S
        else:
            self._busy_passes = 0
            if not timers:
                raise LoopStuckError(
                    "no callback is scheduled: everything waits for something that will never happen"
                )
            self._now = max(self._now + PASS_S, timers[0][0])
        now = self._now
        while timers and timers[0][0] <= now:
            handle = heapq.heappop(timers)[2]
            if not handle._cancelled:
                ready.append(handle)
        for _ in range(len(ready)):
            step = ready.popleft()
            if step._cancelled:
                continue
            context: contextvars.Context = step._context  # type: ignore[attr-defined]
            process = context.get(_process)
            if process is not None and (process.frozen or not process.alive):
                # Of a dead one too: what is dropped would be torn down now, and complain.
                process.backlog.append(step)
            elif process is None or (process.step_s is None and not process.backlog):
                step._run()
            else:
                process.backlog.append(step)  # behind what waits already
                self._continue_later(process)

    def _continue_later(self, process: Process) -> None:
        """Run the backlog of a busy process when it is no longer busy."""
        if not process.wakes:
            process.wakes = True
            self.call_at(
                max(self._now, process.busy_until), self._continue_process, process, context=contextvars.Context()
            )

    def _continue_process(self, process: Process) -> None:
        """Run callbacks of a process until one takes longer than the present moment."""
        process.wakes = False
        while process.backlog and process.alive and not process.frozen:
            if process.busy_until > self._now:
                self._continue_later(process)
                return
            step = process.backlog.popleft()
            if not step._cancelled:
                step._run()
                if process.step_s is not None:
                    process.busy_until = self._now + process.step_s()

    # What a loop on real selectors needs.

    def _process_events(self, event_list: object) -> None:
        """Do nothing: there are no sockets."""

    def _write_to_self(self) -> None:
        """Do nothing: the loop never sleeps."""

    def _timer_handle_cancelled(self, handle: object) -> None:
        """Do nothing: cancelled timers are dropped when they come up."""
