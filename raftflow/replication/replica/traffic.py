"""Messages from and to the other members: decoded, passed to the parts that handle them, encoded."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raftflow.replication.messages import wire
from raftflow.replication.raft.guard import PRE_VOTE_KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.config import LogConfig
    from raftflow.replication.elections.pre_votes import PreVotes
    from raftflow.replication.members.births import Births
    from raftflow.replication.net.links import Links
    from raftflow.replication.raft.driver import Driver
    from raftflow.replication.raft.guard import GuardedTransport
    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Message
    from raftflow.replication.raft.reads import ReadRounds
    from raftflow.replication.raft.roles import RoleTracker
    from raftflow.replication.raft.sync_gate import SyncGate
    from raftflow.replication.replica.peer_memory import PeerMemory
    from raftflow.replication.snapshot.incoming import IncomingSnapshot
    from raftflow.replication.snapshot.sender import SnapshotSender

_log = logging.getLogger(__name__)


class PeerTraffic:
    """The way of every message between the links and the parts of one replica.

    A slow disk must not look like a dead replica. While acknowledgements wait for the disk, a follower shows that it
    hears its leader, and a leader counts acknowledgements that it cannot use yet as signs of life. After
    `disk_stall_s` neither does so, and a replica with a working disk may lead.

    Args:
        peer_memory: knows which values no correct peer sends.
        lonely: called when a link comes up and an election is overdue: until then no leader could be heard.
    """

    def __init__(
        self,
        config: LogConfig,
        links: Links,
        *,
        births: Births,
        raft: Raft,
        guard: GuardedTransport,
        gate: SyncGate,
        driver: Driver,
        roles: RoleTracker,
        reads: ReadRounds,
        sender: SnapshotSender,
        incoming_snapshot: IncomingSnapshot,
        peer_memory: PeerMemory,
        pre_votes: PreVotes,
        lonely: Callable[[], None],
    ) -> None:
        self._config = config
        self._links = links
        self._births = births
        self._raft = raft
        self._guard = guard
        self._gate = gate
        self._driver = driver
        self._roles = roles
        self._reads = reads
        self._sender = sender
        self._incoming_snapshot = incoming_snapshot
        self._peer_memory = peer_memory
        self._pre_votes = pre_votes
        self._lonely = lonely
        self._bodies = wire.BodyCache()
        links.set_handlers(self.on_frame, self.on_up, self.on_down)

    def on_up(self, peer: str) -> None:
        """A link works."""

        def up() -> None:
            self._births.link_up(peer)
            if self._raft.election_deadline < asyncio.get_running_loop().time():
                self._lonely()
            self._guard.peer_up(peer)
            self._driver.request_turn()

        self._driver.guarded(up)

    def on_down(self, peer: str) -> None:
        """A link broke, and everything that waits for it is lost."""

        def down() -> None:
            self._births.link_down(peer)
            self._gate.forget(peer)
            self._guard.peer_down(peer)
            self._sender.cancel(peer)
            self._incoming_snapshot.cancel(peer)
            self._driver.request_turn()

        self._driver.guarded(down)

    def on_frame(self, peer: str, frame: bytes) -> None:
        """A frame arrived. An invalid one resets the peer's link."""
        try:
            message = wire.decode(frame)
        except wire.FrameError as error:
            self._refuse(peer, str(error))
            return
        if message["type"] in PRE_VOTE_KINDS and not self._pre_votes.is_active:
            self._refuse(peer, "an older version does not know this message")
            return
        problem = self._peer_memory.bounds.problem(peer, message)
        if problem:
            self._refuse(peer, f"{message['type']}: {problem}")
            return
        self._driver.guarded(lambda: self._receive(peer, message))

    def _refuse(self, peer: str, problem: str) -> None:
        """Reset the link of a peer that sent an invalid message; nothing of it is used."""
        if self._peer_memory.is_due(f"refused {peer}"):
            _log.warning("invalid message from %s, resetting the link: %s", peer, problem)
        self._links.reset(peer)

    def _receive(self, peer: str, message: Message) -> None:
        kind = message["type"]
        if kind == "birth":
            self._hear_birth(peer, message)
            return
        if not self._births.born and kind != "removed":
            return  # a fresh replica accepts no message, does not vote and acknowledges nothing
        if kind == "append_entries":
            self._guard.receive(peer, message)
            if self._guard.follower.follows(peer, message["term"]):
                self._roles.note_leader(peer, message)
                self._pre_votes.hear_leader(peer, message["term"])
            if self._gate.is_blocked(peer) and self._disk_is_slow():
                self._transmit_life(peer)
        elif kind == "next_node_idx":
            # An acknowledgement of another term may show more than this replica will ever have: it would wait for the
            # disk for ever, and every answer after it too.
            if not self._guard.is_outdated(message) and not self._gate.accept(peer, message) and self._disk_is_slow():
                self._guard.receive(peer, {**message, "reset": False, "success": False})
        elif kind in {"read_probe", "read_ack"}:
            self._receive_read(peer, message)
            return
        elif kind.startswith("snapshot_"):
            if kind == "snapshot_ack":
                self._sender.acknowledge(peer, message)
            else:
                self._incoming_snapshot.receive(peer, message)
        else:
            self._guard.receive(peer, message)
        self._roles.update()
        self._driver.request_turn()

    def _hear_birth(self, peer: str, message: Message) -> None:
        try:
            self._births.receive(peer, message["body"])
        except ValueError as error:
            _log.warning("invalid birth message from %s, resetting the link: %s", peer, error)
            self._links.reset(peer)
        self._driver.request_turn()

    def _disk_is_slow(self) -> bool:
        """Return True while a sync takes long, but less than `disk_stall_s`."""
        return self._config.heartbeat_s <= self._driver.sync_age_s() < self._config.disk_stall_s

    def _transmit_life(self, peer: str) -> None:
        """Tell the leader that it is heard while acknowledgements wait for the disk. It shows only the term."""
        if self._gate.is_term_durable():
            self.transmit(
                peer,
                {
                    "type": "next_node_idx",
                    "next_node_idx": 1,
                    "reset": False,
                    "success": False,
                    "term": self._raft.term,
                },
            )

    def transmit(self, peer: str, message: Message) -> None:
        """Encode and send a message that may leave."""
        if not self._driver.stopped:
            self._links.send(peer, wire.encode(message, self._bodies))

    def send_probe(self, seq: int) -> None:
        """Ask every connected peer whether it is still in this term."""
        for peer in sorted(self._guard.connected()):
            self._gate.emit(peer, {"type": "read_probe", "term": self._raft.term, "seq": seq})

    def _receive_read(self, peer: str, message: Message) -> None:
        if message["term"] != self._raft.term:
            return
        if message["type"] == "read_probe":
            self._gate.emit(peer, {"type": "read_ack", "term": message["term"], "seq": message["seq"]})
        elif self._raft.is_leader:
            self._reads.answer(peer, message["seq"])
