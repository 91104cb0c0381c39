"""The leader's side of a snapshot transfer, to a follower that lacks entries which the leader no longer has.

The library's own way is not used: it sends pickled pieces without a log position, through one placeholder file. Here
the leader announces the file and sends it in chunks with a bounded number in flight. The follower answers each chunk.
Meanwhile the library's appends to that follower are replaced by bare heartbeats, which the follower answers too, so
that neither side takes the other for dead. The follower's side is incoming.py. A transfer that breaks starts again
when the library asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from raftflow.replication.errors import LogFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.config import LogConfig
    from raftflow.replication.raft.library_types import Message
    from raftflow.replication.storage.snapshot_store import SnapshotStore

_log = logging.getLogger(__name__)

_RETRY_PAUSE_S: Final = 1.0
"""Pause between two attempts, so that a transfer that cannot work does not keep two replicas busy."""


class _OutgoingTransfer:
    """One stream to one follower."""

    def __init__(self, transfer_id: int, term: int, first_index: int) -> None:
        self.transfer_id = transfer_id
        self.term = term
        self.first_index = first_index
        self.sent = 0
        self.acked = 0
        self.over = False
        self.refused = False
        self.answered = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class SnapshotSender:
    """Sends the newest snapshot to followers, one transfer for each.

    Args:
        config: chunk and window sizes, and the time after which a silent follower is given up.
        store: the snapshots on disk.
        emit: sends a message to a peer.
        on_end: called with the peer when a transfer to it is over, however it ended.
    """

    def __init__(
        self,
        config: LogConfig,
        store: SnapshotStore,
        emit: Callable[[str, Message], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._config = config
        self._store = store
        self._emit = emit
        self._on_end = on_end
        self._transfers: dict[str, _OutgoingTransfer] = {}
        self._next_id = 0

    def start(self, peer: str, term: int, first_index: int) -> None:
        """Send the newest snapshot to `peer`, in place of a transfer that may be under way.

        `first_index` is where the leader's log begins: the snapshot has to reach behind it.
        """
        self.cancel(peer)
        self._next_id += 1
        transfer = self._transfers[peer] = _OutgoingTransfer(self._next_id, term, first_index)
        transfer.task = asyncio.get_running_loop().create_task(self._run(peer, transfer))

    def acknowledge(self, peer: str, message: Message) -> None:
        """Take the follower's answer."""
        transfer = self._transfers.get(peer)
        if transfer is None or (message["transfer_id"], message["term"]) != (transfer.transfer_id, transfer.term):
            return
        transfer.acked = max(transfer.acked, min(message["offset"], transfer.sent))
        transfer.over = message["status"] != "more"
        transfer.refused = message["status"] == "refused"
        transfer.answered.set()

    def cancel(self, peer: str) -> None:
        """Stop sending to `peer`: its link broke."""
        transfer = self._transfers.pop(peer, None)
        if transfer is not None and transfer.task is not None:
            transfer.task.cancel()

    def cancel_all(self) -> None:
        """Stop sending: this replica no longer leads."""
        for peer in list(self._transfers):
            self.cancel(peer)

    async def stop(self) -> None:
        """Stop sending and wait until the files are closed."""
        tasks = [transfer.task for transfer in self._transfers.values() if transfer.task is not None]
        self.cancel_all()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, peer: str, transfer: _OutgoingTransfer) -> None:
        try:
            problem = await self._try_stream(peer, transfer)
            if problem is not None:
                _log.warning("the snapshot that %s needs did not arrive, trying again: %s", peer, problem)
                await asyncio.sleep(_RETRY_PAUSE_S)
        finally:
            if self._transfers.get(peer) is transfer:
                del self._transfers[peer]
                self._on_end(peer)

    async def _try_stream(self, peer: str, transfer: _OutgoingTransfer) -> str | None:
        """Send the snapshot; returns what went wrong."""
        try:
            await self._stream(peer, transfer)
        except TimeoutError:
            return f"{peer} does not answer"
        except (OSError, LogFailedError) as error:
            return str(error)
        return f"{peer} refused it" if transfer.refused else None

    async def _stream(self, peer: str, transfer: _OutgoingTransfer) -> None:
        info = self._store.newest()
        if info is None or info.index <= transfer.first_index:
            raise LogFailedError(
                f"no readable snapshot reaches the log, which begins at entry {transfer.first_index}; the next will"
            )
        head: Message = {"term": transfer.term, "transfer_id": transfer.transfer_id}
        chunks = self._store.open_raw(info)
        try:
            begin = {"type": "snapshot_begin", "index": info.index, "snap_term": info.term, "size": info.size}
            self._emit(peer, {**begin, **head})
            offset = 0
            in_flight: deque[int] = deque()
            for chunk in chunks:
                self._emit(peer, {"type": "snapshot_chunk", "offset": offset, "data": chunk, **head})
                offset += len(chunk)
                transfer.sent = offset
                in_flight.append(offset)
                while in_flight and in_flight[0] <= transfer.acked:
                    in_flight.popleft()
                while len(in_flight) >= self._config.snapshot_chunks_in_flight and not transfer.over:
                    await self._wait_for_answer(transfer)
                    while in_flight and in_flight[0] <= transfer.acked:
                        in_flight.popleft()
                if transfer.over:
                    return
                await asyncio.sleep(0)
            self._emit(peer, {"type": "snapshot_end", **head})
            while not transfer.over:
                await self._wait_for_answer(transfer)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    async def _wait_for_answer(self, transfer: _OutgoingTransfer) -> None:
        """Wait for the follower's next answer. Raises `TimeoutError`."""
        async with asyncio.timeout(self._config.snapshot_stall_s):
            await transfer.answered.wait()
        transfer.answered.clear()
