"""The reader of large documents: a process of its own (`document_worker`), one document at a time, in their order.

It is started with the first one, kept warm, and ended when none has come for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from raftflow import helpers
from raftflow.coordinator.uploads.document_worker import (
    LENGTH_BYTES,
    DocumentFault,
    ReadRequest,
    SubmissionHeader,
    answer_decoder,
    frame,
    piece_decoder,
)
from raftflow.domain.values.exact import UNREADABLE

if TYPE_CHECKING:
    from raftflow.coordinator.uploads.submission import WorkflowSubmission

_log = logging.getLogger(__name__)

IDLE_S = 60.0
"""After so long without a document the process ends, and gives back the memory that the last ones took."""
READ_S = 120.0
"""A document that takes longer than that to read will never be."""
_BUFFER_BYTES = 1024 * 1024


class ReaderFailedError(Exception):
    """The process could not be started, or ended while it read this document. Says so."""


class DocumentReader:
    """Owns the process."""

    def __init__(self, *, idle_s: float = IDLE_S, read_s: float = READ_S) -> None:
        self._idle_s = idle_s
        self._read_s = read_s
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The pid of the process, None while no process runs."""
        return None if self._process is None else self._process.pid

    async def pieces_of(
        self, body: bytes, request_id: str, learnt_ms: Mapping[str, int]
    ) -> WorkflowSubmission | DocumentFault:
        """Read a document and cut it into pieces. Raises `ReaderFailedError`."""
        return await self._send(ReadRequest(body, request_id, dict(learnt_ms)))

    async def close(self) -> None:
        """End the process."""
        self._closed = True
        self._cancel_idle()
        await self._end()

    async def _send(self, request: ReadRequest) -> WorkflowSubmission | DocumentFault:
        async with self._turn:
            self._cancel_idle()
            try:
                async with asyncio.timeout(self._read_s):
                    return await self._exchange(request)
            except (OSError, asyncio.IncompleteReadError, *UNREADABLE) as error:
                _log.warning("the process that reads large documents failed: %r", error)
                await self._end()
                raise ReaderFailedError("the process that reads large documents failed; try again") from error
            except BaseException:
                # Half an answer is left in the pipe.
                await self._end()
                raise
            finally:
                if self._process is not None:
                    self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._rest)

    async def _exchange(self, request: ReadRequest) -> WorkflowSubmission | DocumentFault:
        process = await self._running()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes, both
        process.stdin.write(frame(request))
        await process.stdin.drain()
        answer: DocumentFault | SubmissionHeader = answer_decoder.decode(await _read(process.stdout))
        if not isinstance(answer, SubmissionHeader):
            return answer
        pieces = [piece_decoder.decode(await _read(process.stdout)) for _ in range(answer.pieces)]
        return msgspec.structs.replace(answer.submission, pieces=tuple(pieces))

    async def _running(self) -> asyncio.subprocess.Process:
        if self._closed:
            raise ReaderFailedError("this replica is stopping")
        if self._process is not None and self._process.returncode is not None:
            self._process = None
        if self._process is None:
            # In a session of its own: signals from a terminal are the replica's to answer.
            self._process = await asyncio.create_subprocess_exec(
                *helpers.command("raftflow.coordinator.uploads.document_worker"),
                stdin=PIPE,
                stdout=PIPE,
                limit=_BUFFER_BYTES,
                start_new_session=True,
            )
        return self._process

    def _cancel_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _rest(self) -> None:
        """End the process by closing its input: it has nothing to do."""
        self._idle = None
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()


async def _read(stream: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await stream.readexactly(LENGTH_BYTES), "big")
    return await stream.readexactly(length)
