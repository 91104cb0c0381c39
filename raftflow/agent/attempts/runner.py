"""Attempts that run: started through an executor, stopped in steps, and turned into reported ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import msgspec

from raftflow.agent.attempts.fetching import FetchedFiles
from raftflow.agent.attempts.usage import Sample, Usage, UsageWatch, to_mib
from raftflow.agent.clock import now_ns
from raftflow.agent.executors.base import ExecutionEnd, Executor, WatchTarget
from raftflow.agent.executors.registry import Executors
from raftflow.agent.workdir.files import UnfitFileError
from raftflow.agent.workdir.inputs import InputsError
from raftflow.domain.contract.reportable import judge_end
from raftflow.domain.contract.views import Assignment, ReportedEnd
from raftflow.domain.limits import RESULT_BYTES_MAX
from raftflow.domain.tasks.resources import MEMORY

_log = logging.getLogger("raftflow.agent.attempts")

StopReason = Literal["cancelled", "timeout", "abandoned", "outgrown"]

OUTGROWN_GRACE_S = 1.0
"""Longest grace of an attempt that uses too much memory: others on the machine may need it meanwhile."""


class Fetcher(Protocol):
    """Fetches what attempts need before they can start."""

    def at_once(self, assignment: Assignment) -> FetchedFiles | None:
        """Return it if nothing must be fetched, None otherwise."""

    async def fetch(self, assignment: Assignment) -> FetchedFiles:
        """Fetch it. Raises `InputsError`."""


def _no_refusal(_assignment: Assignment) -> str:
    return ""


class RunningAttempt:
    """One attempt that runs."""

    __slots__ = (
        "assignment",
        "executor",
        "fetching",
        "files",
        "kill_timer",
        "reason",
        "started_at_ns",
        "timeout_timer",
        "usage",
        "why",
    )

    def __init__(self, assignment: Assignment, executor: Executor) -> None:
        self.assignment = assignment
        self.executor = executor
        self.started_at_ns = now_ns()
        self.reason: StopReason | None = None
        self.why = ""
        self.timeout_timer: asyncio.TimerHandle | None = None
        self.kill_timer: asyncio.TimerHandle | None = None
        self.usage = Usage()
        self.fetching: asyncio.Task[FetchedFiles] | None = None
        """Set while its code or its inputs are fetched: nothing runs yet."""
        self.files = FetchedFiles()
        """What was fetched."""

    @property
    def memory_mib(self) -> int:
        """Memory that it demands, 0 if its demand names none."""
        return 0 if self.assignment.exclusive else self.assignment.resources.get(MEMORY, 0)

    def watched(self) -> WatchTarget | None:
        """Return where it can be observed."""
        return None if self.fetching is not None else self.executor.watched(self.assignment.fence)

    def is_fetching(self) -> bool:
        """Tell whether it has not started, because its code or its inputs are still fetched."""
        return self.fetching is not None


class AttemptRunner:
    """Runs attempts. `on_end` gets each end once; `before_end` is called before an end is judged."""

    def __init__(
        self,
        executors: Executors,
        *,
        before_end: Callable[[], None],
        on_end: Callable[[ReportedEnd], None],
        sample: Sample | None = None,
        fetcher: Fetcher | None = None,
        shortage_since: Callable[[int], str] | None = None,
        refusal: Callable[[Assignment], str] = _no_refusal,
    ) -> None:
        """See the class.

        `shortage_since(since_ns)` returns what the machine lacked since then. `refusal` returns why the agent does
        not start an attempt, empty if it does.
        """
        self._refusal = refusal
        self._loop = asyncio.get_running_loop()
        self._executors = executors
        self._before_end = before_end
        self._on_end = on_end
        self._fetcher = fetcher
        self._shortage_since = shortage_since
        self._running: dict[int, RunningAttempt] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.usage = UsageWatch(self._running, sample, self._outgrown)
        self.result_bytes_max = RESULT_BYTES_MAX
        """Of one result, as the coordinator takes it."""

    def start(self, assignment: Assignment) -> None:
        """Start an attempt. Its end comes through `on_end`, never before this returns."""
        running = RunningAttempt(assignment, self._executors[type(assignment.program)])
        self._running[assignment.fence] = running
        self._idle.clear()
        self.usage.started()
        if refusal := self._refusal(assignment):
            _log.warning("attempt %d of task %s is refused: %s", assignment.fence, assignment.task_id, refusal)
            how = ExecutionEnd(ok=False, error=refusal, by_itself=True)
            self._loop.call_soon(self._ended, assignment.fence, how)
            return
        files = FetchedFiles() if self._fetcher is None else self._fetcher.at_once(assignment)
        if self._fetcher is None or files is not None:
            running.files = files or FetchedFiles()
            self._begin(running)
        else:
            running.fetching = self._loop.create_task(self._fetcher.fetch(assignment))
            running.fetching.add_done_callback(partial(self._fetched, running))
        if assignment.timeout_ms is not None:
            running.timeout_timer = self._loop.call_later(
                assignment.timeout_ms / 1000, self._timed_out, assignment.fence
            )

    def _begin(self, running: RunningAttempt) -> None:
        """Start what runs."""
        assignment = running.assignment
        try:
            running.executor.start(assignment, self._ended, running.files.inputs, running.files.code_path)
        except (OSError, UnfitFileError) as error:
            _log.exception("attempt %s of task %s cannot be started", assignment.fence, assignment.task_id)
            how = ExecutionEnd(ok=False, error=f"the agent cannot start it: {error}", agent_fault=True)
            self._loop.call_soon(self._ended, assignment.fence, how)

    def _fetched(self, running: RunningAttempt, fetching: asyncio.Task[FetchedFiles]) -> None:
        """What it needs is there, or will not be: start, unless the attempt was stopped meanwhile."""
        self._before_end()  # the lease may be over by now, and then nothing starts
        running.fetching = None
        how = ExecutionEnd(ok=False, error="stopped before its code and its inputs were there", abandoned=True)
        if not fetching.cancelled():
            error = fetching.exception()
            if error is None:
                running.files = fetching.result()
                if running.reason is None:
                    self._begin(running)
                    return
            elif isinstance(error, InputsError):
                _log.warning("attempt %d cannot start: %s", running.assignment.fence, error)
                how = ExecutionEnd(
                    ok=False, error=str(error), abandoned=error.own or error.over, agent_fault=error.own
                )
            else:
                raise error
        self._ended(running.assignment.fence, how)

    def _timed_out(self, fence: int) -> None:
        running = self._running.get(fence)
        if running is not None:
            limit_ms = running.assignment.timeout_ms
            self.stop(fence, "timeout", f"ran longer than its timeout of {limit_ms} ms")

    def _outgrown(self, fence: int, why: str) -> None:
        _log.warning("stopping attempt %d: it %s", fence, why)
        self.stop(fence, "outgrown", why, OUTGROWN_GRACE_S)

    def stop(self, fence: int, reason: StopReason, why: str, grace_max_s: float | None = None) -> None:
        """Stop an attempt: SIGTERM, its grace (at most `grace_max_s`), SIGKILL.

        The first reason counts. A later call may only shorten the grace. Ignored if the attempt does not run.
        """
        running = self._running.get(fence)
        if running is None:
            return
        grace_s = running.assignment.grace_ms / 1000
        if grace_max_s is not None:
            grace_s = min(grace_s, grace_max_s)
        if running.reason is None:
            running.reason = reason
            running.why = why
            if running.fetching is not None:
                running.fetching.cancel()
                return
            running.executor.signal(fence, signal.SIGTERM)
        elif running.kill_timer is not None and running.kill_timer.when() <= self._loop.time() + grace_s:
            return
        if running.kill_timer is not None:
            running.kill_timer.cancel()
        if grace_s <= 0:
            running.kill_timer = None
            running.executor.signal(fence, signal.SIGKILL)
        else:
            running.kill_timer = self._loop.call_later(grace_s, running.executor.signal, fence, signal.SIGKILL)

    def stop_all(self, reason: StopReason, why: str, grace_max_s: float | None = None) -> None:
        """Stop every attempt."""
        for fence in list(self._running):
            self.stop(fence, reason, why, grace_max_s)

    async def wait_idle(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    def _ended(self, fence: int, how: ExecutionEnd) -> None:
        self._before_end()
        running = self._running.pop(fence)
        for timer in (running.timeout_timer, running.kill_timer):
            if timer is not None:
                timer.cancel()
        running.files.remove()
        if not self._running:
            self._idle.set()
        assignment = running.assignment
        outcome: Literal[
            "succeeded", "failed", "timeout", "cancelled", "abandoned", "outgrown", "agent_fault", "parked"
        ]
        error = how.error
        # An agent that was paused tells its attempts to end before it hears that one has succeeded long ago.
        if running.reason is not None and not (how.ok and how.by_itself):
            outcome = running.reason
            error = running.why
        elif how.agent_fault:
            outcome = "agent_fault"
        elif how.abandoned:
            outcome = "abandoned"
        elif how.ok:
            outcome = "parked" if how.parked else "succeeded"
        elif self._shortage_since is not None and (shortage := self._shortage_since(running.started_at_ns)):
            outcome, error = "agent_fault", f"{shortage}; the attempt ended with: {error}"
        else:
            outcome = "failed"
        end = ReportedEnd(
            fence=fence,
            workflow_id=assignment.workflow_id,
            task_id=assignment.task_id,
            outcome=outcome,
            exit_code=how.exit_code,
            error=error,
            duration_ms=(now_ns() - running.started_at_ns) // 1_000_000,
            cpu_ms=max(how.cpu_ms, running.usage.cpu_ms),
            peak_mib=to_mib(running.usage.peak_at_end_kib(how)),
        )
        if outcome == "succeeded" and how.result:
            end.result = msgspec.Raw(how.result)
        elif outcome == "parked":
            end.result = msgspec.Raw(how.parked)
        judge_end(end, result_bytes_max=self.result_bytes_max)
        self._on_end(end)
