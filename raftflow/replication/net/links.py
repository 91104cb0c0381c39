"""Links between the replicas of one cluster: frames of bytes, in order, between peers that hold its secret.

`Links` is what the engine talks to; `StreamLinks` is TCP, with or without TLS. There is one connection per pair: the
replica with the smaller name dials, at once and then again and again. A connection that proves itself replaces an
older one of the same peer, which may be half-open after a crash. Per peer `on_up` and `on_down` alternate strictly,
and a frame is delivered only between the two of its own connection.

With an `Introducer` a proven connection begins with introductions (`members/introductions.py`), and the link is up
when both
sides have accepted the other's. A peer that should dial and does not may not know this replica: it is dialled then,
now and again, and takes a stranger in if that one knows a newer list of members. A replica that knows the other
refuses to be dialled in the wrong direction, so there is never more than one connection.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from raftflow.replication.members.introducer import Introducer
from raftflow.replication.members.introductions import Introduction, IntroductionReply, read_frame
from raftflow.replication.net.connection import ConnectionFailure, LinkLimits, PeerConnection
from raftflow.replication.net.dialers import PeerDialers
from raftflow.replication.net.handshake import Acceptor, Credentials, LinkSession, encode_name
from raftflow.replication.net.listener import PeerListener
from raftflow.replication.net.peer_certificates import PeerCertificates, ends_s

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from raftflow.replication.net.dialers import Address

_FLUSH_S: Final = 0.2
_RENEWAL_LOOK_S: Final = 0.05
_RENEWAL_LOOKS: Final = 60
"""How often it is looked whether a link is up again that was made again, before the next one is."""
_QUIET: Final = frozenset({"refused_wrong_direction", "refused_by_peer_wrong_direction"})
"""What happens when both ends look for each other at the same time."""
_OTHER_SECRET: Final = frozenset({"refused_wrong_secret", "refused_by_peer_wrong_secret"})

_log = logging.getLogger(__name__)


class Links(Protocol):
    """The connections of one replica. Everything is called, and calls back, in the event loop's thread."""

    def set_handlers(
        self,
        on_frame: Callable[[str, bytes], None],
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
    ) -> None:
        """Set the callbacks for frames and connections. Call it before `start`."""
        ...

    async def start(self) -> None:
        """Bind and begin to dial. Raises `LogFailedError` with advice if the address cannot be bound."""
        ...

    def send(self, peer: str, frame: bytes | Sequence[bytes]) -> bool:
        """Send one frame, given whole or in pieces.

        False if the peer is not connected, or if too much waits to be written to it; in that case the link has been
        reset, and `on_down` was called, when this returns.
        """
        ...

    def reset(self, peer: str) -> None:
        """Drop the connection now, with everything in flight; it is made again. `on_down` is called before return."""
        ...

    def buffered(self, peer: str) -> int:
        """Return how many bytes wait to be written to the peer."""
        ...

    async def close(self) -> None:
        """Write waiting frames for a short time, then end all connections. Safe to call twice."""
        ...


class _IntroductionExchange:
    """The introductions on one connection."""

    def __init__(self, deadline: asyncio.TimerHandle) -> None:
        self.deadline = deadline
        self.ours: IntroductionReply | None = None
        """This replica's answer; None until the peer is judged and the needed data is on disk."""
        self.told: Introduction | None = None
        """The peer's introduction; None until it arrives."""
        self.theirs: IntroductionReply | None = None
        """The peer's answer; None until it arrives."""


class StreamLinks:
    """`Links` over TCP. `peers` maps the other replicas' names to (host, port); names are resolved at every dial.

    `secret` is used, and `other_secrets` are accepted too, while one replaces another.

    `certificates` tells whose certificate may stand for which peer. `stats` counts connections and every refusal
    and loss by reason. `on_shut_out` is called with advice if a majority of the cluster has another secret and no
    link was up so far.
    """

    def __init__(
        self,
        *,
        name: str,
        cluster_id: str,
        bind: Address,
        peers: Mapping[str, Address],
        secret: bytes,
        other_secrets: Sequence[bytes] = (),
        tls_server: ssl.SSLContext | None = None,
        tls_client: ssl.SSLContext | None = None,
        limits: LinkLimits | None = None,
        introducer: Introducer | None = None,
        on_shut_out: Callable[[str], None] | None = None,
        certificates: PeerCertificates | None = None,
    ) -> None:
        if (tls_server is None) != (tls_client is None):
            raise ValueError("TLS between replicas needs the accepting and the dialling context, or neither")
        self.stats: collections.Counter[str] = collections.Counter()
        self._me = Credentials(name=name, cluster_id=cluster_id, secret=secret, others=tuple(other_secrets))
        self._peers = self._checked(peers)
        self._limits = limits or LinkLimits()
        self._listener = PeerListener(bind, self._accept, self._limits, tls_server, self._accept_failed)
        self._introducer = introducer
        self._certificates = PeerCertificates() if certificates is None else certificates
        self._on_shut_out = on_shut_out
        self._other_secret: set[str] = set()
        self._meetings: dict[PeerConnection, _IntroductionExchange] = {}
        self._judging: set[asyncio.Task[IntroductionReply | None]] = set()
        self._levels: dict[str, int] = {}
        self._guests: dict[str, Introduction] = {}
        """Strangers that are linked, with their introductions."""
        self._up: dict[str, PeerConnection] = {}
        self._unproven: dict[PeerConnection, None] = {}  # accepted ones, oldest first
        self._dialers = PeerDialers(
            self._me,
            self,
            self._limits,
            tls_client,
            is_up=lambda peer: peer in self._up,
            seeks=introducer is not None,
        )
        self._renewing: asyncio.Task[None] | None = None
        self._complaints: dict[tuple[str, str | None], tuple[float, int]] = {}
        self._running = False
        self._on_frame: Callable[[str, bytes], None] = _unset
        self._on_up: Callable[[str], None] = _unset
        self._on_down: Callable[[str], None] = _unset

    @property
    def port(self) -> int:
        """The port that is bound: the one asked for, or the one that the system chose if that was 0."""
        return self._listener.port

    def set_handlers(
        self,
        on_frame: Callable[[str, bytes], None],
        on_up: Callable[[str], None],
        on_down: Callable[[str], None],
    ) -> None:
        """See `Links`."""
        self._on_frame, self._on_up, self._on_down = on_frame, on_up, on_down

    async def start(self) -> None:
        """See `Links`."""
        if self._introducer is not None:
            self._introducer.open()
        self._listener.start()
        self._running = True
        self._dialers.dial(self._peers)

    def set_peers(self, peers: Mapping[str, Address]) -> None:
        """Replace the list of peers: links to peers that left are dropped, new ones are made."""
        old, self._peers = self._peers, self._checked(peers)
        for name in old.keys() - self._peers.keys():
            self._dialers.cancel(name)
            self.reset(name)
        for name, told in list(self._guests.items()):
            if name in self._peers:
                del self._guests[name]
            elif not self._is_welcome(name, told):
                self.reset(name)
        if self._running:
            self._dialers.dial(self._peers)

    def send(self, peer: str, frame: bytes | Sequence[bytes]) -> bool:
        """See `Links`. Raises `ValueError` for an empty frame and one over `frame_bytes_max`."""
        connection = self._up.get(peer)
        if connection is None:
            return False
        return connection.send((frame,) if isinstance(frame, bytes) else frame)

    def reset(self, peer: str) -> None:
        """See `Links`."""
        connection = self._up.get(peer)
        if connection is not None:
            connection.drop(ConnectionFailure("reset"))

    def levels(self) -> dict[str, int]:
        """Return the highest feature level that each connected peer understands, as it introduced itself."""
        return {peer: self._levels.get(peer, 0) for peer in self._up}

    def buffered(self, peer: str) -> int:
        """See `Links`."""
        connection = self._up.get(peer)
        return connection.buffered() if connection is not None else 0

    async def close(self) -> None:
        """See `Links`."""
        self._running = False
        if self._renewing is not None:
            self._renewing.cancel()
        self._listener.close()
        dialers = self._dialers.cancel_all()
        for connection in [*self._unproven, *self._meetings]:
            connection.drop(ConnectionFailure("closed"))
        flushing = list(self._up.values())
        for connection in flushing:
            connection.finish_writing()
        await asyncio.gather(*dialers, *self._listener.openings, *self._judging, return_exceptions=True)
        if flushing:
            await asyncio.wait([connection.gone for connection in flushing], timeout=_FLUSH_S)
        for connection in flushing:
            connection.abort()

    # -- what connections report (connection.Owner) --------------------------------------------------------------

    def established(self, connection: PeerConnection, session: LinkSession) -> None:
        """Put a proven connection into use, or begin with the introductions."""
        self._unproven.pop(connection, None)
        connection.peer = session.peer
        if not self._has_certificate(connection):
            return
        if self._introducer is None or not self._running:
            self._put_up(connection)
            return
        deadline = asyncio.get_running_loop().call_later(
            self._limits.handshake_s,
            connection.drop,
            ConnectionFailure("handshake_timeout", "no introduction", session.peer),
        )
        self._meetings[connection] = _IntroductionExchange(deadline)
        connection.send((self._introducer.introduction(session.peer),))

    def _meet(
        self, connection: PeerConnection, meeting: _IntroductionExchange, introducer: Introducer, frame: bytes
    ) -> None:
        """Handle the peer's introduction, then its answer."""
        peer = connection.peer
        try:
            if meeting.told is None:
                meeting.told = told = introducer.read(frame)
                if peer in self._peers or introducer.welcomes(peer, told):
                    self._judge(connection, meeting, introducer.judge(peer, told))
                else:
                    self._answer(connection, meeting, introducer.refuse(peer))
                return
            meeting.theirs = read_frame(frame, IntroductionReply)
        except (ValueError, OSError) as error:
            connection.drop(ConnectionFailure("bad_introduction", f"the introduction failed: {error}", peer))
            return
        self._end_introductions(connection, meeting)

    def check_certificates(self) -> None:
        """Drop the connections whose certificates are not valid any more."""
        for connection in [*self._meetings, *self._up.values()]:
            self._has_certificate(connection)

    def _has_certificate(self, connection: PeerConnection) -> bool:
        """Tell whether the certificate of a proven connection is that of its peer. Drop the connection if not."""
        certificate = connection.certificate()
        if certificate is None:
            return True
        hosts = {connection.remote.rpartition(":")[0].strip("[]")}
        if connection.peer in self._peers:
            hosts.add(self._peers[connection.peer][0])
        wrong = self._certificates.problem(certificate, connection.peer, hosts)
        if wrong is None:
            connection.expires_s = ends_s(certificate)
            return True
        connection.drop(ConnectionFailure("refused_certificate", wrong, connection.peer))
        return False

    def use_tls(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        """Use other contexts from now on. Connections that stand go on."""
        self._listener.tls = server
        self._dialers.tls_client = client

    def use_secrets(self, secrets: Sequence[bytes]) -> None:
        """Use the first of these secrets, and accept all of them, from now on.

        Links that were made with another one are made again, one after another.
        """
        first, *others = secrets
        self._me = self._dialers.me = msgspec.structs.replace(self._me, secret=first, others=tuple(others))
        for connection in [*self._unproven, *self._meetings]:
            connection.drop(ConnectionFailure("reset"))
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = asyncio.get_running_loop().create_task(self._renew_links())

    async def _renew_links(self) -> None:
        """Make the links again that were made with a secret that is not accepted any more."""
        for peer in sorted(self._peers):
            connection = self._up.get(peer)
            if connection is None or connection.secret in self._me.secrets:
                continue
            connection.drop(ConnectionFailure("reset", "it was made with a secret that is not valid any more"))
            for _ in range(_RENEWAL_LOOKS):
                if peer in self._up:
                    break
                await asyncio.sleep(_RENEWAL_LOOK_S)

    def _reset_all(self) -> None:
        """This replica's disk is an older copy: it introduces itself to every peer again."""
        for connection in [*self._meetings, *self._up.values()]:
            connection.drop(ConnectionFailure("reset"))

    def _judge(
        self,
        connection: PeerConnection,
        meeting: _IntroductionExchange,
        work: Coroutine[None, None, IntroductionReply | None],
    ) -> None:
        """Answer when the histories are compared and the peer's data is on disk."""

        def judged(task: asyncio.Task[IntroductionReply | None]) -> None:
            self._judging.discard(task)
            if task.cancelled() or connection.over:
                return
            error = task.exception()
            if error is not None:
                connection.drop(
                    ConnectionFailure("bad_introduction", f"the introduction failed: {error}", connection.peer)
                )
                return
            answer = task.result()
            if answer is None:
                self._reset_all()
            else:
                self._answer(connection, meeting, answer)

        task = asyncio.get_running_loop().create_task(work)
        self._judging.add(task)
        task.add_done_callback(judged)

    def _answer(self, connection: PeerConnection, meeting: _IntroductionExchange, answer: IntroductionReply) -> None:
        meeting.ours = answer
        connection.send((msgspec.msgpack.encode(answer),))
        if not connection.over:
            self._end_introductions(connection, meeting)

    def _end_introductions(self, connection: PeerConnection, meeting: _IntroductionExchange) -> None:
        """Put the link up, or log why not, when both sides have answered."""
        ours, theirs, peer = meeting.ours, meeting.theirs, connection.peer
        if ours is None or theirs is None:
            return
        if ours.accepted and theirs.accepted:
            self._end_meeting(connection)
            self._put_up(connection, meeting.told)
            return
        for answer, by, text in (
            (ours, "", f"it is refused: {ours.reason}"),
            (theirs, "by_peer_", f"it refuses this replica: {theirs.reason}"),
        ):
            if not answer.accepted:
                reason = f"refused_{by}{'unknown_peer' if answer.stranger else 'disk'}"
                reason = reason if not answer.differs else f"refused_{by}history"
                self.stats[reason] += 1
                self._complain(reason, peer, text)
        connection.finish_writing()  # so that the peer learns the reason
        if not theirs.accepted and self._introducer is not None:
            self._introducer.note_refusal(peer, theirs)

    def _end_meeting(self, connection: PeerConnection) -> None:
        meeting = self._meetings.pop(connection, None)
        if meeting is not None:
            meeting.deadline.cancel()

    def _is_welcome(self, stranger: str, told: Introduction) -> bool:
        return self._introducer is not None and self._introducer.welcomes(stranger, told)

    def _put_up(self, connection: PeerConnection, told: Introduction | None = None) -> None:
        """Use a connection for its peer; it replaces an older one."""
        peer = connection.peer
        older = self._up.get(peer)
        if older is not None:
            older.drop(
                ConnectionFailure("replaced", "a newer connection took its place; does another process use its name?")
            )
        is_guest = peer not in self._peers and told is not None and self._is_welcome(peer, told)
        if connection.over or not self._running or not (peer in self._peers or is_guest):
            connection.drop(ConnectionFailure("reset"))
            return
        if told is not None:
            self._levels[peer] = told.level
            if is_guest:
                self._guests[peer] = told
        self.stats["connected"] += 1
        _log.info("link to %s is up (%s)", peer, connection.remote)
        self._complaints.pop(("unreachable", peer), None)
        self._up[peer] = connection
        self._on_up(peer)

    def received(self, connection: PeerConnection, frame: bytes) -> None:
        """Deliver one frame, or handle it as part of the introductions."""
        meeting = self._meetings.get(connection)
        if meeting is None or self._introducer is None:
            self._on_frame(connection.peer, frame)
        else:
            self._meet(connection, meeting, self._introducer, frame)

    def ended(self, connection: PeerConnection, failure: ConnectionFailure) -> None:
        """Account for the end of a connection."""
        self._unproven.pop(connection, None)
        self._end_meeting(connection)
        self.stats[failure.reason] += 1
        if failure.reason in _OTHER_SECRET:
            self._note_other_secret(failure.peer)
        peer = connection.peer
        if peer and self._up.get(peer) is connection:
            del self._up[peer]
            self._guests.pop(peer, None)
            _log.info("link to %s is down: %s %s", peer, failure.reason, failure.detail)
            self._on_down(peer)
        elif failure.detail and failure.reason not in _QUIET:
            self._complain(failure.reason, failure.peer, f"{connection.remote}: {failure.detail}")

    def _note_other_secret(self, peer: str | None) -> None:
        """Report it if a majority of the cluster has another secret and no peer has shared this one so far.

        Once a link has been up, the secret is known to be right, and claims of strangers do not matter. A replica
        with two secrets tries both.
        """
        if self._me.others or peer not in self._peers or self.stats["connected"] or self._on_shut_out is None:
            return
        self._other_secret.add(peer)
        if 2 * len(self._other_secret) > len(self._peers) + 1:
            self._on_shut_out(
                f"a majority of the cluster ({', '.join(sorted(self._other_secret))}) has another secret than this "
                f"replica: copy their secret file here, or correct secret_file or RAFTFLOW_CLUSTER_SECRET, and start "
                f"it again"
            )

    # -- inside --------------------------------------------------------------------------------------------------

    def _checked(self, peers: Mapping[str, Address]) -> dict[str, Address]:
        if self._me.name in peers:
            raise ValueError(f"{self._me.name} is this replica and cannot be its own peer")
        for peer in peers:
            encode_name(peer)
        return dict(peers)

    def _complain(self, reason: str, peer: str | None, text: str) -> None:
        """Log a problem, each kind at most once in `complaint_s`."""
        key = (reason, peer if peer in self._peers else None)
        now = asyncio.get_running_loop().time()
        logged_at, hidden = self._complaints.get(key, (float("-inf"), 0))
        if now - logged_at < self._limits.complaint_s:
            self._complaints[key] = (logged_at, hidden + 1)
            return
        self._complaints[key] = (now, 0)
        more = f" ({hidden} more like it were not logged)" if hidden else ""
        # A peer that cannot be reached may be starting or stopping: it is a problem only if it lasts.
        level = logging.INFO if reason == "unreachable" and not hidden else logging.WARNING
        _log.log(level, "link with %s: %s%s", repr(peer) if peer else "a stranger", text, more)

    def _accept_failed(self, text: str) -> None:
        self.stats["accept_failed"] += 1
        self._complain("accept_failed", None, text)

    def _accept(self, remote: str) -> PeerConnection:
        """Make the protocol of an accepted connection. If there are too many strangers, drop the oldest."""
        while len(self._unproven) >= self._limits.unproven_max:
            oldest = next(iter(self._unproven))
            oldest.drop(ConnectionFailure("crowded_out", "too many connections are in their handshake"))
        acceptor = Acceptor(self._me, self._peers, strangers=self._introducer is not None)
        connection = PeerConnection(acceptor, self, self._limits, remote)
        self._unproven[connection] = None
        return connection


def _unset(*_: object) -> None:
    raise RuntimeError("call set_handlers before start")
