"""Log lines of a program that must not wait: a thread writes them to standard error.

Standard error may stand still: a terminal after Ctrl-S, a pipe that nobody reads, a log collector that hangs. A write
to it then blocks whoever writes, and that must not be the event loop of a replica or of an agent. So lines wait in a
bounded queue. Lines that find it full are dropped and counted, and the count is written once lines flow again.
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
"""Lines that wait to be written."""
END_S: Final = 1.0
"""How long the end of the process waits for the lines that are left."""


class _Queueing(QueueHandler):
    """Puts lines into the queue, and counts those that find no place."""

    def __init__(self, lines: queue.Queue[logging.LogRecord | None]) -> None:
        super().__init__(lines)
        self.lines = lines
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a line without waiting."""
        try:
            self.lines.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Descriptor(logging.Handler):
    """Writes lines to a descriptor: a stream has a lock, for which the process's end would wait."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def createLock(self) -> None:  # noqa: N802 - the base class's name
        """Have none: one thread writes, and at the end `logging.shutdown` would wait for it."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, however long that takes."""
        left = (self.format(record) + "\n").encode(errors="backslashreplace")
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            return  # standard error is closed: nobody reads, and there is nowhere to say so


class _Writing(QueueListener):
    """Writes the lines, in a thread that does not keep the process alive."""

    def __init__(self, source: _Queueing, target: logging.Handler) -> None:
        super().__init__(source.lines, target)
        self._source = source
        self._told = 0

    def handle(self, record: logging.LogRecord) -> None:
        """Write a line, and before it how many were dropped since the one before."""
        self._tell()
        super().handle(record)

    def _tell(self) -> None:
        missing = self._source.dropped - self._told
        if missing:
            self._told += missing
            text = f"{missing} log lines were dropped here: standard error did not take them"
            super().handle(logging.LogRecord("raftflow.log", logging.WARNING, "", 0, text, None, None))

    def finish(self) -> None:
        """Write what waits, for `END_S` at most."""
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
    """Open what is closed of standard input, output and error on nothing.

    Otherwise the next file or connection gets that number, and lines for standard error go there.
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
