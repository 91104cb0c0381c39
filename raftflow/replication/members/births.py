"""The birth of a cluster: when a replica with an empty data directory may vote, lead and accept entries.

A replica is *fresh* while it has no log, no term and no snapshot, and belongs to no birth. It cannot know by itself
whether its directory is new or was emptied, so it may have forgotten promises. A fresh replica neither votes nor
stands for election nor acknowledges anything. It is *born*, durably, in one of these ways:

    B1 agreement   every listed member is linked and fresh, and each has reported that it sees the same disks
    B2 adoption    a born member reports that this replica, with this disk, is one of its founders
    B3 admission   more than half of the other listed members are born, linked, and accept it with this disk
    B4 order       as B1 for a majority of the listed members, because the operator ordered it, and no linked one has
                   data

It stops as emptied (`EmptiedError`) when a member knows it with another disk or knows that it must have data.
DESIGN.md has the argument. Two kinds of replicas are born without any of this: a replica that joins (`join = true`),
which is a voter only when the log says so, and a replica with data from before this rule.

```
DIR/birth      JSON with a checksum: format, disk, stage, ordered, whole, level, founders
birth frame    MessagePack of `BirthMessage`, on every new link and after every change
```
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.birth_file import BirthFile, BirthRecord, OrderRefusedError
from raftflow.replication.members.introductions import ADVICE, read_frame
from raftflow.replication.members.membership import LEARNERS_MAX, VOTERS_MAX, Name

if TYPE_CHECKING:
    from raftflow.replication.members.introducer import Introducer

FORMAT: Final = 1
REMIND_FIRST_S: Final = 2.0
REMIND_EVERY_S: Final = 10.0
"""How often a fresh replica logs which replicas it waits for."""

_log = logging.getLogger(__name__)


class EmptiedError(LogFailedError):
    """A member reports that this replica's data directory was emptied or replaced. The message says what to do."""


class BirthStage(enum.StrEnum):
    """How far the birth of a replica is."""

    FRESH = "fresh"
    SEEN = "seen"
    """It has recorded durably which disks it sees. It may be a founder without knowing it yet."""
    BORN = "born"


class BirthMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a replica's birth, as it is sent to the others."""

    format: int
    stage: BirthStage
    disk: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    level: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
    """The highest feature level that the sender understands. If it is born: the level of the birth, 0 if unknown."""
    members: Annotated[tuple[Name, ...], msgspec.Meta(max_length=VOTERS_MAX + LEARNERS_MAX)] = ()
    """The list of its first start."""
    founders: Annotated[dict[Name, str], msgspec.Meta(max_length=VOTERS_MAX)] = {}
    """Name to disk: the replicas that the sender sees, or those with which it was born."""
    ordered: bool = False
    has_data: bool = False
    late: Annotated[tuple[Name, ...], msgspec.Meta(max_length=VOTERS_MAX)] = ()
    """Voters that are not in the first list. Each of them had data when it became a voter."""


class IntroducedPeers(msgspec.Struct, frozen=True):
    """What the introductions know of the other replicas."""

    introducer: Introducer
    level: int
    """The highest feature level that this process understands."""


class Births:
    """The birth of one replica.

    Args:
        name: this replica.
        members: the voters of the list of its first start.
        disk: its disk id.
        file: keeps the record.
        record: what is in the file.
        neighbours: None where births are not looked at: in tests of other parts.
        send: takes a frame's body for a peer.
        has_data: returns whether this replica has a log, a term or a snapshot.
        late: returns the committed voters that are not in that list.
        on_born: called once when it is born.
        joins: whether it is configured to join.
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
        self._messages: dict[str, BirthMessage] = {}
        self._remind_at: float | None = None
        active = introduced_peers is not None
        self.born = not active or joins or self._record.born or has_data()
        """True if this replica may take part. Only a birth changes it."""
        self._active = active

    @property
    def founding_levels(self) -> dict[str, int]:
        """Return the feature level at which the cluster begins, by founder. Empty if it is not known here."""
        return (
            dict.fromkeys(self._record.founders, self._record.level)
            if self._record.born and self._record.level
            else {}
        )

    # What the replica reports.

    def start(self) -> None:
        """Begin: a cluster of one is born at once."""
        if not self.born and not self._others and self._introduced_peers is not None:
            self._record_birth({self._name: self._disk}, self._introduced_peers.level, whole=True)
        if not self.born:
            _log.info(
                "this replica has no data: it waits until %s can all be reached, to form a cluster or to join theirs",
                ", ".join(self._members),
            )

    def link_up(self, peer: str) -> None:
        """A link works."""
        self._linked.add(peer)
        self._messages.pop(peer, None)  # it sends its state again
        self._send_state(peer)
        self._decide()

    def link_down(self, peer: str) -> None:
        """A link broke."""
        self._linked.discard(peer)

    def receive(self, peer: str, body: bytes) -> None:
        """Receive a peer's state. Raises `ValueError` if it cannot be read, `EmptiedError`, `OrderRefusedError`."""
        self._messages[peer] = read_frame(body, BirthMessage)
        self._decide()

    def judge_emptied(self, peer: str, reason: str) -> LogFailedError | None:
        """`peer` calls this replica emptied: return the error that ends it, None if it has what it promised."""
        if self.born and not (self._joins and not self._has_data()):
            return None
        reason = reason.partition(ADVICE)[0].rstrip(" .")  # the advice below is for this side
        return EmptiedError(
            f"{peer} reports that this replica was emptied: {reason}. This replica stops. Put its "
            f"old directory back, or run `raftflow member remove {self._name}` and let the machine join under a new "
            f"name, with an empty directory and `join = true`. If a majority of the replicas lost its data: see "
            f"RECOVERY.md"
        )

    def remind_operator(self, now_s: float) -> None:
        """Log from time to time which replicas this one waits for."""
        if self._remind_at is None:
            self._remind_at = now_s + REMIND_FIRST_S
        elif now_s >= self._remind_at:
            self._remind_at = now_s + REMIND_EVERY_S
            _log.warning("%s", self.describe_wait())

    def describe_wait(self) -> str:
        """Describe which replicas this one waits for, and what to do."""
        problems = [problem for peer in self._others if (problem := self._problem(peer))]
        what = "; ".join(problems) or "the other replicas have not agreed yet"
        able = 1 + sum(self._is_free(peer) for peer in self._others)
        order = ""
        if self._is_ordered():
            order = (
                f" --bootstrap was given; it needs a majority, {len(self._members) // 2 + 1} of {len(self._members)}."
            )
        elif 2 * able > len(self._members):
            order = " If this is a new cluster and they cannot be started, start one replica once with `--bootstrap`."
        return (
            f"this replica has no data and is not part of a cluster yet: {what}. Start all of "
            f"{', '.join(self._members)}, and compare their member lists.{order} If this cluster had data, start the "
            f"replicas that have it: see RECOVERY.md"
        )

    # Inside.

    def _problem(self, peer: str) -> str:
        told = self._messages.get(peer)
        if peer not in self._linked:
            return f"{peer} cannot be reached"
        if told is None:
            return ""
        if told.stage is BirthStage.BORN:
            return f"{peer} belongs to a cluster; more of its members must accept this replica"
        if not told.members:
            return f"{peer} is configured to join (join = true): remove that line there, or {peer} from the list here"
        if told.members != self._members:
            return f"{peer} lists other members ({', '.join(told.members)}): correct one of the two files"
        return ""

    @property
    def peers_may_change(self) -> bool:
        """Whether a peer's disk may change: nothing relies on what this replica said of it."""
        return self._active and not self.born and not self._joins and not self._record.stage and not self._record.met

    @property
    def is_newcomer(self) -> bool:
        """Whether this replica joins a cluster and has no data yet."""
        return self._active and self._joins and not self._has_data()

    @property
    def is_established(self) -> bool:
        """Whether this replica belongs to a cluster and has data."""
        return self._active and self.born and self._has_data()

    def _is_ordered(self) -> bool:
        """Return True if the operator ordered a birth here or at a linked fresh member."""
        told = (self._messages[peer] for peer in self._linked & self._messages.keys())
        return self._record.ordered or any(
            each.ordered and each.stage is not BirthStage.BORN and each.members == self._members for each in told
        )

    def _is_free(self, peer: str) -> bool:
        """Return True for a linked member that is fresh."""
        if peer not in self._linked:
            return False
        told = self._messages.get(peer)
        return told is not None and told.stage is not BirthStage.BORN and told.members == self._members

    def _decide(self) -> None:
        """Decide on a birth as far as is known."""
        self._check_emptied()
        if self.born:
            return
        born = [peer for peer in self._others if peer in self._linked and self._has_reported(peer, BirthStage.BORN)]
        for peer in born:
            told = self._messages[peer]
            if told.founders.get(self._name) == self._disk:  # B2
                self._record_birth(told.founders, told.level, whole=False)
                return
        if born and not self._record.met:
            self._record = msgspec.structs.replace(self._record, met=True)
            self._file.write(self._record)
        if born and self._record.ordered:
            self._refuse_order(born[0])
        if born and 2 * len(born) > len(self._others):  # B3
            level = max(self._messages[peer].level for peer in born)
            self._record_birth({**self._messages[born[0]].founders, self._name: self._disk}, level, whole=False)
            return
        if not born:
            self._propose_founders()

    def _has_reported(self, peer: str, stage: BirthStage) -> bool:
        told = self._messages.get(peer)
        return told is not None and told.stage is stage

    def _check_emptied(self) -> None:
        """Check whether a member knows that this replica must have had data. Raises `EmptiedError`."""
        for peer in sorted(self._linked & self._messages.keys()):
            told = self._messages[peer]
            if told.stage is not BirthStage.BORN:
                continue
            reason = ""
            if told.founders.get(self._name, self._disk) != self._disk:
                reason = f"it founded the cluster with disk {told.founders[self._name][:8]}, not {self._disk[:8]}"
            elif self._name in told.late:
                reason = "it became a voting member with data"
            error = self.judge_emptied(peer, reason) if reason else None
            if error is not None:
                raise error

    def _refuse_order(self, peer: str) -> None:
        """A cluster exists: drop the order. Raises `OrderRefusedError` if it was given for this start."""
        self._record = msgspec.structs.replace(self._record, ordered=False)
        self._file.write(self._record)
        if self._file.ordered_now:
            raise OrderRefusedError(
                f"--bootstrap is refused: {peer} belongs to a cluster that was born already. Start this replica "
                f"without --bootstrap; the cluster accepts it, or reports why not"
            )

    def _propose_founders(self) -> None:
        """B1 and B4: record which disks this replica sees; be born when all of them report the same."""
        free = [peer for peer in self._others if self._is_free(peer)]
        whole = len(free) == len(self._others)
        if whole or (self._is_ordered() and 2 * (len(free) + 1) > len(self._members)):
            self._record_founders({self._name: self._disk, **{peer: self._disk_of(peer) for peer in free}})
        seen = self._record.founders
        if self._record.stage is None or not all(self._agrees(peer, seen) for peer in seen if peer != self._name):
            return
        told = [self._messages[peer].level for peer in seen if peer in self._messages]
        level = min([self._introduced_peers.level if self._introduced_peers else 0, *told])
        self._record_birth(seen, level, whole=len(seen) == len(self._members))

    def _agrees(self, peer: str, seen: dict[str, str]) -> bool:
        told = self._messages.get(peer)
        return (
            told is not None and told.stage is BirthStage.SEEN and told.founders == seen and told.disk == seen[peer]
        )

    def _disk_of(self, peer: str) -> str:
        told = self._messages.get(peer)
        if told is not None:
            return told.disk
        return "" if self._introduced_peers is None else self._introduced_peers.introducer.known.get(peer, "")

    def _record_founders(self, seen: dict[str, str]) -> None:
        if self._record.stage is not None and self._record.founders == seen:
            return
        self._record = msgspec.structs.replace(self._record, stage=BirthStage.SEEN.value, founders=seen)
        self._file.write(self._record)
        self._send_state_to_all()

    def _record_birth(self, founders: dict[str, str], level: int, *, whole: bool) -> None:
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
            self._introduced_peers.introducer.remember_disks(
                {k: v for k, v in founders.items() if k != self._name and v}
            )
        self.born = True
        _log.info("this replica belongs to the cluster of %s", ", ".join(sorted(founders)))
        self._send_state_to_all()
        self._on_born()

    def _send_state_to_all(self) -> None:
        for peer in sorted(self._linked):
            self._send_state(peer)

    def _send_state(self, peer: str) -> None:
        if not self._active:
            return
        stage = BirthStage(self._record.stage or BirthStage.FRESH)
        if self.born:  # a joining replica without data cannot vouch for others
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
