"""Reads output from the log store in threads, so that a store that hangs delays only those who read from it."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from raftflow.coordinator.sessions.log_relay import LogLostError, LogUnavailableError
from raftflow.domain.contract.views import LogPiece
from raftflow.logstore.attempts import Place, StoredAttempt, read_meta, read_piece, start_since
from raftflow.logstore.stores import LogStore, LogStoreError

T = TypeVar("T")

TIMEOUT_S = 10.0
READS_MAX = 8
"""Reads at one time. A read that hangs occupies its place until it ends."""
_METAS_MAX = 256


class StoredLogs:
    """The log store, as a replica reads it."""

    def __init__(self, store: LogStore, *, timeout_s: float = TIMEOUT_S) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._reads = 0
        self._lock = threading.Lock()
        self._metas: OrderedDict[Place, StoredAttempt] = OrderedDict()

    async def read(
        self, place: Place, stream: Literal["stdout", "stderr"], offset: int, count: int, since_ms: int | None
    ) -> LogPiece | None:
        """Return a piece of an attempt's output, None if the store has nothing of the attempt.

        With `since_ms` it has no data and tells where output begins that came then or later. Raises
        `LogUnavailableError`, and `LogLostError` for what is damaged.
        """

        def read() -> LogPiece | None:
            meta = self._metas.get(place) or read_meta(self._store, place)
            if meta is None:
                return None
            with self._lock:
                self._metas[place] = meta
                while len(self._metas) > _METAS_MAX:
                    self._metas.popitem(last=False)
            if since_ms is None:
                piece = read_piece(self._store, place, meta, stream, offset, count)
            else:
                piece = start_since(meta, stream, since_ms)
            return LogPiece(
                request="",
                data=piece.data,
                offset=piece.offset,
                size=piece.size,
                truncated=piece.truncated,
                complete=True,
            )

        return await self._run(read)

    async def _run(self, call: Callable[[], T]) -> T:
        if self._reads >= READS_MAX:
            raise LogUnavailableError(f"{self._reads} reads of the log store are under way; try again later")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(value: Any, error: Exception | None) -> None:
            self._reads -= 1
            if answer.done():
                return
            if error is None:
                answer.set_result(value)
            else:
                answer.set_exception(error)

        def run() -> None:
            value: Any = None
            failure: Exception | None = None
            try:
                value = call()
            except LogStoreError as error:
                failure = LogLostError(str(error)) if error.is_damage else LogUnavailableError(str(error))
            except Exception as error:  # noqa: BLE001 - told to who asked
                failure = error
            try:
                loop.call_soon_threadsafe(settle, value, failure)
            except RuntimeError:  # the loop is closed
                return

        self._reads += 1
        threading.Thread(
            target=run, name="log store", daemon=True
        ).start()  # nobody waits for it when the process ends
        try:
            return await asyncio.wait_for(answer, self._timeout_s)
        except TimeoutError:
            raise LogUnavailableError(f"the log store did not answer within {self._timeout_s:g} s") from None
