"""A slow machine: processes that may run only for a small share of the time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import TracebackType
from typing import Final, Self

from raftflow.agent.launcher.process_tree import read_tree
from raftflow.local.processes import ProcessRecord, alive

PERIOD_S: Final = 0.1
"""Length of one turn: a process runs, and then is paused."""
_JOIN_S: Final = 10.0


class Slowdown:
    """Stops a process and all its descendants (SIGSTOP) for most of each period, while it is entered.

    After a turn that ran longer than planned, the pause is longer, so that the share holds on a busy machine too. A
    sleep goes on while its process is paused: only what does work step by step becomes slow.

    Args:
        record: the first process of the tree.
        factor: how many times as long the same work takes, at least 1.
    """

    def __init__(self, record: ProcessRecord, factor: float, period_s: float = PERIOD_S) -> None:
        if factor < 1:
            raise ValueError("a factor below 1 would make it faster")
        self._record = record
        self._factor = factor
        self._period_s = period_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slowdown", daemon=True)
        self.ran_s = 0.0
        """How long the processes could run so far."""
        self.stood_s = 0.0
        """How long they were paused."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        ran_s = self._period_s / self._factor
        while alive(self._record) and not self._end.is_set():
            begun_s = time.monotonic()
            pids = read_tree([self._record.pid]).pids
            try:
                _signal(pids, signal.SIGSTOP)
                self._end.wait(ran_s * (self._factor - 1))
            finally:
                _signal(pids, signal.SIGCONT)
            let_go_s = time.monotonic()
            self.stood_s += let_go_s - begun_s
            self._end.wait(self._period_s / self._factor)
            ran_s = time.monotonic() - let_go_s
            self.ran_s += ran_s


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
