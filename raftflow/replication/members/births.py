"""The birth of a cluster: when a replica with an empty data directory may vote, lead, and take entries.

A replica is *fresh* while it has no log, no term and no snapshot, and belongs to no birth. Whether its directory is
new or was emptied it cannot know by itself: what it promised before, if anything, is forgotten. So a fresh replica
neither votes nor stands nor acknowledges anything. It is *born*, durably, in one of these ways:

    B1 agreement   every listed member is linked and fresh, and each has said that it sees the same disks as all
    B2 adoption    a born member says that this replica, with this disk, is one of its founders
    B3 admission   more than half of the other listed members are born, linked, and take it with this disk
    B4 order       as B1 for a majority of the listed members, because the operator ordered it, and none of those
                   that are linked has data

and it stops, as one that was emptied, when a member knows it with another disk or knows that it must have data
(`EmptiedError`). DESIGN.md has the argument. A replica that joins (`join = true`) is nobody's voter until the log
says so, and one with data from before this rule was born then: for both nothing is asked.

```
DIR/birth      JSON with a checksum: format, disk, stage, ordered, whole, level, founders
birth frame    MessagePack of `BirthMessage`, on every new link and after every change, to peers of feature level 5
```
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from raftflow.domain.features import BIRTHS_LEVEL
from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.birth_file import BirthFile, BirthRecord, OrderRefusedError
from raftflow.replication.members.introductions import ADVICE
from raftflow.replication.members.membership import LEARNERS_MAX, VOTERS_MAX, Name

if TYPE_CHECKING:
    from raftflow.replication.members.introducer import Introducer

FORMAT: Final = 1
REMIND_FIRST_S: Final = 2.0
REMIND_EVERY_S: Final = 10.0
"""How often a fresh replica says for whom it waits."""

_log = logging.getLogger(__name__)


class EmptiedError(LogFailedError):
    """This replica's data directory was emptied or replaced, says a member. Says what to do."""


class BirthStage(enum.StrEnum):
    """How far a replica is."""

    FRESH = "fresh"
    SEEN = "seen"
    """It has said durably which disks it sees, and may be a founder without knowing it yet."""
    BORN = "born"


class BirthMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What a replica tells about its birth."""

    format: int
    stage: BirthStage
    disk: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    level: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    """The highest feature level that it understands; of one that is born, the level of the birth, 0 if unknown."""
    members: Annotated[tuple[Name, ...], msgspec.Meta(max_length=VOTERS_MAX + LEARNERS_MAX)] = ()
    """The list of its first start."""
    founders: Annotated[dict[Name, str], msgspec.Meta(max_length=VOTERS_MAX)] = {}
    """Name to disk: those that it sees, or with whom it was born."""
    ordered: bool = False
    has_data: bool = False
    late: Annotated[tuple[Name, ...], msgspec.Meta(max_length=VOTERS_MAX)] = ()
    """Voters that are none of the first list: each of them had data when it became one."""


class IntroducedPeers(msgspec.Struct, frozen=True):
    """What the links know of the other replicas."""

    introducer: Introducer
    level: int
    """The highest feature level that this process understands; below `BIRTHS_LEVEL` it acts as its version did."""
    levels: Callable[[], Mapping[str, int]]
    """The same of the peers that are linked."""


class Births:
    """The birth of one replica.

    Args:
        name: this replica.
        members: the voters of its first list.
        disk: its disk id.
        file: keeps the record.
        record: what is in the file.
        neighbours: None where births are not looked at: in tests of other parts.
        send: takes a frame's body for a peer.
        has_data: returns whether this replica has a log, a term or a snapshot.
        late: returns the voters that were not in its first list, by what is committed.
        on_born: called once when it is born.
        joins: it was set up to join.
    """

    def __init__(
        self,
        name: str,
        members: tuple[str, ...],
        *,
        disk: str,
        file: BirthFile,
        record: BirthRecord,
        introduced_peers: IntroducedPeers | None,
        send: Callable[[str, bytes], object],
        has_data: Callable[[], bool],
        late: Callable[[], tuple[str, ...]],
        on_born: Callable[[], None],
        joins: bool,
    ) -> None:
        self._name = name
        self._members = tuple(sorted(members))
        self._others = tuple(peer for peer in self._members if peer != name)
        self._disk = disk
        self._file = file
        self._record = record
        self._introduced_peers = introduced_peers
        self._send = send
        self._has_data = has_data
        self._late = late
        self._on_born = on_born
        self._joins = joins
        self._linked: set[str] = set()
        self._told: dict[str, BirthMessage] = {}
        self._remind_at: float | None = None
        active = introduced_peers is not None and introduced_peers.level >= BIRTHS_LEVEL
        self.born = not active or joins or self._record.born or has_data()
        """True if this replica may take part. Nothing but a birth changes it."""
        self._active = active

    @property
    def founding_levels(self) -> dict[str, int]:
        """Return the feature level at which the cluster begins, by founder; empty if this replica knows of none."""
        return (
            dict.fromkeys(self._record.founders, self._record.level)
            if self._record.born and self._record.level
            else {}
        )

    # What the engine reports.

    def start(self) -> None:
        """Begin: a cluster of one is born at once."""
        if not self.born and not self._others and self._introduced_peers is not None:
            self._be_born({self._name: self._disk}, self._introduced_peers.level, whole=True)
        if not self.born:
            _log.info(
                "this replica is fresh: a cluster begins when all of %s are reachable and fresh, or takes it in",
                ", ".join(self._members),
            )

    def up(self, peer: str) -> None:
        """A link works."""
        self._linked.add(peer)
        self._told.pop(peer, None)  # it tells again
        if self._understands(peer):
            self._tell(peer)
        self._look()

    def down(self, peer: str) -> None:
        """A link broke."""
        self._linked.discard(peer)

    def hear(self, peer: str, body: bytes) -> None:
        """Take what a peer tells. Raises `ValueError` for what is none, `EmptiedError`, `OrderRefusedError`."""
        self._told[peer] = msgspec.msgpack.decode(body, type=BirthMessage)
        self._look()

    def emptied(self, peer: str, reason: str) -> LogFailedError | None:
        """Judge that `peer` calls this replica emptied: the error that ends it, None if it has what it promised."""
        if self.born and not (self._joins and not self._has_data()):
            return None
        reason = reason.partition(ADVICE)[0].rstrip(" .")  # what to do is said below, for this side
        return EmptiedError(
            f"this replica was emptied, says {peer}: {reason}. It neither votes nor leads, and stops. Put its "
            f"old directory back, or run `raftflow member remove {self._name}` and let the machine join under a new "
            f"name, with an empty directory and `join = true`. If a majority of the replicas lost its data: see "
            f"RECOVERY.md"
        )

    def remind(self, now_s: float) -> None:
        """Say from time to time for whom this replica waits."""
        if self._remind_at is None:
            self._remind_at = now_s + REMIND_FIRST_S
        elif now_s >= self._remind_at:
            self._remind_at = now_s + REMIND_EVERY_S
            _log.warning("%s", self.waiting())

    def waiting(self) -> str:
        """Say for whom this replica waits, and what to do."""
        problems = [problem for peer in self._others if (problem := self._problem(peer))]
        what = "; ".join(problems) or "the others have not agreed yet"
        able = 1 + sum(self._is_free(peer) for peer in self._others)
        order = ""
        if self._is_ordered():
            order = (
                f" A birth is ordered; it needs a majority, {len(self._members) // 2 + 1} of {len(self._members)}."
            )
        elif 2 * able > len(self._members):
            order = " If this is a new cluster and they cannot come, start one replica once with `--bootstrap`."
        return (
            f"this replica is fresh, and neither votes nor leads yet: {what}. Start all of "
            f"{', '.join(self._members)}, and compare their member lists.{order} If this cluster had data, bring the "
            f"replicas that have it back: RECOVERY.md"
        )

    # Inside.

    def _problem(self, peer: str) -> str:
        told = self._told.get(peer)
        if peer not in self._linked:
            return f"{peer} cannot be reached"
        if told is None or not self._understands(peer):
            return ""
        if told.stage is BirthStage.BORN:
            return f"{peer} belongs to a cluster, and more of its members are needed to take this replica in"
        if not told.members:
            return f"{peer} is set up to join (join = true): take that out of its file, or it out of the list"
        if told.members != self._members:
            return f"{peer} lists other members ({', '.join(told.members)}): correct one of the two files"
        return ""

    def _understands(self, peer: str) -> bool:
        return self._level_of(peer) >= BIRTHS_LEVEL

    def _level_of(self, peer: str) -> int:
        return 0 if self._introduced_peers is None else self._introduced_peers.levels().get(peer, 0)

    def may_relearn(self) -> bool:
        """Return True while a peer's disk may change: nobody can count on what this replica said of it."""
        return self._active and not self.born and not self._joins and not self._record.stage and not self._record.met

    def _is_ordered(self) -> bool:
        """Return True if the operator ordered a birth here, or at a fresh member that is linked."""
        told = (self._told[peer] for peer in self._linked & self._told.keys())
        return self._record.ordered or any(
            each.ordered and each.stage is not BirthStage.BORN and each.members == self._members for each in told
        )

    def _is_free(self, peer: str) -> bool:
        """Return True for a linked member that is fresh; one of an older version cannot say it, and is taken for it.

        An older one that knew this replica with another disk would have refused the link.
        """
        if peer not in self._linked:
            return False
        if not self._understands(peer):
            return True
        told = self._told.get(peer)
        return told is not None and told.stage is not BirthStage.BORN and told.members == self._members

    def _look(self) -> None:
        """Come to a decision, as far as what is known allows."""
        self._heed()
        if self.born:
            return
        born = [peer for peer in self._others if peer in self._linked and self._is_told(peer, BirthStage.BORN)]
        for peer in born:
            told = self._told[peer]
            if told.founders.get(self._name) == self._disk:  # B2
                self._be_born(told.founders, told.level, whole=False)
                return
        if born and not self._record.met:
            self._record = msgspec.structs.replace(self._record, met=True)
            self._file.write(self._record)
        if born and self._record.ordered:
            self._refuse_order(born[0])
        old = [peer for peer in self._others if peer in self._linked and not self._understands(peer)]
        if born and 2 * len(born + old) > len(self._others):  # B3
            level = max(self._told[peer].level for peer in born)
            self._be_born({**self._told[born[0]].founders, self._name: self._disk}, level, whole=False)
            return
        if not born:
            self._see()

    def _is_told(self, peer: str, stage: BirthStage) -> bool:
        told = self._told.get(peer)
        return told is not None and told.stage is stage and self._understands(peer)

    def _heed(self) -> None:
        """Look whether a member knows that this replica must have had data. Raises `EmptiedError`."""
        for peer in sorted(self._linked & self._told.keys()):
            told = self._told[peer]
            if told.stage is not BirthStage.BORN:
                continue
            reason = ""
            if told.founders.get(self._name, self._disk) != self._disk:
                reason = f"it founded the cluster with disk {told.founders[self._name][:8]}, not {self._disk[:8]}"
            elif self._name in told.late:
                reason = "it became a voting member with data"
            error = self.emptied(peer, reason) if reason else None
            if error is not None:
                raise error

    def _refuse_order(self, peer: str) -> None:
        """A cluster is there: forget the order. Raises `OrderRefusedError` if it was given for this very start."""
        self._record = msgspec.structs.replace(self._record, ordered=False)
        self._file.write(self._record)
        if self._file.ordered_now:
            raise OrderRefusedError(
                f"--bootstrap is refused: {peer} belongs to a cluster that was born already. Start this replica "
                f"without --bootstrap; the cluster takes it in, or says why not"
            )

    def _see(self) -> None:
        """B1 and B4: say which disks this replica sees; be born when all of them have said the same."""
        free = [peer for peer in self._others if self._is_free(peer)]
        whole = len(free) == len(self._others)
        if whole or (self._is_ordered() and 2 * (len(free) + 1) > len(self._members)):
            self._say({self._name: self._disk, **{peer: self._disk_of(peer) for peer in free}})
        seen = self._record.founders
        if self._record.stage is None or not all(self._agrees(peer, seen) for peer in seen if peer != self._name):
            return
        told = [self._told[peer].level for peer in seen if peer in self._told]
        old = [self._level_of(peer) for peer in seen if peer != self._name and peer not in self._told]
        level = min([self._introduced_peers.level if self._introduced_peers else 0, *told, *old])
        self._be_born(seen, level, whole=len(seen) == len(self._members))

    def _agrees(self, peer: str, seen: dict[str, str]) -> bool:
        told = self._told.get(peer)
        if told is None:
            return peer in self._linked and not self._understands(peer)
        return told.stage is BirthStage.SEEN and told.founders == seen and told.disk == seen[peer]

    def _disk_of(self, peer: str) -> str:
        told = self._told.get(peer)
        if told is not None:
            return told.disk
        return "" if self._introduced_peers is None else self._introduced_peers.introducer.known.get(peer, "")

    def _say(self, seen: dict[str, str]) -> None:
        if self._record.stage is not None and self._record.founders == seen:
            return
        self._record = msgspec.structs.replace(self._record, stage=BirthStage.SEEN.value, founders=seen)
        self._file.write(self._record)
        self._tell_all()

    def _be_born(self, founders: dict[str, str], level: int, *, whole: bool) -> None:
        self._record = msgspec.structs.replace(
            self._record,
            stage=BirthStage.BORN.value,
            founders=dict(founders),
            level=level,
            whole=whole,
            ordered=False,
        )
        self._file.write(self._record)
        if self._introduced_peers is not None:
            self._introduced_peers.introducer.learn({k: v for k, v in founders.items() if k != self._name and v})
        self.born = True
        _log.info("the cluster is born for this replica, with %s", ", ".join(sorted(founders)))
        self._tell_all()
        self._on_born()

    def _tell_all(self) -> None:
        for peer in sorted(self._linked):
            if self._understands(peer):
                self._tell(peer)

    def _tell(self, peer: str) -> None:
        if not self._active:
            return
        stage = BirthStage(self._record.stage or BirthStage.FRESH)
        if self.born:  # who joins and has nothing yet can vouch for nobody
            stage = BirthStage.BORN if self._has_data() or not self._joins else BirthStage.FRESH
        told = BirthMessage(
            format=FORMAT,
            stage=stage,
            disk=self._disk,
            level=self._record.level
            if stage is BirthStage.BORN
            else self._introduced_peers.level
            if self._introduced_peers
            else 0,
            members=self._members,
            founders=self._record.founders,
            ordered=self._record.ordered,
            has_data=self._has_data(),
            late=self._late(),
        )
        self._send(peer, msgspec.msgpack.encode(told))
