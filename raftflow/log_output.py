"""Log lines of a program that must not block: a thread writes them to standard error.

Standard error can block: a terminal after Ctrl-S, a pipe without a reader, a log collector that hangs. The event loop
of a replica or of an agent must never wait for such a write. So lines wait in a bounded queue. When the queue is
full, lines are dropped and counted. The count is written as soon as lines can be written again.

Texts of others are in many lines: what an agent says is wrong, the name of a workflow, an answer. So a message stays
in one line, and nothing in it can move the cursor of a terminal: control characters are written as escapes. Only a
traceback has more lines.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
from logging.handlers import QueueHandler, QueueListener
from typing import Final

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LINES_MAX: Final = 10_000
"""How many lines can wait to be written."""
_CONTROLS: Final = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x61C,
        *range(0x200E, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    )
}
"""Control characters, ends of lines, and those that change the direction of the text, with their escapes."""
_CONTROLS_OF_LINES: Final = {code: text for code, text in _CONTROLS.items() if chr(code) not in "\n\t"}
END_S: Final = 1.0
"""How long the process waits at its end for the remaining lines."""


class _OneLine(logging.Formatter):
    """Formats a message, in one line. What follows it is a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class's name
        """Return the message with escapes in place of control characters."""
        return record.message.translate(_CONTROLS)


class _Queueing(QueueHandler):
    """Puts lines into the queue, and counts the lines that are dropped because it is full."""

    def __init__(self, lines: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__(lines)
        self.setFormatter(_OneLine())
        self.lines = lines
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a line without waiting."""
        try:
            self.lines.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Descriptor(logging.Handler):
    """Writes lines to a descriptor. A stream would have a lock, and the end of the process would wait for it."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def createLock(self) -> None:  # noqa: N802 - the base class's name
        """Create no lock: only one thread writes, and `logging.shutdown` would wait for the lock."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line. This may take any time."""
        text = self.format(record).translate(_CONTROLS_OF_LINES)
        left = (text + "\n").encode(errors="backslashreplace")
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            return  # standard error is closed: this cannot be reported anywhere


class _Writing(QueueListener):
    """Writes the lines, in a thread that does not keep the process alive."""

    def __init__(self, source: _Queueing, target: logging.Handler) -> None:
        super().__init__(source.lines, target)
        self._source = source
        self._told = 0

    def handle(self, record: logging.LogRecord) -> None:
        """Write a line. Write first how many lines were dropped since the last one."""
        self._tell()
        super().handle(record)

    def _tell(self) -> None:
        missing = self._source.dropped - self._told
        if missing:
            self._told += missing
            text = f"{missing} log lines were dropped here: standard error did not take them"
            super().handle(logging.LogRecord("raftflow.log", logging.WARNING, "", 0, text, None, None))

    def finish(self) -> None:
        """Write the waiting lines, for `END_S` at most."""
        thread: threading.Thread | None = self._thread
        if thread is None:
            return
        try:
            self._source.lines.put(None, timeout=END_S)
        except queue.Full:
            return
        thread.join(END_S)
        if not thread.is_alive():
            self._tell()


def _keep_standard_descriptors() -> None:
    """Open each of standard input, output and error that is closed, on `/dev/null`.

    Otherwise the next file or connection gets that number, and lines for standard error go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)


def start_logging(level: str) -> None:
    """Send the log lines of this process to standard error, from this level on: "debug", "info", ..."""
    _keep_standard_descriptors()
    source = _Queueing(queue.Queue(LINES_MAX))
    target = _Descriptor(2)
    target.setFormatter(logging.Formatter(FORMAT))
    writing = _Writing(source, target)
    root = logging.getLogger()
    root.handlers[:] = [*(each for each in root.handlers if not isinstance(each, logging.StreamHandler)), source]
    root.setLevel(level.upper())
    writing.start()
    atexit.register(writing.finish)
