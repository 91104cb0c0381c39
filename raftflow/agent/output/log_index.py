"""Which attempts there were, on disk: what an agent that starts again needs to know of the output that it finds.

A file of lines, each a record of JSON: an attempt began, it ended, its output is in the log store. Lines are only
added; one that a crash has cut is ignored. When there are many a new file is written beside the old one and
renamed. Records are written every 10 ms at most, so a busy agent writes many at once. The output of an attempt that
began within the last 10 ms before the agent was killed is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Iterable

import msgspec

from raftflow.agent.workdir.files import UnfitFileError, create_file, read_file, write_all
from raftflow.domain.values.exact import UNREADABLE

_log = logging.getLogger("raftflow.agent.logs")

_BYTES_MAX = 256 << 20
_GATHER_S = 0.01
_ROLE = "the index of the logs"


class BeginRecord(msgspec.Struct, tag="began", array_like=True):
    """An attempt began."""

    fence: int
    workflow_id: str
    task_id: str
    attempt: int
    at_ms: int
    """Milliseconds since 1970, as all times here."""
    worker: str = ""
    """Name of the folder that its output is captured in until it ends; empty for a program."""


class EndRecord(msgspec.Struct, tag="ended", array_like=True):
    """An attempt ended."""

    fence: int
    at_ms: int
    sizes: tuple[int, int]
    truncated: tuple[bool, bool]


class StoredRecord(msgspec.Struct, tag="stored", array_like=True):
    """Its output is in the log store, or cannot be brought there."""

    fence: int


Record = BeginRecord | EndRecord | StoredRecord

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class LogIndex:
    """The file."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._waiting: list[Record] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._is_failing = False
        self.count = 0
        """Records in the file, about."""

    def load(self) -> list[Record]:
        """Return the records. Anything else in place of the file counts as empty."""
        try:
            data = read_file(self._path, _BYTES_MAX, _ROLE) or b""
        except UnfitFileError as error:
            _log.warning("the logs of earlier attempts are lost: %s", error)
            return []
        records: list[Record] = []
        for line in data.split(b"\n"):
            if line:
                with contextlib.suppress(*UNREADABLE):
                    records.append(_decode(line))
        return records

    def add(self, record: Record) -> None:
        """Add a record; it is written soon. A full disk costs the record, nothing else."""
        self._waiting.append(record)
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(_GATHER_S, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        waiting, self._waiting = self._waiting, []
        if not waiting or self._fd < 0:
            return
        self.count += len(waiting)
        self._write(waiting)

    def _write(self, records: Iterable[Record]) -> None:
        data = b"".join([b"\n" + _encode(record) for record in records]) + b"\n"
        try:
            write_all(self._fd, data)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                self._is_failing = True
                _log.warning("the index of the logs cannot be written: %s", error.strerror)

    def rewrite(self, records: list[Record]) -> None:
        """Put these records in place of all that are in the file."""
        self.flush()
        fresh = f"{self._path}.{secrets.token_hex(8)}"
        try:
            fd = create_file(fresh, _ROLE, flags=os.O_WRONLY | os.O_APPEND)
        except (OSError, UnfitFileError) as error:
            _log.warning("the index of the logs cannot be written: %s", error)
            return
        old, self._fd = self._fd, fd
        try:
            if records:
                write_all(fd, b"".join([b"\n" + _encode(record) for record in records]) + b"\n")
            os.rename(fresh, self._path)  # noqa: PTH104 - texts, as everywhere here
        except OSError as error:
            _log.warning("the index of the logs cannot be written: %s", error.strerror)
            with contextlib.suppress(OSError):
                os.unlink(fresh)  # noqa: PTH108
            if old >= 0:
                os.close(fd)
                self._fd = old
                return
        if old >= 0:
            os.close(old)
        self.count = len(records)

    def close(self) -> None:
        """Write what waits and close the file."""
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
