"""What the attempts' keeper wants from an executor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from raftflow.agent.workdir.inputs import FetchedInputs
from raftflow.domain.contract.views import Assignment


class ExecutionEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt's process, or call, came to its end."""

    ok: bool
    exit_code: int | None = None
    """Of a command; negative for a signal."""
    error: str = ""
    result: bytes = b""
    """JSON; empty for none."""
    abandoned: bool = False
    """The agent's own machinery ended it (the lease was over, the launcher died): not the task's failure."""
    agent_fault: bool = False
    """The agent could not do its part: not the task's failure, and the next attempt here may go the same way."""
    cpu_ms: int = 0
    """CPU time, as the system accounted for it at the end."""
    rss_max_kib: int = 0
    """Most memory of one of its processes; 0 if it is not known."""
    with_files: bool = True
    """Resident pages of files are part of `rss_max_kib`."""
    parked: bytes = b""
    """What it waits for, as JSON, if it has parked and `ok`; else empty."""
    by_itself: bool = False
    """It is certain that it ended before anybody told it to."""


class WatchTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running attempt can be observed."""

    id: int
    """The launcher's, of the program."""
    cpu_before_ms: int = 0
    """CPU time that the program had used before the attempt began."""
    kept_kib: int = 0
    """Memory that the program had kept from what it did before."""
    progress: str = ""
    """The file in which the attempt tells its progress."""


Ended = Callable[[int, ExecutionEnd], None]
"""Is told the fence of an attempt, and how it ended."""


class Executor(Protocol):
    """Starts attempts that run programs of one type. Everything happens in the event loop's thread."""

    result_bytes_max: int
    """Of one result, as the coordinator takes it."""

    def start(
        self, assignment: Assignment, ended: Ended, inputs: FetchedInputs | None = None, code: str = ""
    ) -> None:
        """Start an attempt; `inputs` are those that were fetched, if its assignment has none.

        `code` is the folder of its code bundle, empty for none.

        `ended(fence, how)` is called once, from the event loop, never before this returns.
        By then nothing of the attempt runs any more.
        """

    def signal(self, fence: int, number: int) -> None:
        """Send a signal to a running attempt; ignored if it has ended."""

    def watched(self, fence: int) -> WatchTarget | None:
        """Return where a running attempt can be observed, None if it cannot or has ended."""

    async def probe(self) -> str:
        """Try whether attempts can be started. Returns what is wrong, empty if nothing is."""
