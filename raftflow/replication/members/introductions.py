"""The introduction: what two replicas tell each other first on a proven link.

A replica whose disk was emptied has forgotten its votes and what it acknowledged. Under its old name it could help to
elect a leader that lacks committed entries. An emptied disk has another disk id (`members/identity.py`). So every
replica remembers durably which disk id it met under each name, and refuses the name with another one. The first
contact is believed. A newcomer, a replica that joins and has no data yet, may meet an emptied replica first. So it
believes a member with data more than its own first contact: each member with data tells which disks it remembers. A
newcomer hears this before it gets its first entry, and it vouches for nobody until then.

A replica that was away, or lost its log, while the members changed may know none of the present members. They know it
and dial it. It accepts a stranger if that one has a *newer* list of members than itself, with both of them in it
(`is_welcome`). A stranger with an older list, or with none, is refused like every replica that is not a member.

```
DIR/peers        JSON with a checksum: format, disk id of every peer that was ever met
first frame      MessagePack: `Introduction`         from both sides
second frame     MessagePack: `IntroductionReply`    from both sides
```

Unknown keys are ignored. The link is up when both sides have accepted. `level` is the highest feature level
(`domain/features.py`) that the process understands. `start` and `seen` let a replica notice that its disk is an older
copy (`members/starts.py`). `point` is the position of the replica's state, with the audit chain at that entry. A peer
that knows the chain at that entry compares. A replica with another history, which a snapshot would hide, gets no
link. It stops when a majority of the others reports the difference.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Final, Protocol, TypeVar

import msgspec

from raftflow.replication.members.membership import LEARNERS_MAX, VOTERS_MAX, Name
from raftflow.replication.members.starts import Number, PeerRecord, ReplicaStart, StartHistory

if TYPE_CHECKING:
    pass

FORMAT: Final = 1
ELECTION_MIN_MS_MAX: Final = 60_000
"""Longest least election timeout that is believed."""
PEERS_MAX: Final = 1_000
"""Names that are remembered; they are never forgotten, since a name is never used again."""

Disk = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
"""A disk id."""

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class HistoryPosition(msgspec.Struct, frozen=True, array_like=True):
    """The position of a state."""

    index: Number
    """Of the entry applied last."""
    chain: Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
    """Audit chain after that entry: equal chains mean equal histories."""


class AppliedHistoryView(Protocol):
    """The history that was applied here."""

    def point(self) -> HistoryPosition | None:
        """Return the position of this replica's state."""
        ...

    async def chain_after(self, index: int) -> bytes | None:
        """Return the chain after an applied entry. None if it is no longer known."""
        ...


class BirthView(Protocol):
    """What introductions read from this replica's birth."""

    @property
    def peers_may_change(self) -> bool:
        """Whether a peer's disk may change: nothing relies on what this replica said of it."""
        ...

    @property
    def is_newcomer(self) -> bool:
        """Whether this replica joins a cluster and has no data yet."""
        ...

    @property
    def is_established(self) -> bool:
        """Whether this replica belongs to a cluster and has data."""
        ...


class Introduction(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame."""

    format: int
    disk: Disk
    level: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    members: Annotated[tuple[Name, ...], msgspec.Meta(max_length=VOTERS_MAX + LEARNERS_MAX)] = ()
    """Voters and learners of the list in force."""
    members_index: Annotated[int, msgspec.Meta(ge=0)] = 0
    """`MembershipVersion.index` of that list."""
    start: ReplicaStart | None = None
    """The present start of the sender; None from older versions."""
    seen: PeerRecord | None = None
    """What the sender remembers of the receiver."""
    seen_disk: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """The disk of the receiver that the sender remembers."""
    term: Number = 0
    """The present term of the sender."""
    repairing: bool = False
    """True if the sender does not vote (repair.py)."""
    point: HistoryPosition | None = None
    pre_votes: bool = False
    """True if the sender knows the questions before an election (pre_votes.py); False from older versions."""
    election_min_ms: Annotated[int, msgspec.Meta(ge=0, le=ELECTION_MIN_MS_MAX)] = 0
    """The configured least election timeout of the sender; 0 from older versions."""
    disks: Annotated[dict[Name, Disk], msgspec.Meta(max_length=VOTERS_MAX + LEARNERS_MAX)] = {}
    """The disks of members that the sender remembers, if it has data. A newcomer believes them."""


ADVICE: Final = "Put the old directory back"
"""Where the advice of a refusal begins."""


class IntroductionReply(msgspec.Struct, frozen=True, kw_only=True):
    """The second frame."""

    accepted: bool
    reason: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    stranger: bool = False
    """Refused because the replica is not a peer here."""
    removed: bool = False
    """Refused because its removal is committed."""
    differs: bool = False
    """Refused because its history is another one."""
    emptied: bool | None = None
    """Refused because its data directory was emptied. None from a version that has only these two reasons."""


def read_frame(frame: bytes, kind: type[_T]) -> _T:
    """Read what a peer has sent. Raises `ValueError` if it is nothing of this kind."""
    try:
        return msgspec.msgpack.decode(frame, type=kind)
    except RecursionError as error:  # in a field that nobody knows
        raise ValueError(f"it is nested too deeply: {error}") from None


class LogView(Protocol):
    """What introductions read from the log and report to it."""

    @property
    def term(self) -> int:
        """The present term."""
        ...

    @property
    def last_index(self) -> int:
        """The end of the log."""
        ...

    @property
    def repairing(self) -> bool:
        """Whether this replica is under repair and does not vote."""
        ...

    @property
    def pre_votes(self) -> bool:
        """Whether this replica knows the questions before an election."""
        ...

    @property
    def election_min_ms(self) -> int:
        """The configured least election timeout of this replica."""
        ...

    def note_peer(self, peer: str, starts: StartHistory) -> None:
        """Record in `starts` what is known of a peer now."""
        ...

    def begin_repair(self, peer: str, why: str) -> bool:
        """This disk is an older copy: stop voting, durably. False if the replica ends instead."""
        ...

    def check_introduction(self, peer: str, told: Introduction) -> str:
        """Check an introduction. Return why it is refused, or an empty string."""
        ...

    def note_removal_claim(self, peer: str) -> None:
        """A peer reports that this replica was removed."""
        ...

    def note_other_history(self, peer: str, why: str) -> None:
        """A peer reports that this replica has another history."""
        ...


def is_welcome(me: str, stranger: str, told: Introduction, certain_index: int) -> bool:
    """Return True if a stranger may be linked: it has a list with both replicas, newer than what is certain here.

    This decides only from which replica messages are accepted. The list in this replica's own log decides which
    votes count (M4, M5). A replica with an older list is refused: it was removed, or was never a member.
    """
    return me in told.members and stranger in told.members and told.members_index > certain_index
