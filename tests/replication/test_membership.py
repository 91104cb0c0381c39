"""Lists of members as bytes, in the log, and on disk."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members import membership
from raftflow.replication.members.membership import MemberInfo, Membership, MembershipError, MembershipTracker
from raftflow.replication.messages import envelope
from raftflow.simulation.world.disk import FaultyFileSystem

ABC = Membership(tuple(MemberInfo(name, f"{name}:1", f"http://{name}") for name in "abc"))
D = MemberInfo("d", "d:1", "http://d")


def entry(members: Membership, index: int, term: int = 1) -> tuple[bytes, int, int]:
    return membership.command_of(members), index, term


def test_a_list_survives_its_bytes() -> None:
    for members in (ABC, ABC.with_learner(D), ABC.with_learner(D).with_voter(D), ABC.with_voter(D).without("a")):
        assert membership.decode(membership.encode(members)) == members
        envelope.check(membership.command_of(members))
    assert ABC.with_learner(D).with_voter(D).learners == ()
    assert ABC.without("a").removed == ("a",)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([2, [], [], []]),
        msgspec.msgpack.encode([1, [["a", "", ""]], [], [], []]),
        msgspec.msgpack.encode([1, [["b", "", ""], ["a", "", ""]], [], []]),
        msgspec.msgpack.encode([1, [["a", "", ""]], [["a", "", ""]], []]),
        msgspec.msgpack.encode([1, [["a", "", ""]], [], ["a"]]),
        msgspec.msgpack.encode([1, [[f"n{n}", "", ""] for n in range(10)], [], []]),
        msgspec.msgpack.encode([1, [["a", "", "x" * 3000]], [], []]),
        membership.encode(ABC) + b"\x00",
    ],
)
def test_other_bytes_are_no_list(body: bytes) -> None:
    with pytest.raises(MembershipError):
        membership.decode(body)
    with pytest.raises(envelope.EnvelopeError):
        envelope.check(membership.MARK + body)


def test_a_list_without_voters_is_no_command() -> None:
    with pytest.raises(envelope.EnvelopeError, match="without voters"):
        envelope.check(membership.command_of(Membership()))


def test_the_latest_list_counts_until_it_is_cut_off() -> None:
    log = [(b"\x01", 1, 0)]
    applied = 1
    tracker = MembershipTracker(log, ABC, lambda: applied)
    assert not tracker.refresh()
    more = ABC.with_learner(D)
    log += [(b"\x01", 2, 1), entry(more, 3), (b"\x01", 4, 1)]
    assert tracker.refresh()
    assert (tracker.current, tracker.base, tracker.index, tracker.pending) == (more, ABC, 3, True)
    assert (tracker.at(2), tracker.at(3)) == (ABC, more)
    del log[2:]
    log.append((b"\x01", 3, 2))
    assert tracker.refresh()
    assert (tracker.current, tracker.pending) == (ABC, False)
    log.append(entry(more, 4, 2))
    tracker.refresh()
    applied = 4
    assert tracker.refresh()
    assert (tracker.base, tracker.pending) == (more, False)
    del log[:3]  # compacted
    assert not tracker.refresh()
    tracker.rebase(ABC, 9)
    log[:] = [(b"\x01", 8, 2), entry(more, 9, 2), entry(ABC.with_voter(D), 10, 2)]
    applied = 9
    tracker.refresh()
    assert (tracker.base, tracker.current) == (ABC, ABC.with_voter(D))


def test_the_list_of_the_first_start_is_kept() -> None:
    fs, directory = FaultyFileSystem(), Path("/a")
    fs.make_dir(directory)
    assert membership.load_first(fs, directory, ABC) == ABC
    assert membership.load_first(fs, directory, Membership()) == ABC
    file = fs.open(directory / "members")
    byte = file.read_at(20, 1)
    file.write_at(20, bytes([byte[0] ^ 1]))
    file.close()
    with pytest.raises(LogFailedError, match="damaged"):
        membership.load_first(fs, directory, ABC)
