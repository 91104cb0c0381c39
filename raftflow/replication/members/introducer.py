"""`Introducer`: this replica's side of the introductions, and its durable memory of the peers' disks."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.identity import read_identity, store_file
from raftflow.replication.members.introductions import (
    ADVICE,
    FORMAT,
    AppliedHistoryView,
    BirthView,
    Introduction,
    IntroductionReply,
    LogView,
    is_welcome,
    read_frame,
)
from raftflow.replication.members.membership import MembershipVersion
from raftflow.replication.members.starts import StartHistory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from raftflow.replication.files import FileSystem

PEERS_MAX: Final = 1_000
"""Names that are remembered; they are never forgotten, since a name is never used again."""

_log = logging.getLogger(__name__)


class PeersFileError(LogFailedError):
    """The file of the peers' disks cannot be used. The message says what to do."""


class _Peers(msgspec.Struct, frozen=True):
    format: int
    disks: dict[str, str]


class _StoredPeers(msgspec.Struct, frozen=True):
    peers: msgspec.Raw
    crc32: int


class Introducer:
    """This replica's introduction, and its memory of the peers. Open it after the data directory is open.

    Args:
        fs: the disk.
        data_dir: with the `identity` file.
        level: the highest feature level that this process understands.
    """

    def __init__(
        self, fs: FileSystem, data_dir: Path, *, level: int, new_nonce: Callable[[], str] | None = None
    ) -> None:
        self.starts = (
            StartHistory(fs, data_dir) if new_nonce is None else StartHistory(fs, data_dir, new_nonce=new_nonce)
        )
        self.log: LogView | None = None
        """Set by the log before the links start."""
        self.history: AppliedHistoryView | None = None
        """Set by the replica before the links start."""
        self._fs = fs
        self._dir = data_dir
        self._file = data_dir / "peers"
        self._level = level
        self._disk = ""
        self._disks: dict[str, str] = {}
        self._name = ""
        self._version = MembershipVersion()
        self._points: dict[str, int] = {}
        """By peer: the entry up to which this replica has shown its history."""
        self._unsaved: set[str] = set()
        """Peers whose start is not on disk yet."""
        self._saving = asyncio.Lock()
        self._on_emptied: Callable[[str, str], None] = lambda _peer, _reason: None
        self._told: set[str] = set()
        """Peers whose disk a member told: another one that tells another disk is not believed."""
        self._birth: BirthView | None = None

    def attach(self, on_emptied: Callable[[str, str], None], birth: BirthView) -> None:
        """Set the callback for a peer that calls this replica emptied, and what is known of this replica's birth."""
        self._on_emptied, self._birth = on_emptied, birth

    def open(self) -> None:
        """Read what is remembered. Blocking. Raises `LogFailedError`."""
        identity = read_identity(self._fs, self._dir)
        self._disk, self._name = identity.disk_id, identity.replica
        try:
            if self._file.name in self._fs.list_dir(self._dir):
                self._disks = _decode(self._file, self._fs.read(self._file))
        except OSError as error:
            raise PeersFileError(f"cannot read {self._file}: {error}. Repair the disk and start again.") from error
        self.starts.open()

    @property
    def known(self) -> dict[str, str]:
        """The disk id of every peer that was ever met."""
        return dict(self._disks)

    def update(self, version: MembershipVersion) -> None:
        """Follow the list of members in this replica's log."""
        self._version = version
        self.starts.forget_peers(version.removed)

    def introduction(self, peer: str) -> bytes:
        """Return the first frame to `peer`."""
        return msgspec.msgpack.encode(self.introduction_to(peer))

    def introduction_to(self, peer: str) -> Introduction:
        """Return the introduction to `peer`."""
        if self.log is not None:
            self.log.note_peer(peer, self.starts)
        point = None if self.history is None else self.history.point()
        self._points[peer] = 0 if point is None else point.index
        return Introduction(
            format=FORMAT,
            disk=self._disk,
            level=self._level,
            members=self._version.members.names,
            members_index=self._version.index,
            start=self.starts.mine,
            seen=self.starts.peer_record(peer),
            seen_disk=self._disks.get(peer, ""),
            term=0 if self.log is None else self.log.term,
            repairing=self.log is not None and self.log.repairing,
            point=point,
            pre_votes=self.log is not None and self.log.pre_votes,
            election_min_ms=0 if self.log is None else self.log.election_min_ms,
            disks=self._vouched_disks(),
        )

    def _vouched_disks(self) -> dict[str, str]:
        """Return the disks of members for which this replica vouches."""
        if self._birth is None or not self._birth.is_established:
            return {}
        return {name: disk for name in self._version.members.names if (disk := self._disks.get(name))}

    def is_compared(self, peer: str) -> bool:
        """Return True if this replica showed `peer` all of its history when their link was made.

        If not, the link is made again before a snapshot replaces the state, so that a difference is found.
        """
        point = None if self.history is None else self.history.point()
        return point is None or self._points.get(peer) == point.index

    def welcomes(self, stranger: str, told: Introduction) -> bool:
        """Return True if a replica that is not a peer may be linked, by its list of members."""
        return is_welcome(self._name, stranger, told, self._version.certain_index)

    def read(self, frame: bytes) -> Introduction:
        """Read a peer's first frame. Raises `ValueError` if it is not an introduction."""
        return read_frame(frame, Introduction)

    def judge_disk(self, peer: str, told: Introduction) -> IntroductionReply:
        """Judge a peer by its disk. A new peer is remembered durably.

        Blocks for a sync at the first meeting. Raises `OSError`. The peer's start is durable after `save`.
        """
        known = self._disks.get(peer)
        if known not in (None, told.disk) and not (self._birth is not None and self._birth.peers_may_change):
            return IntroductionReply(accepted=False, reason=_other_disk(peer, known, told.disk), emptied=True)
        if known == told.disk and told.start is not None and self.starts.is_older(peer, told.start):
            return IntroductionReply(accepted=False, reason=_put_back(peer), emptied=False)
        why = "" if self.log is None else self.log.check_introduction(peer, told)
        if why:
            return IntroductionReply(accepted=False, reason=why, emptied=False)
        if known != told.disk:
            self.starts.forget_peers([peer])
            self.remember_disks({peer: told.disk})
        if told.start is not None and self.starts.note_start(peer, told.start):
            self._unsaved.add(peer)
        return IntroductionReply(accepted=True)

    def check_own_disk(self, peer: str, told: Introduction) -> bool:
        """Check by what a peer remembers whether this disk is an older copy. If True, break every link.

        This replica is under repair then, durably, and introduces itself again. Blocking. Raises `OSError`.
        """
        if told.seen is None or self.log is None or told.seen_disk != self._disk:
            return False
        log = self.log
        why = self.starts.find_rollback(told.seen, log.term, log.last_index, repairing=log.repairing)
        if why and self.log.begin_repair(peer, why):
            self.starts.accept_loss(told.seen)
        return bool(why)

    def believe_disks(self, told: Introduction) -> bool:
        """Take the disks that a member remembers, if this replica is a newcomer. If True, break every link.

        Then one of them is not the disk that this replica met under that name. Blocking. Raises `OSError`.
        """
        if not told.disks or self._birth is None or not self._birth.is_newcomer:
            return False
        others = {name: disk for name, disk in told.disks.items() if name not in self._told and name != self._name}
        wrong = [name for name, disk in others.items() if self._disks.get(name, disk) != disk]
        for name in wrong:
            _log.warning(
                "%s was met here with disk %s; its disk is %s, as a member of the cluster remembers it",
                name,
                self._disks[name][:8],
                others[name][:8],
            )
        self.starts.forget_peers(wrong)
        self.remember_disks(others)
        self._told.update(others)
        return bool(wrong)

    async def judge(self, peer: str, told: Introduction) -> IntroductionReply | None:
        """Judge a member's introduction. The answer relies on durable data only. None: break every link, start again.

        Histories are compared first. What a peer remembers of another history proves nothing about this disk: this
        replica would repair entries that the others never had, and none of them could lead. Raises `OSError`.
        """
        differs = await self._compare(peer, told)
        if differs is None and (self.check_own_disk(peer, told) or self.believe_disks(told)):
            return None
        answer = self.judge_disk(peer, told)
        if not answer.accepted:
            return answer
        if differs is not None:
            return differs
        if peer in self._unsaved:
            await self.save(self.starts.encode())
            self._unsaved.discard(peer)
        return answer

    async def _compare(self, peer: str, told: Introduction) -> IntroductionReply | None:
        """Return the refusal of a peer whose history differs, as far as it is known here."""
        mine = None if self.history is None else self.history.point()
        if self.history is None or mine is None or told.point is None or told.point.index > mine.index:
            return None
        known = await self.history.chain_after(told.point.index)
        if known is None or known == told.point.chain:
            return None
        reason = (
            f"{peer} has another history than {self._name}: up to entry {told.point.index} its chain is "
            f"{told.point.chain.hex()}, here it is {known.hex()}. Keep both data directories, and compare with "
            f"`raftflow audit verify`"
        )
        return IntroductionReply(accepted=False, reason=reason, differs=True, emptied=False)

    async def save(self, data: bytes) -> None:
        """Store what `StartHistory.encode` returned. Raises `OSError`."""
        async with self._saving:
            await self._fs.off_loop(lambda: self.starts.save_as(data))

    def remember_disks(self, disks: Mapping[str, str]) -> None:
        """Remember the disks of peers durably. Blocks for a sync if one is new. Raises `OSError`."""
        merged = {**self._disks, **disks}
        if merged == self._disks:
            return
        if len(merged) > PEERS_MAX:
            raise OSError(f"{self._file} remembers {PEERS_MAX} peers already")
        raw = msgspec.json.encode(_Peers(FORMAT, merged))
        store_file(self._fs, self._file, msgspec.json.encode(_StoredPeers(msgspec.Raw(raw), crc32(raw))))
        self._disks = merged

    def note_refusal(self, peer: str, answer: IntroductionReply) -> None:
        """Tell the log why a peer refuses this replica: emptied, removed, or another history."""
        if answer.removed and self.log is not None:
            self.log.note_removal_claim(peer)
        if answer.differs and self.log is not None:
            self.log.note_other_history(peer, answer.reason)
        if answer.emptied or (answer.emptied is None and not answer.stranger):
            self._on_emptied(peer, answer.reason)

    def refuse(self, stranger: str) -> IntroductionReply:
        """Return the answer to a replica that is not a peer and not welcome."""
        removed = stranger in self._version.removed
        what = "was removed from the cluster" if removed else "is not a member"
        return IntroductionReply(
            accepted=False,
            reason=f"{stranger} {what} by the log of {self._name}; compare the peer lists of both",
            stranger=True,
            removed=removed,
            emptied=False,
        )


def _put_back(peer: str) -> str:
    return (
        f"{peer} shows an older start than the one that is known here: its data directory was restored from an "
        f"older copy, or another process uses a copy. It takes the missing entries from the others before it votes"
    )


def _other_disk(peer: str, known: str, told: str) -> str:
    return (
        f"{peer} comes with disk {told[:8]}, but disk {known[:8]} was known here: its data directory was emptied or "
        f"replaced, and what it had promised is forgotten. {ADVICE}, or remove {peer} from the cluster and let the "
        f"replica join under a new name"
    )


def _decode(file: Path, data: bytes) -> dict[str, str]:
    try:
        stored = msgspec.json.decode(data, type=_StoredPeers)
        raw = bytes(stored.peers)
        peers = msgspec.json.decode(raw, type=_Peers)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, str(error)) from None
    if crc32(raw) != stored.crc32:
        raise _damaged(file, "it does not match its checksum")
    if peers.format != FORMAT:
        raise PeersFileError(
            f"{file}: format {peers.format}, but this program reads format {FORMAT}. Start the version of raftflow "
            f"that wrote it, or a newer one."
        )
    return peers.disks


def _damaged(file: Path, what: str) -> PeersFileError:
    return PeersFileError(
        f"{file} is damaged: {what}. It records the disks of the other replicas. If none of their data directories "
        f"was ever emptied or replaced, remove the file and start again; otherwise remove that replica from the "
        f"cluster first."
    )
