"""The members of the cluster, as the log says.

A change of the members is an entry with the whole new list. The latest such entry in the log is in force, committed
or not, from the moment it is appended. If it is cut off, the one before it is in force again. A snapshot carries the
list as of its last entry. Before the first entry the list of the first start is in force, which is kept beside the
log (`DIR/members`): the configuration file is used at the first start only.

    command    10 | MessagePack [format, voters, learners, removed]      a member is [name, peer address, API url]

The library's own membership code never runs. It skips a command of type 10 when it applies it, and its sets of nodes
are set from here (raft/library.py). Only voters count for majorities. A learner gets entries and does not count.
Removed names are remembered for ever: a name is never used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Protocol
from zlib import crc32

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.identity import store_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import Any

    from raftflow.replication.files import FileSystem

MARK: Final = b"\x10"
"""First byte of a membership command. The library skips command types that it does not know."""
FORMAT: Final = 1
VOTERS_MAX: Final = 9
LEARNERS_MAX: Final = 3
VOTERS_MIN: Final = 3
"""A removal that would leave fewer is refused."""
REMOVED_MAX: Final = 1_000
COMMAND_BYTES_MAX: Final = 1024 * 1024

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Text = Annotated[str, msgspec.Meta(max_length=2_000)]


class MembershipError(ValueError):
    """Bytes that are not a membership."""


class ChangeRefusedError(Exception):
    """The change is refused. The message says why."""


class NotReadyError(Exception):
    """Leadership was lost, or the time was up. The change may still happen. It is safe to ask again."""


class MemberInfo(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One member and its addresses."""

    name: Name
    peer: Text = ""
    """`host:port` for the other replicas."""
    url: Text = ""
    """For clients and agents."""


class Membership(msgspec.Struct, frozen=True):
    """The members. Each list is sorted by name, and no name is in two lists."""

    voters: tuple[MemberInfo, ...] = ()
    learners: tuple[MemberInfo, ...] = ()
    removed: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> Membership:
        """Return a membership of voters without addresses."""
        return cls(tuple(MemberInfo(name) for name in sorted(names)))

    @property
    def voter_names(self) -> frozenset[str]:
        """The members that count for majorities."""
        return frozenset(member.name for member in self.voters)

    @property
    def learner_names(self) -> frozenset[str]:
        """The members that get entries and do not count."""
        return frozenset(member.name for member in self.learners)

    @property
    def names(self) -> tuple[str, ...]:
        """Voters, then learners."""
        return tuple(member.name for member in (*self.voters, *self.learners))

    def find(self, name: str) -> MemberInfo | None:
        """Return a voter or learner."""
        return next((member for member in (*self.voters, *self.learners) if member.name == name), None)

    def with_learner(self, member: MemberInfo) -> Membership:
        """Return this membership with one more learner."""
        return Membership(self.voters, tuple(sorted((*self.learners, member))), self.removed)

    def with_voter(self, member: MemberInfo) -> Membership:
        """Return this membership with one more voter, which may have been a learner."""
        learners = tuple(each for each in self.learners if each.name != member.name)
        return Membership(tuple(sorted((*self.voters, member))), learners, self.removed)

    def without(self, name: str) -> Membership:
        """Return this membership without one member, whose name is never used again."""
        return Membership(
            tuple(each for each in self.voters if each.name != name),
            tuple(each for each in self.learners if each.name != name),
            tuple(sorted((*self.removed, name))),
        )


class MembershipVersion(msgspec.Struct, frozen=True):
    """The list that a replica follows, and how new it is."""

    members: Membership = Membership()
    """In force: the latest in the log, committed or not."""
    index: int = 0
    """Index of its entry, or of the snapshot that contained it; 0 for the list of the first start."""
    certain_index: int = 0
    """Index of the latest applied entry with a list, or of the snapshot: lists up to here are final."""
    removed: tuple[str, ...] = ()
    """Names whose removal is final."""


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    format: int
    voters: tuple[MemberInfo, ...]
    learners: tuple[MemberInfo, ...]
    removed: tuple[Name, ...]


def encode(membership: Membership) -> bytes:
    """Return the body of a command, or of a snapshot's field. The same membership always gives the same bytes."""
    return msgspec.msgpack.encode(_Wire(FORMAT, membership.voters, membership.learners, membership.removed))


def decode(body: bytes) -> Membership:
    """Read what `encode` wrote, and nothing else. Raises `MembershipError`."""
    if len(body) > COMMAND_BYTES_MAX:
        raise MembershipError(f"a membership of {len(body)} bytes")
    try:
        wire = msgspec.msgpack.decode(body, type=_Wire)
    except (ValueError, RecursionError) as error:
        raise MembershipError(f"not a membership: {error}") from None
    if wire.format != FORMAT:
        raise MembershipError(f"membership format {wire.format}, but this program reads format {FORMAT}")
    membership = Membership(wire.voters, wire.learners, wire.removed)
    names = [member.name for member in (*membership.voters, *membership.learners)] + list(membership.removed)
    if len(set(names)) != len(names):
        raise MembershipError("a name is in it twice")
    if len(membership.voters) > VOTERS_MAX or len(membership.learners) > LEARNERS_MAX:
        raise MembershipError("too many members")
    if len(membership.removed) > REMOVED_MAX:
        raise MembershipError("too many removed names")
    if any(list(part) != sorted(part) for part in (membership.voters, membership.learners)):
        raise MembershipError("its lists are not sorted")
    if list(membership.removed) != sorted(membership.removed) or encode(membership) != body:
        raise MembershipError("it is not in the one form in which it is written")
    return membership


def command_of(membership: Membership) -> bytes:
    """Return the log's command that puts `membership` in force."""
    return MARK + encode(membership)


def check_command(command: bytes) -> None:
    """Raise `MembershipError` unless this is a membership command with at least one voter."""
    if not decode(command[1:]).voters:
        raise MembershipError("a membership without voters")


class Log(Protocol):
    """What is read of the log."""

    def __len__(self) -> int: ...
    def __getitem__(self, item: Any) -> Any: ...


class MembershipTracker:
    """Follows the log and says which membership is in force.

    Args:
        log: entries (command, index, term).
        base: in force before the first membership entry.
        applied: the index up to which entries are applied, and so can never be cut off.
        when_applied: for tests: a change counts only when it is applied (what the library does; M2 off).
    """

    def __init__(self, log: Log, base: Membership, applied: Callable[[], int], *, when_applied: bool = False) -> None:
        self._log = log
        self._applied = applied
        self._when_applied = when_applied
        self._changes: list[tuple[int, int, Membership]] = []
        """Index, term, membership of the entries behind the base, which may still be cut off."""
        self._scanned = (0, -1)
        self.base = base
        """In force up to the last applied entry."""
        self.base_index = 0
        self.current = base
        self.index = 0
        """Index of the entry that is in force; 0 for the list of the first start."""

    @property
    def version(self) -> MembershipVersion:
        """What is in force, for those who make links."""
        return MembershipVersion(self.current, self.index, self.base_index, self.base.removed)

    @property
    def pending(self) -> bool:
        """True while a change is in the log that is not applied."""
        return bool(self._changes)

    def at(self, index: int) -> Membership:
        """Return the membership as of entry `index`, which is applied or later."""
        found = self.base
        for change_index, _term, membership in self._changes:
            if change_index <= index:
                found = membership
        return found

    def rebase(self, membership: Membership | None, index: int) -> None:
        """Take a snapshot's list; None for a snapshot that has none, since nothing had ever changed before it."""
        self._changes.clear()
        self._scanned = (0, -1)
        self.base = self.base if membership is None else membership
        self.base_index = index

    def refresh(self) -> bool:
        """Look at what the log gained or lost. Returns whether the membership in force or the base changed."""
        before = (self.index, self.base_index, self.current, self.base)
        self._scan()
        applied = self._applied()
        while self._changes and self._changes[0][0] <= applied:
            self.base_index, _term, self.base = self._changes.pop(0)
        if self._changes and not self._when_applied:
            self.index, _term, self.current = self._changes[-1]
        else:
            self.index, self.current = self.base_index, self.base
        return before != (self.index, self.base_index, self.current, self.base)

    def _scan(self) -> None:
        log = self._log
        if not len(log):
            return
        first, last = log[0][1], log[-1]
        if (last[1], last[2]) == self._scanned:
            return
        index, term = self._scanned
        if not (first <= index <= last[1] and log[index - first][2] == term):
            # Cut off or replaced: a change that is still there vouches for everything before it.
            while self._changes and not self._holds(first, last[1], *self._changes[-1][:2]):
                self._changes.pop()
            index = self._changes[-1][0] if self._changes else self.base_index
        start = max(index + 1, self.base_index + 1, first)
        for command, entry_index, entry_term in log[start - first : last[1] - first + 1]:
            if command[:1] == MARK:
                self._changes.append((entry_index, entry_term, decode(command[1:])))
        self._scanned = (last[1], last[2])

    def _holds(self, first: int, last: int, index: int, term: int) -> bool:
        return first <= index <= last and self._log[index - first][2] == term


class _StoredMembership(msgspec.Struct, frozen=True):
    body: bytes
    crc32: int


def load_first(fs: FileSystem, data_dir: Path, bootstrap: Membership, *, replace: bool = False) -> Membership:
    """Return the list of this replica's first start, as its directory has it. Blocking.

    Without a stored list `bootstrap` is stored and returned. With `replace` it replaces a stored one: the replica has
    not been part of a cluster so far, so the present start counts as the first one.
    Raises `LogFailedError`.
    """
    file = data_dir / "members"
    try:
        if replace or file.name not in fs.list_dir(data_dir):
            body = encode(bootstrap)
            store_file(fs, file, msgspec.json.encode(_StoredMembership(body, crc32(body))))
            return bootstrap
        data = fs.read(file)
    except OSError as error:
        raise LogFailedError(f"cannot use {file}: {error}. Repair the disk and start again.") from error
    try:
        stored = msgspec.json.decode(data, type=_StoredMembership)
        if crc32(stored.body) != stored.crc32:
            raise MembershipError("it does not match its checksum")
        return decode(stored.body)
    except (ValueError, RecursionError) as error:
        raise LogFailedError(
            f"{file} is damaged: {error}. Put it back from a copy, or let this replica join again under a new name "
            f"with an empty directory."
        ) from None
