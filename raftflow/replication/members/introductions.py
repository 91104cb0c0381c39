"""What two replicas tell each other first on a link that is proven: on which disk they live, what they can read.

A replica whose disk was emptied has forgotten its votes and what it acknowledged; under its old name it could help to
elect a leader that lacks committed entries. It has another disk id then (`members/identity.py`). So every replica
remembers
durably which disk id it met under each name, and refuses the name with another one. The first contact is believed.

A replica that was away, or lost its log, while the members changed may know none of those who lead now. They know it
and dial it. It takes a stranger in if that one knows a *newer* list of members than itself, with both of them in it
(`is_welcome`). A stranger with an older list, or with none, is refused like anybody who is no member.

```
DIR/peers        JSON with a checksum: format, disk id of every peer that was ever met
first frame      MessagePack: `Introduction`      from both sides
second frame     MessagePack: `IntroductionReply`            from both sides
```

Unknown keys are ignored. The link is up when both sides have accepted.
`level` is the highest feature level (`domain/features.py`) that the process understands. `start` and `seen` let a
replica notice that its disk was put back from an older copy: `members/starts.py`. `point` is where the state of the
replica
stands, and the audit chain there. Whoever knows the chain at that entry compares: a replica with another history,
which a snapshot would hide, gets no link, and stops when a majority of the others says so.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import msgspec

from raftflow.replication.members.membership import LEARNERS_MAX, VOTERS_MAX, Name
from raftflow.replication.members.starts import Number, PeerRecord, ReplicaStart, StartHistory

if TYPE_CHECKING:
    pass

FORMAT: Final = 1
PEERS_MAX: Final = 1_000
"""Names that are remembered; they are never forgotten, since a name is never used again."""

_log = logging.getLogger(__name__)


class HistoryPosition(msgspec.Struct, frozen=True, array_like=True):
    """Where a state stands."""

    index: Number
    """Of the entry applied last."""
    chain: Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
    """Audit chain after it: equal chains mean equal histories."""


class AppliedHistoryView(Protocol):
    """What was applied here."""

    def point(self) -> HistoryPosition | None:
        """Return where this replica stands."""
        ...

    async def chain_after(self, index: int) -> bytes | None:
        """Return the chain after an entry that is applied, None if it is not known any more."""
        ...


class Introduction(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame."""

    format: int
    disk: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    level: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    members: Annotated[tuple[Name, ...], msgspec.Meta(max_length=VOTERS_MAX + LEARNERS_MAX)] = ()
    """Voters and learners of the list in force."""
    members_index: Annotated[int, msgspec.Meta(ge=0)] = 0
    """`MembershipVersion.index` of that list."""
    start: ReplicaStart | None = None
    """The present start of the replica that speaks; None from older versions."""
    seen: PeerRecord | None = None
    """What it remembers of the replica that it speaks to."""
    seen_disk: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """The disk of which it remembers that."""
    term: Number = 0
    """Its present term."""
    repairing: bool = False
    """It does not vote (repair.py)."""
    point: HistoryPosition | None = None


ADVICE: Final = "Put the old directory back"
"""Where a refusal begins to say what to do."""


class IntroductionReply(msgspec.Struct, frozen=True, kw_only=True):
    """The second frame."""

    accepted: bool
    reason: Annotated[str, msgspec.Meta(max_length=1_000)] = ""
    stranger: bool = False
    """Refused since the replica is nobody's peer here."""
    removed: bool = False
    """It was a member, and its removal is committed."""
    differs: bool = False
    """Its history is another one."""
    emptied: bool | None = None
    """Refused since its data directory was emptied; None from a version that has no other reason than these two."""


class LogView(Protocol):
    """What the introductions need of the log, and tell it."""

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
        """Whether this replica votes for nobody."""
        ...

    def look_at(self, peer: str, starts: StartHistory) -> None:
        """Note in `starts` what is known of a peer now."""
        ...

    def put_back(self, peer: str, why: str) -> bool:
        """This disk was put back: vote no more, durably. False if the replica stops instead."""
        ...

    def hear(self, peer: str, told: Introduction) -> str:
        """Take note of an introduction; returns why it is refused, if it is."""
        ...

    def told_removed(self, peer: str) -> None:
        """A peer says that this replica was removed."""
        ...

    def told_differs(self, peer: str, why: str) -> None:
        """A peer says that this replica has another history."""
        ...


def is_welcome(me: str, stranger: str, told: Introduction, certain_index: int) -> bool:
    """Return True if a stranger may be linked: it has a list with both that is newer than what is certain here.

    That only decides who is heard. Who counts is decided by the list in this replica's own log (M4, M5), and whoever
    holds an older list than this replica's is refused: it was removed, or was never a member.
    """
    return me in told.members and stranger in told.members and told.members_index > certain_index
