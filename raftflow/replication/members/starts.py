"""Which start of which replica is the newest. So a disk that was restored from an older copy is noticed.

Every start of a replica has a number and a random nonce. They are on its disk before it tells anybody. A replica
tells its start in the introduction. It remembers durably the newest start that it met under each name, before a link
is up. So every replica to which something was promised in a start knows that start. A replica sends what it remembers
in its own introduction. If a replica reads there of a start of its own that is not on its disk, its disk is an older
copy (`find_rollback`). The same is found by the highest committed entry that a peer knows to be acknowledged, and by
the highest term that a peer has seen. These two are kept in memory, and stored now and then.

```
DIR/starts    JSON with a checksum: number and nonce of this start, nonces of earlier ones, the lost starts,
              and for every peer its newest start, with the entry and the term that it had shown
```

A loss that was found is *accepted* (`accept_loss`): the replica takes the missing entries from the others (repair.py)
and continues with a number above all starts that its disk lacks. These starts are not held against it any more.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Final
from zlib import crc32

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.identity import store_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from raftflow.replication.files import FileSystem

FORMAT: Final = 1
NONCES_MAX: Final = 1_000
"""How many of its own starts a replica remembers."""
NUMBER_MAX: Final = 2**40
"""Bound on the number of starts, and on indexes and terms."""

Number = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
Nonce = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]


class StartsFileError(LogFailedError):
    """The file of starts cannot be used. The message says what to do."""


class ReplicaStart(msgspec.Struct, frozen=True, array_like=True):
    """One start of a replica."""

    number: Number
    nonce: Nonce


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one replica remembers of another."""

    start: ReplicaStart
    index: Number = 0
    """Highest committed entry that the other one acknowledged."""
    term: Number = 0
    """Highest term that the other one was in."""


class _Content(msgspec.Struct, kw_only=True):
    format: int = FORMAT
    number: Number = 0
    nonces: dict[int, Nonce] = {}
    """By number of the start. This start is included."""
    lost: Number = 0
    """Starts up to this number that are not in `nonces` are accepted as lost."""
    lost_index: Number = 0
    lost_term: Number = 0
    peers: dict[str, PeerRecord] = {}


class _StoredStarts(msgspec.Struct, frozen=True):
    starts: msgspec.Raw
    crc32: int


class StartHistory:
    """The starts of this replica and the newest ones of its peers. A process opens it once."""

    def __init__(
        self, fs: FileSystem, directory: Path, *, new_nonce: Callable[[], str] = lambda: secrets.token_hex(8)
    ) -> None:
        self._fs = fs
        self._file = directory / "starts"
        self._new_nonce = new_nonce
        self._content = _Content()
        self.dirty = False
        """True if the disk lacks something. Losing it may hide an older copy, and has no other effect."""

    def open(self) -> None:
        """Read the file and record a new start in it, durably. Blocking. Raises `LogFailedError`."""
        try:
            if self._file.name in self._fs.list_dir(self._file.parent):
                self._content = _decode(self._file, self._fs.read(self._file))
            self._begin(self._content.number + 1)
            self.save()
        except OSError as error:
            raise StartsFileError(f"cannot use {self._file}: {error}. Repair the disk and start again.") from error

    def _begin(self, number: int) -> None:
        content = self._content
        content.number = number
        content.nonces[number] = self._new_nonce()
        for old in sorted(content.nonces)[:-NONCES_MAX]:
            del content.nonces[old]

    @property
    def mine(self) -> ReplicaStart:
        """The present start of this replica."""
        return ReplicaStart(self._content.number, self._content.nonces[self._content.number])

    # What peers remember of this replica.

    def find_rollback(self, seen: PeerRecord, term: int, last_index: int, *, repairing: bool = False) -> str:
        """Describe what a peer remembers of this replica and this disk does not. Empty if there is nothing.

        Args:
            seen: what the peer remembers.
            term: the present term of this replica.
            last_index: the end of its log.
            repairing: this replica is under repair already, so its log and term prove nothing.
        """
        content = self._content
        number = seen.start.number
        if number > content.lost:
            if number > content.number:
                return f"start {number} of this replica, and this disk knows {content.number}"
            if content.nonces.get(number, seen.start.nonce) != seen.start.nonce:
                return f"another start {number} of this replica than this disk does"
        if repairing:
            return ""
        if seen.index > max(last_index, content.lost_index):
            return f"that this replica acknowledged entry {seen.index}, and its log ends with entry {last_index}"
        if seen.term > max(term, content.lost_term):
            return f"this replica in term {seen.term}, and this disk knows term {term}"
        return ""

    def accept_loss(self, seen: PeerRecord) -> None:
        """Continue without what a peer remembers and this disk lacks, durably. Blocking. Raises `OSError`.

        Call it after it is durable that this replica is under repair.
        """
        content = self._content
        content.lost = max(content.lost, content.number, seen.start.number)
        content.lost_index = max(content.lost_index, seen.index)
        content.lost_term = max(content.lost_term, seen.term)
        self._begin(content.lost + 1)
        self.save()

    # What this replica remembers of its peers.

    def peer_record(self, peer: str) -> PeerRecord | None:
        """Return what is remembered of a peer."""
        return self._content.peers.get(peer)

    def is_older(self, peer: str, start: ReplicaStart) -> bool:
        """Return True if a peer shows an older start than the one that is remembered."""
        known = self.peer_record(peer)
        return known is not None and known.start != start and known.start.number >= start.number

    def note_start(self, peer: str, start: ReplicaStart) -> bool:
        """Remember the start of a peer. Return True if it must be made durable before anything relies on it."""
        known = self.peer_record(peer)
        if known is not None and known.start == start:
            return False
        seen = PeerRecord(start=start) if known is None else msgspec.structs.replace(known, start=start)
        self._content.peers[peer] = seen
        self.dirty = True
        return True

    def note_progress(self, peer: str, *, index: int = 0, term: int = 0) -> None:
        """Remember what a peer has acknowledged and in which term it was. Stored later."""
        known = self.peer_record(peer)
        if known is not None and (index > known.index or term > known.term):
            self._content.peers[peer] = msgspec.structs.replace(
                known, index=max(index, known.index), term=max(term, known.term)
            )
            self.dirty = True

    def forget_peers(self, removed: Iterable[str]) -> None:
        """Forget peers that were removed: their names never come back."""
        for name in removed:
            self._content.peers.pop(name, None)

    def save(self) -> None:
        """Make everything durable. Blocking. Raises `OSError`."""
        self.save_as(self.encode())

    def encode(self) -> bytes:
        """Return the file's bytes, for `save_as`."""
        self.dirty = False
        raw = msgspec.json.encode(self._content)
        return msgspec.json.encode(_StoredStarts(msgspec.Raw(raw), crc32(raw)))

    def save_as(self, data: bytes) -> None:
        """Store what `encode` returned. Blocking. Raises `OSError`."""
        store_file(self._fs, self._file, data)


def read_peer_records(fs: FileSystem, directory: Path) -> dict[str, PeerRecord]:
    """Return what a replica remembers of its peers, by name; nothing if it has no such file. Blocking.

    Raises `StartsFileError`, `OSError`.
    """
    file = directory / "starts"
    if file.name not in fs.list_dir(directory):
        return {}
    return _decode(file, fs.read(file)).peers


def _decode(file: Path, data: bytes) -> _Content:
    try:
        stored = msgspec.json.decode(data, type=_StoredStarts)
        raw = bytes(stored.starts)
        if crc32(raw) != stored.crc32:
            raise ValueError("it does not match its checksum")  # noqa: TRY301 - told below
        content = msgspec.json.decode(raw, type=_Content)
    except (ValueError, RecursionError) as error:
        raise StartsFileError(
            f"{file} is damaged: {error}. It records the starts of this replica. Remove the file and start again: "
            f"this replica then takes its log from the others before it votes."
        ) from None
    if content.format != FORMAT:
        raise StartsFileError(
            f"{file}: format {content.format}, but this program reads format {FORMAT}. Start the version of raftflow "
            f"that wrote it, or a newer one."
        )
    return content
