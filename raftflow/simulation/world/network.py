"""A simulated network between the replicas: TCP as far as it matters to them.

Frames of one direction of a connection arrive in the order in which they were sent, after a delay; a connection that
is lost loses everything on its way, and each end learns of it in its own time. A direction that is cut holds frames
back, as TCP does while it sends again; if it is not healed within the patience of a connection, that is lost. New
connections are made as soon as both directions work. Nothing is ever changed or invented on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from typing import TYPE_CHECKING, Final

from raftflow.replication.members import introductions
from raftflow.replication.members.membership import MembershipVersion
from raftflow.simulation.world.loop import START_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from raftflow.replication.members.introducer import Introducer
    from raftflow.replication.members.introductions import IntroductionReply
    from raftflow.simulation.world.loop import Process, VirtualLoop
    from raftflow.simulation.world.trace import Trace

PATIENCE_MIN_S: Final = 0.3
PATIENCE_MAX_S: Final = 3.0
"""How long a connection survives a partition."""
SEEK_S: Final = 1.0
"""Longest time until a replica is dialled by a replica that it does not know."""
AGAIN_S: Final = 0.5
"""After this time a connection that was not established is tried again."""
FRAMES_MAX: Final = 40_000
FRAMES_PER_S_MAX: Final = 2_000
"""Beside a fixed number: several times what the busiest run sends. More is an exchange that never ends."""
Direction = tuple[str, str]


class SimLinks:
    """The links of one life of one replica: implements `replication.links.Links`."""

    def __init__(self, network: Network, process: Process, introducer: Introducer, level: int = 0) -> None:
        self._network = network
        self.process = process
        self.name = process.name
        self.introducer = introducer
        self.level = level
        """The highest feature level that this replica understands; each end tells it to the other."""
        self.peers: frozenset[str] | None = None
        """The peers that it knows; None for all. A connection is made if each end knows or accepts the other."""
        self.membership = MembershipVersion()
        self.up: dict[str, int] = {}
        """The number of the connection with each peer, as this replica knows it."""
        self._levels: dict[str, int] = {}
        self._judging: set[asyncio.Task[None]] = set()
        self._alive = False
        self.on_frame: Callable[[str, bytes], None]
        self.on_up: Callable[[str], None]
        self.on_down: Callable[[str], None]

    def set_handlers(
        self,
        on_frame: Callable[[str, bytes], None],
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
    ) -> None:
        """Set the handlers of frames and connections."""
        self.on_frame, self.on_up, self.on_down = on_frame, on_up, on_down

    async def start(self) -> None:
        """Join the network."""
        self.introducer.open()
        self._alive = True
        self._network.join(self)

    def set_peers(self, peers: Mapping[str, object]) -> None:
        """Replace the list of peers: links to those that left are dropped, new ones are made."""
        left = (self.peers or frozenset()) - peers.keys()
        self.peers = frozenset(peers)
        for name in sorted(left | {name for name in self.up if not self.takes(self._network.links.get(name))}):
            self.reset(name)
        if self._alive:
            self._network.join(self)

    def levels(self) -> dict[str, int]:
        """Return the highest feature level that each connected peer understands."""
        return {peer: self._levels[peer] for peer in self.up}

    def send(self, peer: str, frame: bytes | Sequence[bytes]) -> bool:
        """Send one frame."""
        epoch = self.up.get(peer)
        if epoch is None or not self._alive or not self.process.alive:
            return False
        self._network.send(self, peer, epoch, frame if isinstance(frame, bytes) else b"".join(frame))
        return True

    def reset(self, peer: str) -> None:
        """Drop the connection."""
        epoch = self.up.get(peer)
        if epoch is not None and self._alive:
            self.lost(peer, epoch)
            self._network.lose(self.name, peer, "reset by " + self.name)

    def buffered(self, peer: str) -> int:
        """Return the bytes in transit."""
        return self._network.on_the_way(self.name, peer)

    async def close(self) -> None:
        """Leave the network."""
        if self._alive:
            self._alive = False
            self._network.leave(self)

    def knows(self, peer: str) -> bool:
        """Return True if this replica has an address of a peer."""
        return self.peers is None or peer in self.peers

    def takes(self, other: SimLinks | None) -> bool:
        """Return True if this replica knows another one, or would accept it as a stranger (`is_welcome`)."""
        if other is None or self.knows(other.name):
            return True
        told = introductions.Introduction(
            format=1, disk="-", level=0, members=other.membership.members.names, members_index=other.membership.index
        )
        return introductions.is_welcome(self.name, other.name, told, self.membership.certain_index)

    # What the network tells. Runs in the replica's process.

    def meet(self, meeting: _SimIntroduction, peer: str, frame: bytes) -> None:
        """Judge the introduction of the other end of a connection that is being made."""
        if not self._alive:
            return
        told = self.introducer.read(frame)
        task = asyncio.get_running_loop().create_task(self._judge(meeting, peer, told))
        self._judging.add(task)
        task.add_done_callback(self._judged)

    async def _judge(self, meeting: _SimIntroduction, peer: str, told: introductions.Introduction) -> None:
        with contextlib.suppress(OSError):  # as when the connection is dropped: it is made again
            answer = await self.introducer.judge(peer, told)
            if answer is None:
                for other in sorted(self.up):
                    self.reset(other)
                return
            if answer.accepted:
                self._network.met.add((self.name, peer, told.disk))
            self._answer(meeting, answer)

    def _judged(self, task: asyncio.Task[None]) -> None:
        self._judging.discard(task)
        if not task.cancelled():
            task.exception()  # power may have failed

    def _answer(self, meeting: _SimIntroduction, answer: introductions.IntroductionReply) -> None:
        meeting.answers[self.name] = answer
        self._network.answered(meeting)

    def refused(self, peer: str, answer: IntroductionReply) -> None:
        """The other end does not accept this replica."""
        if self._alive:
            self.introducer.note_refusal(peer, answer)

    def made(self, peer: str, epoch: int, level: int) -> None:
        """A connection with a peer that understands this feature level works."""
        if self._alive:
            if peer in self.up:
                self.lost(peer, self.up[peer])
            self._levels[peer] = level
            self.up[peer] = epoch
            self.on_up(peer)

    def lost(self, peer: str, epoch: int) -> None:
        """A connection is gone."""
        if self._alive and self.up.get(peer) == epoch:
            del self.up[peer]
            self.on_down(peer)

    def arrived(self, peer: str, epoch: int, frame: bytes) -> None:
        """A frame came in."""
        if self._alive and self.up.get(peer) == epoch:
            self.on_frame(peer, frame)


class _SimIntroduction:
    """Two replicas that introduce themselves to each other."""

    def __init__(self, one: SimLinks, other: SimLinks) -> None:
        self.ends = (one, other)
        self.answers: dict[str, IntroductionReply] = {}
        """What each end answered to the other's introduction."""


class _Connection:
    """The connection between two replicas."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.last_s: dict[Direction, float] = {}
        """When the newest frame of a direction arrives."""
        self.bytes: dict[Direction, int] = {}
        self.held: dict[Direction, list[bytes]] = {}
        """Frames that a partition holds back."""


class Network:
    """All connections. `delay(direction)` is how long a frame takes, in seconds."""

    def __init__(self, loop: VirtualLoop, rng: Random, trace: Trace, delay: Callable[[Direction], float]) -> None:
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._delay = delay
        self.links: dict[str, SimLinks] = {}
        self._connections: dict[frozenset[str], _Connection] = {}
        self._epoch = 0
        self.met: set[tuple[str, str, str]] = set()
        """Replica, peer and disk of the peer that the replica has met and remembers."""
        self.blocked: dict[Direction, int] = {}
        """Partitioned directions, of replicas and clients, with the number of the partition."""
        self._cuts = 0
        self.connects = 0
        self.losses = 0
        self.frames = 0

    # Joining and leaving.

    def join(self, links: SimLinks) -> None:
        """A replica listens, and dials the peers that it is not connected to."""
        self.links[links.name] = links
        for peer, other in sorted(self.links.items()):
            pair = frozenset((links.name, peer))
            if peer == links.name or pair in self._connections:
                continue
            if links.knows(peer) and other.knows(links.name):
                self._connect_soon(pair)
            elif links.knows(peer) or other.knows(links.name) or (links.takes(other) and other.takes(links)):
                self._loop.call_later(self._rng.uniform(0.001, SEEK_S), self._connect, pair)

    def leave(self, links: SimLinks, *, silently: bool = False) -> None:
        """A replica ends. If its machine lost power (`silently`), its peers learn of it only by a time-out."""
        if self.links.get(links.name) is not links:
            return
        del self.links[links.name]
        for pair in sorted(self._connections, key=sorted):
            if links.name in pair:
                (peer,) = pair - {links.name}
                self._drop(pair, peer, self._patience_s() if silently else self._rng.uniform(0.0, 0.005))

    def _patience_s(self) -> float:
        return self._rng.uniform(PATIENCE_MIN_S, PATIENCE_MAX_S)

    # Connections.

    def _connect_soon(self, pair: frozenset[str]) -> None:
        self._loop.call_later(self._rng.uniform(0.001, 0.03), self._connect, pair)

    def _connect(self, pair: frozenset[str]) -> None:
        one, other = sorted(pair)
        first, second = self.links.get(one), self.links.get(other)
        if first is None or second is None:
            return
        if self._refuse(first, second) or self._refuse(second, first):
            self._loop.call_later(AGAIN_S, self._connect, pair)
        if not self._may_connect(first, second):
            return
        meeting = _SimIntroduction(first, second)
        for end, peer in ((first, second), (second, first)):
            frame = peer.introducer.introduction(end.name)
            self._loop.call_soon(end.meet, meeting, peer.name, frame, context=end.process.context)
        self._loop.call_later(AGAIN_S, self._connect, pair)

    def _refuse(self, end: SimLinks, peer: SimLinks) -> bool:
        """Tell a replica that it was removed, if the log of the dialled replica says so. True if it does."""
        names = (end.name, peer.name)
        if not end.knows(peer.name) or peer.takes(end) or end.name not in peer.membership.removed:
            return False
        if names not in self.blocked and names[::-1] not in self.blocked:
            answer = peer.introducer.refuse(end.name)
            self._loop.call_soon(end.refused, peer.name, answer, context=end.process.context)
        return True

    def _may_connect(self, one: SimLinks, other: SimLinks) -> bool:
        names = (one.name, other.name)
        return (
            all(self.links.get(end.name) is end for end in (one, other))
            and frozenset(names) not in self._connections
            and one.takes(other)
            and other.takes(one)
            and names not in self.blocked
            and names[::-1] not in self.blocked
        )

    def answered(self, meeting: _SimIntroduction) -> None:
        """An end has judged the other. With both answers, the connection is made, or each end is told why not."""
        first, second = meeting.ends
        if len(meeting.answers) < len(meeting.ends) or not self._may_connect(first, second):
            return
        both = ((first, second), (second, first))
        if all(answer.accepted for answer in meeting.answers.values()):
            self._epoch += 1
            self.connects += 1
            self._connections[frozenset((first.name, second.name))] = _Connection(self._epoch)
            for end, peer in both:
                self._loop.call_soon(end.made, peer.name, self._epoch, peer.level, context=end.process.context)
            return
        for end, peer in both:
            answer = meeting.answers[peer.name]
            if not answer.accepted:
                self._loop.call_soon(end.refused, peer.name, answer, context=end.process.context)

    def lose(self, one: str, other: str, why: str) -> None:
        """Drop a connection. It is made again soon, and each end learns of the drop within milliseconds."""
        pair = frozenset((one, other))
        if pair in self._connections:
            self.losses += 1
            self._trace.note("net", f"{one}-{other} lost: {why}")
            self._drop(pair, None, 0.0)
            self._connect_soon(pair)

    def _drop(self, pair: frozenset[str], only: str | None, after_s: float) -> None:
        epoch = self._connections.pop(pair).epoch
        for name in sorted(pair):
            end = self.links.get(name)
            if end is None or (only is not None and name != only):
                continue
            (peer,) = pair - {name}
            when = after_s or self._rng.uniform(0.0, 0.005)
            self._loop.call_later(when, end.lost, peer, epoch, context=end.process.context)

    # Partitions.

    def cut(self, source: str, target: str) -> None:
        """Hold back everything from `source` to `target`."""
        if (source, target) in self.blocked:
            return
        self._cuts += 1
        self.blocked[source, target] = self._cuts
        self._loop.call_later(self._patience_s(), self._lose_patience, (source, target), self._cuts)

    def _lose_patience(self, direction: Direction, cut: int) -> None:
        if self.blocked.get(direction) == cut:
            self.lose(*direction, "no answer for too long")

    def heal(self, source: str, target: str) -> None:
        """Let frames pass again, first those that were held back."""
        if self.blocked.pop((source, target), None) is None:
            return
        pair = frozenset((source, target))
        connection = self._connections.get(pair)
        if connection is None:
            self._connect_soon(pair)
            return
        for frame in connection.held.pop((source, target), ()):
            # At once, so before frames that were sent later and are still in transit.
            self._loop.call_soon(self._arrive, connection, (source, target), frame)

    def heal_all(self) -> None:
        """Heal every partition."""
        for direction in sorted(self.blocked):
            self.heal(*direction)

    def passes(self, source: str, target: str) -> bool:
        """Return True if a message gets from one to the other, for calls of clients and agents."""
        return (source, target) not in self.blocked

    # Frames.

    def on_the_way(self, source: str, target: str) -> int:
        """Return the bytes from `source` that have not arrived."""
        connection = self._connections.get(frozenset((source, target)))
        return 0 if connection is None else connection.bytes.get((source, target), 0)

    def send(self, links: SimLinks, peer: str, epoch: int, frame: bytes) -> None:
        """Take one frame from a replica."""
        connection = self._connections.get(frozenset((links.name, peer)))
        if connection is None or connection.epoch != epoch:
            return  # the sender does not know yet that its connection was dropped
        self.frames += 1
        if self.frames > FRAMES_MAX + FRAMES_PER_S_MAX * (self._loop.time() - START_S):
            self._loop.stuck = f"{self.frames} frames were sent, the last ones from {links.name} to {peer}"
        direction = (links.name, peer)
        connection.bytes[direction] = connection.bytes.get(direction, 0) + len(frame)
        self._trace.mix(b"%d %d " % (zlib.crc32(frame), epoch))
        self._schedule(connection, direction, frame)

    def _schedule(self, connection: _Connection, direction: Direction, frame: bytes) -> None:
        now = self._loop.time()
        when = max(now + self._delay(direction), connection.last_s.get(direction, 0.0))
        connection.last_s[direction] = when
        self._loop.call_at(when, self._arrive, connection, direction, frame)

    def _arrive(self, connection: _Connection, direction: Direction, frame: bytes) -> None:
        source, target = direction
        if self._connections.get(frozenset(direction)) is not connection:
            return
        if direction in self.blocked:
            connection.held.setdefault(direction, []).append(frame)
            return
        connection.bytes[direction] -= len(frame)
        end = self.links.get(target)
        if end is not None:
            self._loop.call_soon(end.arrived, source, connection.epoch, frame, context=end.process.context)
