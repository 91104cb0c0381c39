"""`raftflow task logs`: prints the bytes of an attempt's output unchanged, from a given place on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

from raftflow.cli.terminal.output import note
from raftflow.cli.terminal.streams import echo_bytes

if TYPE_CHECKING:
    from raftflow.client import Client
    from raftflow.domain.contract.views import TaskLog, TaskView

FOLLOW_PAUSE_S = 0.3
_AWAY_PAUSE_S = 1.0
_STEP_BYTES = 64 * 1024
"""Bytes of one step backwards."""
_LINE_BYTES = 4096
"""How far back the beginning of a line is searched when output begins at a time."""
_OVER = frozenset({"succeeded", "failed", "cancelled"})
"""States of a task that gets no further attempt."""
_BESIDE = frozenset({"released", "superseded"})
"""Ends of attempts that decided nothing."""


class LogStart(NamedTuple):
    """Where to begin: the later of both places."""

    lines: int | None = None
    """With so many last lines."""
    since_ms: int | None = None
    """With what came at this time or later, in milliseconds since 1970."""


class LogPrinter:
    """Prints one stream of a task's attempts."""

    def __init__(self, client: Client, workflow_id: str, task_id: str, stream: Literal["stdout", "stderr"]) -> None:
        self._client = client
        self._workflow_id = workflow_id
        self._task_id = task_id
        self._stream = stream
        self._at_line_start = True

    def show(self, attempt: int | None, start: LogStart) -> None:
        """Print the present output of an attempt, the newest if None."""
        piece = self._fetch(attempt, 0)
        attempt, target = piece.attempt, piece.size
        offset = self._start(attempt, start, target)
        if offset:
            piece = self._fetch(attempt, offset)
        while (offset := self._print(piece, offset)) < target:
            following = self._fetch(attempt, offset)
            if _is_bare(following):  # a character of which the rest is still to come
                break
            piece = following

    def follow(self, attempt: int | None, start: LogStart) -> None:
        """Print an attempt until it has ended, and without a number those that come after it."""
        number = attempt or self._wait_for_attempt(0)
        while number is not None:
            self._follow_one(number, start)
            start = LogStart()
            if attempt is not None:
                return
            number = self._next_attempt(number)

    # --- one attempt

    def _follow_one(self, attempt: int, start: LogStart) -> None:
        from raftflow.client.errors import NotFound, Refused  # noqa: PLC0415 - heavy

        offset: int | None = None
        said = ""
        while True:
            try:
                if offset is None:
                    offset = self._start(attempt, start, None)
                piece = self._fetch(attempt, offset)
            except Refused as error:
                if isinstance(error, NotFound) or self._is_over(attempt):
                    note(f"raftflow: the rest of attempt {attempt} cannot be read: {error}")
                    return
                if str(error) != said:
                    said = str(error)
                    note(f"raftflow: waiting for attempt {attempt}: {error}")
                time.sleep(_AWAY_PAUSE_S)
                continue
            offset = self._print(piece, offset)
            if offset < piece.size and not _is_bare(piece):
                continue
            if piece.complete:
                return
            time.sleep(FOLLOW_PAUSE_S)

    def _fetch(self, attempt: int | None, offset: int) -> TaskLog:
        return self._client.task_log(self._workflow_id, self._task_id, self._stream, attempt=attempt, offset=offset)

    def _print(self, piece: TaskLog, offset: int) -> int:
        """Print a piece, with a mark for what is missing before it. Returns where the next one begins."""
        if piece.skipped:
            self._mark(piece.skipped)
        data = piece.content()
        if data:
            echo_bytes(data)
            self._at_line_start = data.endswith(b"\n")
        if piece.next is None:
            return max(offset, piece.size)
        return max(offset, piece.next)

    def _mark(self, count: int) -> None:
        line = f"[raftflow: {count} bytes are not kept here: the agent keeps the beginning and the end of a stream]\n"
        echo_bytes((line if self._at_line_start else "\n" + line).encode())
        self._at_line_start = True

    def _start(self, attempt: int, start: LogStart, size: int | None) -> int:
        """Return the byte to begin at; `size` is how many there are, None if that is not known."""
        offset = 0
        if start.since_ms is not None:
            wait_s = start.since_ms / 1000 - time.time()
            if wait_s > 0:
                if size is not None:
                    return size
                time.sleep(wait_s)  # what is followed from then on comes later
            offset = self._start_since(attempt, start.since_ms)
        if start.lines is not None:
            size = self._fetch(attempt, 0).size if size is None else size
            offset = max(offset, self._start_of_lines(attempt, start.lines, size))
        return offset

    def _start_since(self, attempt: int, since_ms: int) -> int:
        """Return the byte at which the line begins that was written at a time or later."""
        piece = self._client.task_log(
            self._workflow_id, self._task_id, self._stream, attempt=attempt, since_ms=since_ms
        )
        offset = piece.size if piece.next is None else piece.next
        if not 0 < offset < piece.size:
            return offset
        spans = self._span(attempt, max(offset - _LINE_BYTES, 0), offset)
        piece, data = spans[-1]
        line = data.rfind(b"\n")
        return offset if line < 0 else piece.offset + line + 1

    def _start_of_lines(self, attempt: int, count: int, size: int) -> int:
        """Return the byte at which the last `count` lines of the first `size` bytes begin.

        Where bytes are not kept, a line ends.
        """
        if count <= 0:
            return size
        end = size  # all from here on has been looked at
        found = 0
        while end > 0:
            start = max(end - _STEP_BYTES, 0)
            pieces = self._span(attempt, start, end)
            for piece, data in reversed(pieces):
                at = len(data)
                while True:
                    at = data.rfind(b"\n", 0, at)
                    if at < 0:
                        break
                    if piece.offset + at + 1 == size:
                        continue  # it ends the last line
                    found += 1
                    if found == count:
                        return piece.offset + at + 1
                if piece.skipped and piece.offset < size:
                    found += 1
                    if found >= count:
                        return piece.offset
            end = start
        return 0

    def _span(self, attempt: int, start: int, end: int) -> list[tuple[TaskLog, bytes]]:
        """Return what is kept between two bytes."""
        pieces: list[tuple[TaskLog, bytes]] = []
        at = start
        while at < end:
            piece = self._fetch(attempt, at)
            data = piece.content()[: max(end - piece.offset, 0)]
            pieces.append((piece, data))
            following = piece.next if piece.next is not None else end
            if following <= at:
                break
            at = following
        return pieces

    # --- which attempt

    def _view(self) -> TaskView:
        return self._client.task(self._workflow_id, self._task_id)

    def _is_over(self, attempt: int) -> bool:
        return any(known.attempt == attempt and known.outcome is not None for known in self._view().history)

    def _next_attempt(self, attempt: int) -> int | None:
        """Return the number of the attempt that follows, None if there will be none."""
        following = self._wait_for_attempt(attempt)
        if following is not None:
            if not self._at_line_start:
                echo_bytes(b"\n")
                self._at_line_start = True
            note(f"raftflow: attempt {attempt} has ended; attempt {following} follows")
        return following

    def _wait_for_attempt(self, after: int) -> int | None:
        """Wait until there is an attempt with a larger number. None if the task is over without one."""
        said = False
        while True:
            view = self._view()
            later = [known for known in view.history if known.attempt > after]
            good = [known.attempt for known in later if known.outcome not in _BESIDE]
            if good:
                return min(good) if after else max(good)
            if view.state in _OVER:
                return later[-1].attempt if later and not after else None
            if not said and view.state != "running":
                said = True
                note(f"raftflow: the task is {view.state}; waiting for its {'next' if after else 'first'} attempt")
            time.sleep(FOLLOW_PAUSE_S)


def _is_bare(piece: TaskLog) -> bool:
    """Tell whether a piece is empty, and the next one would be empty too for now."""
    return not piece.content() and not piece.skipped
