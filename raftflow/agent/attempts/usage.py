"""What running attempts use: looked at once a second, told to the leader every other second, held to their demands.

Nothing is done for attempts that run for less than a second. The launcher reads the process trees (it knows them and
adopts what leaves them); the agent keeps the figures, reads what tasks report of their progress, and stops an attempt
that uses more memory than its demand names.

Memory is what the system cannot take back: anonymous and shared memory (tmpfs), not the pages of mapped files. It is
the sum over the processes of an attempt. That counts pages which several of them share once for each, so nobody is
blamed for it: where the sum passes the demand, the processes' proportional shares (PSS) are read, which count every
page once, and only two of these in a row that are above the demand end the attempt. The shares include changed
pages of files, until they are written.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import msgspec

from raftflow.agent.clock import now_ns
from raftflow.agent.executors.base import ExecutionEnd, WatchTarget
from raftflow.agent.launcher.messages import Sampled
from raftflow.agent.launcher.process_tree import memory_of
from raftflow.agent.workdir.files import UnfitFileError, opened_folder, read_file
from raftflow.domain.contract.reportable import reportable_number
from raftflow.domain.contract.views import AttemptUsage
from raftflow.domain.limits import USAGE_PER_POLL_MAX

SAMPLE_EVERY_S = 1.0
REPORT_EVERY_S = 2.0
OVER_MAX = 2
"""So many looks in a row must find too much memory before the attempt is stopped."""
_PROGRESS_BYTES = 64
_SMAPS_BYTES = 1 << 12

Sample = Callable[[list[tuple[int, int]], Callable[[Sampled], None]], None]
"""Ask the launcher: `executors.launching.Launcher.sample`."""


class Usage(msgspec.Struct):
    """What one attempt uses, as far as it has been looked at."""

    cpu_ms: int = 0
    memory_kib: int = 0
    peak_kib: int = 0
    files_kib: int = 0
    """Most pages of files that were resident."""
    progress: float | None = None
    fetching: bool = False
    over: int = 0
    """Looks in a row that found more memory than the demand."""
    seen: bool = False
    reported_s: float = -math.inf

    def peak_at_end_kib(self, how: ExecutionEnd) -> int:
        """Return the most memory of an attempt that has ended: what was seen, or the system's own account of it."""
        files_kib = self.files_kib if how.with_files else 0
        return max(self.peak_kib, how.rss_max_kib - files_kib)


class WatchedAttempt(Protocol):
    """An attempt that runs."""

    started_at_ns: int
    usage: Usage

    @property
    def memory_mib(self) -> int:
        """Its demand, 0 if it names none."""

    def watched(self) -> WatchTarget | None:
        """Return where it can be observed, None if it cannot."""

    def is_fetching(self) -> bool:
        """Tell whether it has not started, because its code or its inputs are still fetched."""


class UsageWatch:
    """Looks at attempts while there are any.

    Args:
        running: the attempts that run, by fence.
        sample: asks what programs use; None if nothing can be observed.
        outgrown: called with a fence and the reason when an attempt must be stopped.
    """

    def __init__(
        self, running: Mapping[int, WatchedAttempt], sample: Sample | None, outgrown: Callable[[int, str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._running = running
        self._sample = sample
        self._outgrown = outgrown
        self.has_news = False
        """Whether there is anything to tell now and then."""
        self._reported_s = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._measuring: asyncio.Task[None] | None = None

    def started(self) -> None:
        """An attempt was started: look at what runs from now on."""
        if self._timer is None and self._sample is not None:
            self._timer = self._loop.call_later(SAMPLE_EVERY_S, self._look)

    def stop(self) -> None:
        """Stop sampling."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._measuring is not None:
            self._measuring.cancel()

    def report(self) -> list[AttemptUsage]:
        """Return what is due to be told."""
        now_s = self._loop.time()
        if not self.has_news or now_s < self._reported_s + REPORT_EVERY_S:
            return []
        reports: list[AttemptUsage] = []
        for fence, observed in self._running.items():
            usage = observed.usage
            if not usage.seen or now_s < usage.reported_s + REPORT_EVERY_S:
                continue
            if len(reports) == USAGE_PER_POLL_MAX:
                return reports  # the next poll tells the rest
            usage.reported_s = now_s
            reports.append(
                AttemptUsage(
                    fence=fence,
                    cpu_ms=reportable_number(usage.cpu_ms),
                    memory_mib=reportable_number(to_mib(usage.memory_kib)),
                    peak_mib=reportable_number(to_mib(usage.peak_kib)),
                    progress=usage.progress,
                    fetching=usage.fetching,
                )
            )
        self._reported_s = now_s
        return reports

    # --- looking

    def _look(self) -> None:
        """Ask about every attempt that has been running for long enough."""
        self._timer = None
        if not self._running or self._sample is None:
            self.has_news = False
            return
        self._timer = self._loop.call_later(SAMPLE_EVERY_S, self._look)
        if self._measuring is not None:  # one look after the other
            return
        begun_ns = now_ns() - int(SAMPLE_EVERY_S * 1e9)
        asked: dict[int, tuple[int, WatchTarget]] = {}
        wanted: list[tuple[int, int]] = []
        for fence, observed in self._running.items():
            if observed.started_at_ns > begun_ns:
                continue
            watched = observed.watched()
            self._note_fetching(observed)
            if watched is not None:
                asked[watched.id] = (fence, watched)
                limit_kib = observed.memory_mib * 1024
                wanted.append((watched.id, limit_kib + watched.kept_kib + 1 if limit_kib else 0))
                observed.usage.progress = read_progress(watched.progress, observed.usage.progress)
        if wanted:
            self._sample(wanted, lambda sampled: self._sampled(sampled, asked))

    def _note_fetching(self, observed: WatchedAttempt) -> None:
        """Note whether an attempt still waits for its files. A change of that is due to be told at once."""
        usage, fetching = observed.usage, observed.is_fetching()
        if fetching != usage.fetching:
            usage.fetching = fetching
            usage.seen = self.has_news = True
            usage.reported_s = self._reported_s = -math.inf

    def _sampled(self, sampled: Sampled, asked: Mapping[int, tuple[int, WatchTarget]]) -> None:
        suspects: dict[int, tuple[list[int], int]] = {}
        for identity, cpu_ms, held_kib, files_kib, pids in sampled.used:
            fence, watched = asked[identity]
            observed = self._running.get(fence)
            if observed is None:
                continue
            usage = observed.usage
            usage.seen = self.has_news = True
            # The time of a process that ended and was waited for by nobody is gone from the sum.
            usage.cpu_ms = max(usage.cpu_ms, cpu_ms - watched.cpu_before_ms)
            usage.files_kib = max(usage.files_kib, files_kib)
            if pids:
                suspects[fence] = (pids, watched.kept_kib)
            else:
                usage.over = 0
                _remember(usage, max(held_kib - watched.kept_kib, 0))
        if suspects:
            self._measuring = self._loop.create_task(self._measure(suspects))
            self._measuring.add_done_callback(self._measured)

    async def _measure(self, suspects: Mapping[int, tuple[list[int], int]]) -> None:
        """Measure the memory of attempts that seem to use too much, in a thread: the kernel may take its time."""
        sums = await asyncio.to_thread(lambda: {fence: shares_kib(pids) for fence, (pids, _) in suspects.items()})
        for fence, shared_kib in sums.items():
            observed = self._running.get(fence)
            if observed is not None:
                self._judge(fence, observed, max(shared_kib - suspects[fence][1], 0))

    def _measured(self, task: asyncio.Task[None]) -> None:
        self._measuring = None
        if not task.cancelled():
            task.result()

    def _judge(self, fence: int, observed: WatchedAttempt, memory_kib: int) -> None:
        usage = observed.usage
        _remember(usage, memory_kib)
        if memory_kib <= observed.memory_mib * 1024:
            usage.over = 0
            return
        usage.over += 1
        if usage.over == OVER_MAX:
            used = f"used {to_mib(memory_kib)} MiB of memory (PSS of its processes)"
            self._outgrown(fence, f"{used}, more than its demand of {observed.memory_mib} MiB")


def _remember(usage: Usage, memory_kib: int) -> None:
    usage.memory_kib = memory_kib
    usage.peak_kib = max(usage.peak_kib, memory_kib)


def to_mib(kib: int) -> int:
    """Return whole MiB, rounded up: what was used is never told as less."""
    return -(-kib // 1024)


def read_progress(path: str, before: float | None) -> float | None:
    """Return the number in a file, or `before` if the file has none, or one outside 0 to 1."""
    if not path:
        return before
    folder, name = os.path.split(path)
    try:
        with opened_folder(folder, "the folder of the progress") as fd:
            text = None if fd is None else read_file(name, _PROGRESS_BYTES, "the progress", folder=fd)
    except (OSError, UnfitFileError):  # whatever the task has put there
        return before
    if text is None:
        return before
    try:
        value = float(text)
    except ValueError:
        return before
    return value if 0.0 <= value <= 1.0 else before


def shares_kib(pids: Iterable[int]) -> int:
    """Return the memory that processes hold together: pages that they share are split among those that share them."""
    return sum(map(_share_kib, pids))


def _share_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb", 0) as file:  # noqa: PTH123 - a third of the cost
            found = {line.partition(b":")[0]: line for line in file.read(_SMAPS_BYTES).splitlines()}
    except PermissionError:  # a program that changed its user
        return memory_of(pid).held_kib
    except OSError:  # it has ended
        return 0
    try:
        total, anonymous, shared, dirty = (
            int(found[name].split()[1]) if name in found else None
            for name in (b"Pss", b"Pss_Anon", b"Pss_Shmem", b"Pss_Dirty")
        )
    except (ValueError, IndexError):
        return 0
    if anonymous is None or shared is None:  # Linux before 5.3
        return total or 0
    return max(anonymous + shared, dirty or 0)
