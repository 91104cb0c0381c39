"""The follower's side of a snapshot transfer: `IncomingSnapshot` owns it from the first chunk to the installed state.

    message or event   what happens
    ----------------   --------------------------------------------------------------------------------------------
    snapshot_begin     Ignored unless the sender is the leader of this term. Is the snapshot needed (T7)? If not, the
                       leader is told which entries are here. Were the histories compared? If not, the link is reset:
                       the next introduction compares them. Else a partial file is created.
    snapshot_chunk     Written to the partial file. The offset must continue the file. Each chunk is acknowledged.
    snapshot_end       Off the event loop: every checksum is checked, the file is synced and gets its final name
                       (`PartialSnapshot.finish`), and it is read into a new state (`StateMachine.prepare`). The
                       leader is told meanwhile that this side is alive.
    file and state     Back on the loop, T7 and the leader are checked again. A local snapshot that is being written
    are ready          is cancelled, the library loads the new one and its log becomes the last two entries
                       (`FollowerGuard.install`), the new state replaces the old one (`StateRestorer`), the leader
                       gets the acknowledgement (T5), and the next election is postponed.
    link broken        A transfer that is not complete is dropped. The leader starts again.
    close              A complete transfer is finished, an incomplete one is dropped.

Nothing else touches a snapshot on its way in: `PeerTraffic` hands over the messages, the parts named above are used
by this module only while it owns the transfer. At most one snapshot comes in at a time.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raftflow.replication.errors import LogFailedError
from raftflow.replication.storage.partial_snapshot import PartialSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.files import FileSystem
    from raftflow.replication.raft.driver import Driver
    from raftflow.replication.raft.guard import GuardedTransport
    from raftflow.replication.raft.library_types import Message
    from raftflow.replication.snapshot.compaction import SnapshotWriter
    from raftflow.replication.snapshot.restore import StateRestorer
    from raftflow.replication.storage.snapshot_file import SnapshotInfo
    from raftflow.replication.storage.snapshot_store import SnapshotStore

_log = logging.getLogger(__name__)


class _Transfer:
    """What is known of the snapshot that comes in."""

    def __init__(self, peer: str, message: Message, file: PartialSnapshot) -> None:
        self.peer = peer
        self.term: int = message["term"]
        self.transfer_id: int = message["transfer_id"]
        self.index: int = message["index"]
        self.snap_term: int = message["snap_term"]
        self.file = file
        self.complete = False

    def includes(self, peer: str, message: Message) -> bool:
        """Return True if a message belongs to this transfer."""
        return (peer, message["term"], message["transfer_id"]) == (self.peer, self.term, self.transfer_id)


class IncomingSnapshot:
    """Receives, checks, stores, reads and installs the leader's snapshot; see the top of this module.

    Args:
        fs: the disk; reading a snapshot happens off the loop through it.
        store: the snapshots on that disk.
        guard: decides from which peer a snapshot is accepted and whether it is needed; lets the library load it.
        emit: sends a message to a peer.
        restorer: replaces the state.
        writer: cancelled before a state is replaced, since it would continue with the old one.
        driver: installs inside its `guarded`; asked for a turn afterwards.
        alive_s: how often the leader is told that this side is still busy, in seconds.
        is_compared: returns whether the leader has compared its history with all that was applied here.
        reset_link: breaks a link; when it is made again, the histories are compared.
        postpone_election: called after an installation: the leader's messages that waited have not been heard yet.
    """

    def __init__(
        self,
        fs: FileSystem,
        store: SnapshotStore,
        guard: GuardedTransport,
        emit: Callable[[str, Message], None],
        *,
        restorer: StateRestorer,
        writer: SnapshotWriter,
        driver: Driver,
        alive_s: float,
        is_compared: Callable[[str], bool],
        reset_link: Callable[[str], None],
        postpone_election: Callable[[], None],
    ) -> None:
        self._fs = fs
        self._store = store
        self._guard = guard
        self._restorer = restorer
        self._writer = writer
        self._driver = driver
        self._emit = emit
        self._alive_s = alive_s
        self._is_compared = is_compared
        self._reset_link = reset_link
        self._postpone_election = postpone_election
        self._transfer: _Transfer | None = None
        self._finishing: asyncio.Task[None] | None = None

    def receive(self, peer: str, message: Message) -> None:
        """Handle one message of a transfer. Messages that are not from the leader of this term are ignored."""
        if not self._guard.follower.follows(peer, message["term"]):
            return
        kind = message["type"]
        if kind == "snapshot_begin":
            self._begin(peer, message)
            return
        transfer = self._transfer
        if transfer is None or transfer.complete or not transfer.includes(peer, message):
            return
        if kind == "snapshot_chunk":
            self._write_chunk(transfer, message)
        elif kind == "snapshot_end":
            transfer.complete = True
            self._finishing = asyncio.get_running_loop().create_task(self._finish(transfer))

    def cancel(self, peer: str) -> None:
        """The link to `peer` broke: drop what it sent, unless it is complete."""
        if self._transfer is not None and self._transfer.peer == peer and not self._transfer.complete:
            self._drop()

    async def stop(self) -> None:
        """Finish a complete transfer, drop an incomplete one."""
        if self._finishing is not None:
            await asyncio.wait([self._finishing])
        self._drop()

    def abandon(self) -> None:
        """Stop without touching the disk."""
        if self._finishing is not None:
            self._finishing.cancel()
        self._transfer = None

    @property
    def is_receiving(self) -> bool:
        """True from the first chunk to the installed state."""
        return self._transfer is not None

    # Receiving.

    def _begin(self, peer: str, message: Message) -> None:
        if self._transfer is not None and self._transfer.complete:
            return  # the leader asks again when its patience ends
        if self._guard.follower.covers(message["index"], message["snap_term"]):
            self._answer(peer, message, 0, "done")
            self._guard.follower.acknowledge_covered(peer, message["index"])
            return
        self._drop()
        if not self._is_compared(peer):
            _log.info("resetting the link to %s: histories are compared before its snapshot is accepted", peer)
            self._reset_link(peer)
            return
        file = PartialSnapshot(self._fs, self._store)
        try:
            file.begin(message["size"])
        except (ValueError, OSError) as error:
            self._refuse(peer, message, error)
            return
        self._transfer = _Transfer(peer, message, file)
        self._answer(peer, message, 0, "more")

    def _write_chunk(self, transfer: _Transfer, message: Message) -> None:
        try:
            _check_offset(message["offset"], transfer.file.received)
            transfer.file.write(message["data"])
        except (ValueError, OSError) as error:
            self._drop()
            self._refuse(transfer.peer, message, error)
            return
        self._answer(transfer.peer, message, transfer.file.received, "more")

    def _drop(self) -> None:
        transfer, self._transfer = self._transfer, None
        if transfer is not None:
            transfer.file.abort()

    # Installing.

    async def _finish(self, transfer: _Transfer) -> None:
        """Check the file, make it durable, read it, install it."""
        message = {"term": transfer.term, "transfer_id": transfer.transfer_id}
        size = transfer.file.received
        show_life = asyncio.get_running_loop().create_task(self._show_life(transfer.peer, message, size))
        try:
            info = await transfer.file.finish()
            if (info.index, info.term) != (transfer.index, transfer.snap_term):
                raise ValueError(f"the file is of entry {info.index}, but {transfer.index} was announced")  # noqa: TRY301
            replace_state = await self._fs.off_loop(lambda: self._restorer.read(info))
        except (ValueError, OSError, LogFailedError) as error:
            self._refuse(transfer.peer, message, error)
        else:
            self._driver.guarded(lambda: self._accept(transfer, info, replace_state, message))
        finally:
            show_life.cancel()
            self._transfer = None
            self._finishing = None
            self._driver.request_turn()

    async def _show_life(self, peer: str, message: Message, size: int) -> None:
        """Keep the leader from giving up while a large snapshot is checked and read."""
        while True:
            await asyncio.sleep(self._alive_s)
            self._answer(peer, message, size, "more")

    def _accept(
        self, transfer: _Transfer, info: SnapshotInfo, replace_state: Callable[[], None], message: Message
    ) -> None:
        """Install a snapshot that is durable and read, if it is still needed."""
        peer = transfer.peer
        if not self._guard.follower.follows(peer, transfer.term):
            return
        self._answer(peer, message, info.size, "done")
        if self._guard.follower.covers(info.index, info.term):
            self._guard.follower.acknowledge_covered(peer, info.index)
            return
        self._writer.cancel()
        self._restorer.restore(info, replace_state, lambda: self._guard.follower.install(peer, info.index))
        self._postpone_election()

    # Answers.

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
        _log.warning("refusing the snapshot from %s: %s", peer, error)
        self._answer(peer, message, 0, "refused")


def _check_offset(offset: int, expected: int) -> None:
    if offset != expected:
        raise ValueError(f"a chunk at {offset} after {expected} bytes")
