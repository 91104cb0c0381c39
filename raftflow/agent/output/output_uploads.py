"""Brings the output of ended attempts to the log store, in the background.

The end of an attempt waits for no store. What is not there yet stays on this agent, within its own limits, and is
tried again with growing pauses, also after a restart. Threads do the work, since a shared folder may hang for as long
as it likes; the process ends without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial

from raftflow.agent.output.store import STREAMS, KeptOutput, OutputStore
from raftflow.agent.output.stream_file import read_stream, stream_times
from raftflow.agent.workdir.files import UnfitFileError, opened_below
from raftflow.logstore.attempts import META, Place, StoredAttempt, StoredStream, encode_meta
from raftflow.logstore.stores import LogStore, LogStoreError

_log = logging.getLogger("raftflow.agent.uploads")

THREADS = 4
_PAUSE_MIN_S = 1.0
_PAUSE_MAX_S = 60.0
_CHUNK_BYTES = 1 << 18


class OutputUploads:
    """Uploads of one agent. Everything but `store_output` happens in the event loop's thread."""

    def __init__(
        self, store: LogStore, output: OutputStore, agent: str, *, pauses_s: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """`pauses_s` are the shortest and the longest pause after a failure, where the usual ones do not suit."""
        self._store = store
        self._output = output
        self._agent = agent
        self._pause_min_s, self._pause_max_s = pauses_s if any(pauses_s) else (_PAUSE_MIN_S, _PAUSE_MAX_S)
        self._loop = asyncio.get_running_loop()
        self._waiting: OrderedDict[int, KeptOutput] = OrderedDict()
        """No more than are kept here."""
        self._pending: set[int] = set()
        self._jobs: queue.SimpleQueue[KeptOutput | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pause_s = 0.0
        self._settled = asyncio.Event()
        """Set while nothing waits."""
        self._settled.set()
        self._timer: asyncio.TimerHandle | None = None
        output.on_kept, output.on_removed = self.add, self._removed
        for kept in output.unstored():
            self.add(kept)

    def add(self, kept: KeptOutput) -> None:
        """Bring an attempt's output to the store, soon."""
        self._waiting[kept.began.fence] = kept
        self._feed()

    def _removed(self, fence: int) -> None:
        if self._waiting.pop(fence, None) is not None:
            _log.warning("the output of attempt %d was removed before it was in the log store", fence)

    def _feed(self) -> None:
        if self._timer is not None:
            self._settled.set()
            return
        # After a failure one upload alone finds out whether the store works again.
        room = 1 if self._pause_s else THREADS
        while self._waiting and len(self._pending) < room:
            fence, kept = self._waiting.popitem(last=False)
            self._pending.add(fence)
            if len(self._threads) < min(len(self._pending), THREADS):
                thread = threading.Thread(target=self._work, name="upload", daemon=True)
                thread.start()
                self._threads.append(thread)
            self._jobs.put(kept)
        if self._pending:
            self._settled.clear()
        else:
            self._settled.set()

    def _work(self) -> None:
        while (kept := self._jobs.get()) is not None:
            failure: Exception | None = None
            try:
                store_output(self._store, self._output.directory(kept.began.fence), kept, self._agent)
            except Exception as error:  # noqa: BLE001 - judged in the event loop
                failure = error
            try:
                self._loop.call_soon_threadsafe(partial(self._done, kept, failure))
            except RuntimeError:  # the loop is closed
                return

    def _done(self, kept: KeptOutput, failure: Exception | None) -> None:
        fence = kept.began.fence
        self._pending.discard(fence)
        is_here = self._output.holds(kept)
        if isinstance(failure, LogStoreError) and not failure.is_damage:
            if is_here:
                self._waiting[fence] = kept
                self._waiting.move_to_end(fence, last=False)
            if self._timer is None:
                if not self._pause_s:
                    _log.warning("output waits to be stored: %s", failure)
                self._pause_s = min(max(self._pause_s * 2, self._pause_min_s), self._pause_max_s)
                self._timer = self._loop.call_later(self._pause_s, self._again)
            self._feed()
            return
        if failure is None:
            if self._pause_s:
                _log.info("the log store works again")
            self._pause_s = 0.0
        elif is_here:  # nobody can bring it: somebody has changed the files, for instance
            _log.warning("the output of attempt %d cannot be stored: %s", fence, failure)
        if is_here:
            self._output.stored(kept)
        self._feed()

    def _again(self) -> None:
        self._timer = None
        self._feed()

    async def close(self, wait_s: float) -> None:
        """Go on for at most `wait_s` while the store works. What is left is done after the next start."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), wait_s)
        if self._timer is not None:
            self._timer.cancel()
        self._output.on_kept, self._output.on_removed = None, None
        for _ in self._threads:
            self._jobs.put(None)


def store_output(store: LogStore, directory: str, kept: KeptOutput, agent: str) -> None:
    """Bring what is in an attempt's directory to the store.

    Raises `LogStoreError`, `UnfitFileError` and `OSError`.
    """
    began = kept.began
    place = Place(began.workflow_id, began.task_id, began.attempt, began.fence)
    streams: dict[str, StoredStream] = {}
    for index, name in enumerate(STREAMS):
        claimed = 0 if kept.is_found else kept.ended.sizes[index]
        stream = StoredStream(size=claimed, parts=[])
        role = f"the file of captured {name}"
        with opened_below(directory, role) as folder:
            if folder is None:
                raise UnfitFileError(f"{role} was removed")
            chunks = _kept_bytes(folder, name, role, stream)
            first = next(chunks, None)
            if first is not None:
                store.put(place.key(name), _all(first, chunks))
                stream.times, stream.changed_ms = stream_times(folder, name, role)
        if stream.size:
            streams[name] = stream
    meta = StoredAttempt(
        workflow_id=began.workflow_id,
        task_id=began.task_id,
        attempt=began.attempt,
        fence=began.fence,
        agent=agent,
        ended_at_ms=kept.ended.at_ms,
        streams=streams,
    )
    store.put(place.key(META), iter([encode_meta(meta)]))


def _kept_bytes(folder: int, name: str, role: str, stream: StoredStream) -> Iterator[bytes]:
    """Yield what is kept of a stream, and note in `stream` which bytes these are."""
    at = 0
    while True:
        found = read_stream(folder, name, role, at, _CHUNK_BYTES)
        stream.size = max(stream.size, found.size)
        if not found.data:
            return
        if stream.parts and sum(stream.parts[-1]) == found.offset:
            start, length = stream.parts[-1]
            stream.parts[-1] = (start, length + len(found.data))
        else:
            stream.parts.append((found.offset, len(found.data)))
        at = found.offset + len(found.data)
        yield found.data


def _all(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
