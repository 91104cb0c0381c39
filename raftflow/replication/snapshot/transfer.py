"""Snapshots on their way to a follower that lacks entries which the leader no longer has.

The library's own way (pickled pieces without a log position, one placeholder file) is not used. The leader
announces the file, sends it in pieces with a bounded number in flight, and the follower answers each; meanwhile the
library's appends to that follower are replaced by bare heartbeats, which the follower answers too, so that neither
side takes the other for dead. The follower checks every checksum, makes the file durable, and only then lets the
library load it and acknowledge it (guard.py: T4, T5, T7). Whatever breaks in between is begun anew when the library
asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from raftflow.replication.errors import LogFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.replication.config import LogConfig
    from raftflow.replication.raft.driver import Driver
    from raftflow.replication.raft.guard import GuardedTransport
    from raftflow.replication.raft.library import Message
    from raftflow.replication.storage import snapshot_store

_log = logging.getLogger(__name__)

_PAUSE_S: Final = 1.0
"""Between two tries, so that what cannot work does not keep two replicas busy."""


class _Transfer:
    """One stream to one follower."""

    def __init__(self, transfer_id: int, term: int, first_index: int) -> None:
        self.transfer_id = transfer_id
        self.term = term
        self.first_index = first_index
        self.sent = 0
        self.acked = 0
        self.over = False
        self.refused = False
        self.moved = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class SnapshotSender:
    """The leader's side.

    Args:
        config: chunk and window sizes and the time after which a silent follower is given up.
        store: where the snapshots are.
        emit: sends a message to a peer.
        on_end: told when a transfer to a peer is over, however it ended.
    """

    def __init__(
        self,
        config: LogConfig,
        snapshot_store: snapshot_store.SnapshotStore,
        emit: Callable[[str, Message], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._config = config
        self._store = snapshot_store
        self._emit = emit
        self._on_end = on_end
        self._transfers: dict[str, _Transfer] = {}
        self._next_id = 0

    def start(self, peer: str, term: int, first_index: int) -> None:
        """Send the newest snapshot to `peer`, in place of a transfer that may be under way.

        `first_index` is where the leader's log begins: the snapshot has to reach behind it.
        """
        self.cancel(peer)
        self._next_id += 1
        transfer = self._transfers[peer] = _Transfer(self._next_id, term, first_index)
        transfer.task = asyncio.get_running_loop().create_task(self._run(peer, transfer))

    def acknowledge(self, peer: str, message: Message) -> None:
        """Take the follower's answer."""
        transfer = self._transfers.get(peer)
        if transfer is None or (message["transfer_id"], message["term"]) != (transfer.transfer_id, transfer.term):
            return
        transfer.acked = max(transfer.acked, min(message["offset"], transfer.sent))
        transfer.over = message["status"] != "more"
        transfer.refused = message["status"] == "refused"
        transfer.moved.set()

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

    async def _run(self, peer: str, transfer: _Transfer) -> None:
        try:
            problem = await self._try_stream(peer, transfer)
            if problem is not None:
                _log.warning("the snapshot that %s needs did not get there, trying again: %s", peer, problem)
                await asyncio.sleep(_PAUSE_S)
        finally:
            if self._transfers.get(peer) is transfer:
                del self._transfers[peer]
                self._on_end(peer)

    async def _try_stream(self, peer: str, transfer: _Transfer) -> str | None:
        """Send the snapshot; returns what went wrong."""
        try:
            await self._stream(peer, transfer)
        except TimeoutError:
            return "it does not answer"
        except (OSError, LogFailedError) as error:
            return str(error)
        return "it refused it" if transfer.refused else None

    async def _stream(self, peer: str, transfer: _Transfer) -> None:
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
                    await self._progress(transfer)
                    while in_flight and in_flight[0] <= transfer.acked:
                        in_flight.popleft()
                if transfer.over:
                    return
                await asyncio.sleep(0)
            self._emit(peer, {"type": "snapshot_end", **head})
            while not transfer.over:
                await self._progress(transfer)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    async def _progress(self, transfer: _Transfer) -> None:
        """Wait for the follower's next answer. Raises `TimeoutError`."""
        async with asyncio.timeout(self._config.snapshot_stall_s):
            await transfer.moved.wait()
        transfer.moved.clear()


class _Incoming:
    """A snapshot that is being received."""

    def __init__(self, peer: str, message: Message, receiver: snapshot_store.SnapshotSink) -> None:
        self.peer = peer
        self.term: int = message["term"]
        self.transfer_id: int = message["transfer_id"]
        self.index: int = message["index"]
        self.snap_term: int = message["snap_term"]
        self.receiver = receiver
        self.finishing = False


class IncomingTransfer:
    """The follower's side.

    Args:
        guard: decides from whom a snapshot is taken and whether it is needed.
        store: where it is put.
        emit: sends a message to a peer.
        prepare: reads the snapshot that was made durable, without standing in the loop's way; returns what takes it.
        install: loads what was read; called inside the loop, inside `driver.guarded`.
        driver: told about failures.
        alive_s: how often the leader is told that this side is still busy with what arrived.
        compared: returns whether the leader has compared its history with all that was applied here.
        reset: breaks a link; when it is made anew, histories are compared.
    """

    def __init__(
        self,
        guard: GuardedTransport,
        snapshot_store: snapshot_store.SnapshotStore,
        emit: Callable[[str, Message], None],
        *,
        prepare: Callable[[snapshot_store.SnapshotInfo], Awaitable[Callable[[], None]]],
        install: Callable[[str, snapshot_store.SnapshotInfo, Callable[[], None]], None],
        driver: Driver,
        alive_s: float,
        compared: Callable[[str], bool],
        reset: Callable[[str], None],
    ) -> None:
        self._guard = guard
        self._store = snapshot_store
        self._emit = emit
        self._prepare = prepare
        self._install = install
        self._driver = driver
        self._alive_s = alive_s
        self._compared = compared
        self._reset = reset
        self._incoming: _Incoming | None = None
        self._task: asyncio.Task[None] | None = None

    def receive(self, peer: str, message: Message) -> None:
        """Take one message of a transfer. What is not from the leader of the present term is ignored."""
        if not self._guard.follows(peer, message["term"]):
            return
        kind = message["type"]
        if kind == "snapshot_begin":
            self._begin(peer, message)
            return
        incoming = self._incoming
        if incoming is None or (peer, message["term"], message["transfer_id"]) != (
            incoming.peer,
            incoming.term,
            incoming.transfer_id,
        ):
            return
        if incoming.finishing:
            return
        if kind == "snapshot_chunk":
            self._write(incoming, message)
        elif kind == "snapshot_end":
            incoming.finishing = True
            self._task = asyncio.get_running_loop().create_task(self._finish(incoming))

    def cancel(self, peer: str) -> None:
        """The link to `peer` broke: forget what it sent, unless it is complete."""
        if self._incoming is not None and self._incoming.peer == peer and not self._incoming.finishing:
            self._drop()

    async def stop(self) -> None:
        """Forget what was received."""
        if self._task is not None:
            await asyncio.wait([self._task])
        self._drop()

    def abandon(self) -> None:
        """Stop without touching the disk."""
        if self._task is not None:
            self._task.cancel()
        self._incoming = None

    def _drop(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.receiver.abort()

    def _begin(self, peer: str, message: Message) -> None:
        if self._incoming is not None and self._incoming.finishing:
            return  # the leader asks again when its patience ends
        if self._guard.covers(message["index"], message["snap_term"]):
            self._answer(peer, message, 0, "done")
            self._guard.acknowledge_covered(peer, message["index"])
            return
        self._drop()
        if not self._compared(peer):
            _log.info("the link to %s is made again, to compare histories before its snapshot is taken", peer)
            self._reset(peer)
            return
        receiver = self._store.receiver()
        try:
            receiver.begin(message["size"])
        except (ValueError, OSError) as error:
            self._refuse(peer, message, error)
            return
        self._incoming = _Incoming(peer, message, receiver)
        self._answer(peer, message, 0, "more")

    def _write(self, incoming: _Incoming, message: Message) -> None:
        try:
            _check_offset(message["offset"], incoming.receiver.received)
            incoming.receiver.write(message["data"])
        except (ValueError, OSError) as error:
            self._drop()
            self._refuse(incoming.peer, message, error)
            return
        self._answer(incoming.peer, message, incoming.receiver.received, "more")

    async def _finish(self, incoming: _Incoming) -> None:
        """Check the file, make it durable, read it, let the library load it."""
        message = {"term": incoming.term, "transfer_id": incoming.transfer_id}
        size = incoming.receiver.received
        busy = asyncio.get_running_loop().create_task(self._show_life(incoming.peer, message, size))
        try:
            info = await incoming.receiver.finish()
            if (info.index, info.term) != (incoming.index, incoming.snap_term):
                raise ValueError(f"the file is of entry {info.index}, but {incoming.index} was announced")  # noqa: TRY301
            load = await self._prepare(info)
        except (ValueError, OSError, LogFailedError) as error:
            self._refuse(incoming.peer, message, error)
        else:
            self._driver.guarded(lambda: self._take(incoming, info, load, message))
        finally:
            busy.cancel()
            self._incoming = None
            self._task = None
            self._driver.request_turn()

    async def _show_life(self, peer: str, message: Message, size: int) -> None:
        """Keep the leader's patience while a large snapshot is checked and read."""
        while True:
            await asyncio.sleep(self._alive_s)
            self._answer(peer, message, size, "more")

    def _take(
        self, incoming: _Incoming, info: snapshot_store.SnapshotInfo, load: Callable[[], None], message: Message
    ) -> None:
        peer = incoming.peer
        if not self._guard.follows(peer, incoming.term):
            return
        self._answer(peer, message, info.size, "done")
        if self._guard.covers(info.index, info.term):
            self._guard.acknowledge_covered(peer, info.index)
        else:
            self._install(peer, info, load)

    def _answer(self, peer: str, message: Message, offset: int, status: str) -> None:
        if self._guard.is_up(peer):
            self._emit(
                peer,
                {
                    "type": "snapshot_ack",
                    "term": message["term"],
                    "transfer_id": message["transfer_id"],
                    "offset": offset,
                    "status": status,
                },
            )

    def _refuse(self, peer: str, message: Message, error: Exception) -> None:
        _log.warning("the snapshot from %s was not taken: %s", peer, error)
        self._answer(peer, message, 0, "refused")


def _check_offset(offset: int, expected: int) -> None:
    if offset != expected:
        raise ValueError(f"a piece at {offset} after {expected} bytes")
