"""A replica whose disk was emptied is refused under its old name, on both sides of the link, for good."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from raftflow.replication.members.identity import DataDir
from raftflow.replication.members.introducer import Introducer, PeersFileError
from raftflow.replication.members.introductions import HistoryPosition, Introduction, IntroductionReply
from raftflow.replication.members.membership import MemberInfo, Membership, MembershipVersion
from raftflow.replication.members.starts import PeerRecord, ReplicaStart, StartHistory
from raftflow.replication.real_files import RealFileSystem


def introducer(directory: Path, name: str, *, level: int = 1) -> Introducer:
    fs = RealFileSystem()
    DataDir.open(fs, directory, "c1", name).close()
    return Introducer(fs, directory, level=level)


def words(disk: str) -> Introduction:
    return Introduction(format=1, disk=disk, level=1)


@dataclass
class Birth:
    """What introductions read from a replica's birth."""

    peers_may_change: bool = False
    is_newcomer: bool = False
    is_established: bool = False


def newcomer(directory: Path) -> Introducer:
    made = introducer(directory, "n")
    made.open()
    made.attach(lambda _peer, _reason: None, Birth(is_newcomer=True))
    return made


def member(directory: Path, name: str, disks: dict[str, str], *, established: bool = True) -> Introducer:
    made = introducer(directory, name)
    made.open()
    made.update(
        MembershipVersion(
            members=Membership(tuple([MemberInfo(each) for each in "abc"]), (MemberInfo("n"),)), index=5
        )
    )
    made.remember_disks(disks)
    made.attach(lambda _peer, _reason: None, Birth(is_established=established))
    return made


async def test_a_newcomer_believes_a_member_more_than_its_first_contact(tmp_path: Path) -> None:
    joins = newcomer(tmp_path / "n")
    emptied = words("emptied")
    assert (await joins.judge("a", emptied)) == IntroductionReply(accepted=True)
    b = member(tmp_path / "b", "b", {"a": "disk-a", "c": "disk-c", "old": "disk-old"})
    told = joins.read(b.introduction("n"))
    assert told.disks == {"a": "disk-a", "c": "disk-c"}  # no more than the members
    assert await joins.judge("b", told) is None  # the link to the emptied replica must go
    assert joins.known["a"] == "disk-a"
    assert (await joins.judge("b", told)) == IntroductionReply(accepted=True)
    refused = await joins.judge("a", emptied)
    assert refused is not None
    assert refused.emptied
    assert (await joins.judge("a", words("disk-a"))) == IntroductionReply(accepted=True)
    # It is on the disk.
    again = introducer(tmp_path / "n", "n")
    again.open()
    assert again.known == {"a": "disk-a", "b": told.disk, "c": "disk-c"}


async def test_members_that_contradict_each_other_do_not_break_links_again_and_again(tmp_path: Path) -> None:
    joins = newcomer(tmp_path / "n")
    b = joins.read(member(tmp_path / "b", "b", {"a": "one"}).introduction("n"))
    c = joins.read(member(tmp_path / "c", "c", {"a": "another"}).introduction("n"))
    for _ in range(2):
        assert await joins.judge("b", b) == IntroductionReply(accepted=True)
        assert await joins.judge("c", c) == IntroductionReply(accepted=True)
    assert joins.known["a"] == "one"


async def test_only_a_newcomer_takes_disks_and_only_members_with_data_tell_them(tmp_path: Path) -> None:
    joins = newcomer(tmp_path / "n")
    b = member(tmp_path / "b", "b", {"a": "disk-a"}, established=False)
    assert joins.read(b.introduction("n")).disks == {}
    settled = introducer(tmp_path / "c", "c")
    settled.open()
    settled.attach(lambda _peer, _reason: None, Birth(is_established=True))
    assert (await settled.judge("a", words("disk-a"))) == IntroductionReply(accepted=True)
    assert (await settled.judge("b", replace(words("disk-b"), disks={"a": "x", "d": "y"}))).accepted
    assert settled.known == {"a": "disk-a", "b": "disk-b"}


def test_a_disk_is_remembered_over_restarts(tmp_path: Path) -> None:
    first = introducer(tmp_path, "a")
    first.open()
    assert first.judge_disk("b", words("disk-b")).accepted
    again = introducer(tmp_path, "a")
    again.open()
    assert again.judge_disk("b", words("disk-b")).accepted
    answer = again.judge_disk("b", words("another"))
    assert not answer.accepted
    assert "join under a new name" in answer.reason
    assert again.judge_disk("b", words("disk-b")).accepted


@pytest.mark.parametrize("at", [0, 10, 30, -3])
def test_a_damaged_memory_is_refused(tmp_path: Path, at: int) -> None:
    first = introducer(tmp_path, "a")
    first.open()
    first.judge_disk("b", words("disk-b"))
    data = bytearray((tmp_path / "peers").read_bytes())
    data[at] ^= 1
    (tmp_path / "peers").write_bytes(bytes(data))
    with pytest.raises(PeersFileError, match="peers is damaged"):
        introducer(tmp_path, "a").open()


def test_unknown_keys_are_ignored_and_garbage_is_not_taken(tmp_path: Path) -> None:
    first = introducer(tmp_path, "a")
    first.open()
    later = msgspec.msgpack.encode({"format": 2, "disk": "disk-b", "level": 3, "more": [1]})
    told = first.read(later)
    assert (told.level, told.members) == (3, ())
    assert first.judge_disk("b", told).accepted
    for frame in (b"", b"\xc1", msgspec.msgpack.encode({"format": 1}), msgspec.msgpack.encode(words(""))):
        with pytest.raises(ValueError, match=r".+"):
            first.read(frame)


async def test_links_are_up_when_both_have_accepted(world: Any, tmp_path: Path) -> None:
    b = await world.node("b", peers={"a"}, introducer=introducer(tmp_path / "b", "b", level=3))
    a = await world.node("a", addresses={"b": b.address}, introducer=introducer(tmp_path / "a", "a", level=2))
    await a.until(lambda: a.ups_and_downs("b") == ["up"])
    await b.until(lambda: b.ups_and_downs("a") == ["up"])
    assert (a.links.levels(), b.links.levels()) == ({"b": 3}, {"a": 2})
    assert a.links.send("b", b"frame")
    await b.until(lambda: b.frames == [b"frame"])
    assert a.frames == []


@pytest.mark.parametrize("wiped", ["a", "b"])
async def test_a_wiped_replica_is_refused_and_told(
    world: Any, tmp_path: Path, wiped: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever dials: here `a` does."""
    b = await world.node("b", peers={"a"}, introducer=introducer(tmp_path / "b", "b"))
    port = b.links.port
    a = await world.node("a", addresses={"b": b.address}, introducer=introducer(tmp_path / "a", "a"))
    await b.until(lambda: b.ups_and_downs("a") == ["up"])
    await a.until(lambda: a.ups_and_downs("b") == ["up"])
    nodes = {"a": a, "b": b}
    await nodes[wiped].links.close()
    fresh = introducer(tmp_path / "wiped", wiped)
    if wiped == "a":
        nodes["a"] = await world.node("a", addresses={"b": b.address}, introducer=fresh)
    else:
        nodes["b"] = await world.node("b", peers={"a"}, port=port, introducer=fresh)
    whole, emptied = nodes["b" if wiped == "a" else "a"], nodes[wiped]
    await whole.until(lambda: whole.links.stats["refused_disk"] > 0)
    await emptied.until(lambda: emptied.links.stats["refused_by_peer_disk"] > 0)
    assert emptied.ups_and_downs(whole.name) == []
    assert whole.links.levels() == {}
    assert "it refuses this replica" in caplog.text
    assert "join under a new name" in caplog.text


class FakeLog:
    """Stands for the log of a replica."""

    term = 3
    last_index = 10
    repairing = False
    pre_votes = True
    election_min_ms = 300

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def note_peer(self, peer: str, starts: Any) -> None:
        self.heard.append(("looks at", peer))

    def begin_repair(self, peer: str, why: str) -> bool:
        self.repairing = True
        self.heard.append(("put back", peer))
        return True

    def check_introduction(self, peer: str, told: Introduction) -> str:
        return "its term is absurd" if told.term > 100 else ""

    def note_removal_claim(self, peer: str) -> None:
        self.heard.append(("removed", peer))

    def note_other_history(self, peer: str, why: str) -> None:
        self.heard.append(("differs", peer))


class Past:
    """Stands for the history of a replica."""

    def __init__(self, chains: dict[int, bytes]) -> None:
        self.chains = chains

    def point(self) -> HistoryPosition:
        return HistoryPosition(max(self.chains), self.chains[max(self.chains)])

    async def chain_after(self, index: int) -> bytes | None:
        return self.chains.get(index)


async def test_a_disk_that_was_put_back_is_under_repair_before_a_link_is_up(world: Any, tmp_path: Path) -> None:
    first = introducer(tmp_path / "a", "a")
    shutil.copytree(tmp_path / "a", tmp_path / "old")
    b = await world.node("b", peers={"a"}, introducer=introducer(tmp_path / "b", "b"))
    a = await world.node("a", addresses={"b": b.address}, introducer=first)
    await a.until(lambda: a.is_up("b"))
    await b.until(lambda: b.is_up("a"))
    await a.links.close()
    old = introducer(tmp_path / "old", "a")
    old.log = log = FakeLog()
    late = await world.node("a", addresses={"b": b.address}, introducer=old)
    await late.until(lambda: late.is_up("b"))
    assert ("put back", "b") in log.heard
    assert log.repairing
    await b.until(lambda: b.ups_and_downs("a") == ["up", "down", "up"])


async def test_the_start_of_a_peer_is_on_disk_before_its_link_is_up(world: Any, tmp_path: Path) -> None:
    mine, theirs = introducer(tmp_path / "b", "b"), introducer(tmp_path / "a", "a")
    b = await world.node("b", peers={"a"}, introducer=mine)
    a = await world.node("a", addresses={"b": b.address}, introducer=theirs)
    await b.until(lambda: b.is_up("a"))
    shutil.copytree(tmp_path / "b", tmp_path / "as power fails now")
    again = StartHistory(RealFileSystem(), tmp_path / "as power fails now")
    again.open()
    seen = again.peer_record("a")
    assert seen is not None and seen.start == theirs.starts.mine
    await a.until(lambda: a.is_up("b"))


def test_what_is_remembered_of_another_disk_says_nothing_about_this_one(tmp_path: Path) -> None:
    mine = introducer(tmp_path / "a", "a")
    mine.open()
    mine.log = log = FakeLog()
    seen = PeerRecord(start=ReplicaStart(99, "of another disk"))
    told = Introduction(format=1, disk="b", level=5, seen=seen, seen_disk="another")
    assert not mine.check_own_disk("b", told)
    assert ("put back", "b") not in log.heard
    assert mine.check_own_disk("b", replace(told, seen_disk=mine.introduction_to("b").disk))
    assert ("put back", "b") in log.heard
    assert mine.starts.mine.number == 100


def test_what_is_told_first_and_when_it_is_forgotten(tmp_path: Path) -> None:
    mine = introducer(tmp_path / "a", "a", level=5)
    mine.open()
    mine.log, mine.history = FakeLog(), Past({4: b"chain"})
    start = ReplicaStart(7, "x")
    assert mine.judge_disk("b", replace(words("disk-b"), start=start)).accepted
    told = mine.read(mine.introduction("b"))
    assert ("looks at", "b") in mine.log.heard  # so that what is told is new
    assert (told.level, told.start, told.seen, told.seen_disk) == (
        5,
        mine.starts.mine,
        PeerRecord(start=start),
        "disk-b",
    )
    assert (told.term, told.repairing, told.point) == (3, False, HistoryPosition(4, b"chain"))
    # Another disk takes the place of the one that was met: what was known of that is over.
    mine.starts.note_progress("b", index=9, term=2)
    mine.attach(lambda _peer, _reason: None, Birth(peers_may_change=True))
    assert mine.judge_disk("b", replace(words("another"), start=ReplicaStart(1, "y"))).accepted
    assert mine.starts.peer_record("b") == PeerRecord(start=ReplicaStart(1, "y"))
    mine.update(MembershipVersion(removed=("b",)))
    assert mine.starts.peer_record("b") is None


@pytest.mark.parametrize(
    ("emptied", "stranger", "heard"),
    [(True, False, ["b"]), (False, False, []), (False, True, []), (None, False, ["b"]), (None, True, [])],
)
def test_a_refusal_calls_a_replica_emptied_or_does_not(
    tmp_path: Path, *, emptied: bool | None, stranger: bool, heard: list[str]
) -> None:
    """A version that does not say it (None) refuses strangers and emptied ones alone."""
    mine = introducer(tmp_path / "a", "a")
    told: list[str] = []
    mine.attach(lambda peer, _reason: told.append(peer), lambda: False)
    mine.note_refusal("b", IntroductionReply(accepted=False, reason="no", stranger=stranger, emptied=emptied))
    assert told == heard


async def test_a_peer_that_does_not_notice_that_its_disk_was_put_back_is_refused(world: Any, tmp_path: Path) -> None:
    first = introducer(tmp_path / "a", "a")
    shutil.copytree(tmp_path / "a", tmp_path / "old")
    b = await world.node("b", peers={"a"}, introducer=introducer(tmp_path / "b", "b"))
    a = await world.node("a", addresses={"b": b.address}, introducer=first)
    await a.until(lambda: a.is_up("b"))
    await a.links.close()
    old = introducer(tmp_path / "old", "a")  # without a log that looks
    late = await world.node("a", addresses={"b": b.address}, introducer=old)
    await late.until_counted("refused_by_peer_disk")
    assert late.ups_and_downs("b") == []


async def test_who_has_another_history_gets_no_link_and_hears_why(world: Any, tmp_path: Path) -> None:
    ahead, behind = introducer(tmp_path / "b", "b"), introducer(tmp_path / "a", "a")
    ahead.history, behind.history = Past({5: b"right", 9: b"later"}), Past({5: b"wrong"})
    behind.log = log = FakeLog()
    b = await world.node("b", peers={"a"}, introducer=ahead)
    a = await world.node("a", addresses={"b": b.address}, introducer=behind)
    await a.until_counted("refused_by_peer_history")
    await a.until(lambda: ("differs", "b") in log.heard)
    assert a.ups_and_downs("b") == []
    behind.history = Past({5: b"right"})
    await a.until(lambda: a.is_up("b"))


async def test_a_peer_with_an_absurd_term_gets_no_link(world: Any, tmp_path: Path) -> None:
    mine, theirs = introducer(tmp_path / "b", "b"), introducer(tmp_path / "a", "a")
    mine.log, theirs.log = FakeLog(), FakeLog()
    theirs.log.term = 10**9
    b = await world.node("b", peers={"a"}, introducer=mine)
    a = await world.node("a", addresses={"b": b.address}, introducer=theirs)
    await a.until_counted("refused_by_peer_disk")
    assert a.ups_and_downs("b") == []


async def test_who_was_removed_is_not_dialled_and_hears_of_it_when_it_dials(world: Any, tmp_path: Path) -> None:
    mine, theirs = introducer(tmp_path / "b", "b"), introducer(tmp_path / "a", "a")
    theirs.log = log = FakeLog()
    b = await world.node("b", introducer=mine)
    mine.update(MembershipVersion(removed=("a",)))
    a = await world.node("a", addresses={"b": b.address}, introducer=theirs)
    await a.until(lambda: ("removed", "b") in log.heard)
    assert a.ups_and_downs("b") == []


async def test_what_a_peer_with_another_history_remembers_puts_nobody_under_repair(tmp_path: Path) -> None:
    mine = introducer(tmp_path / "a", "a")
    mine.open()
    mine.log, mine.history = log, _ = FakeLog(), Past({4: b"chain", 3: b"here"})
    told = Introduction(
        format=1,
        disk="b",
        level=5,
        seen=PeerRecord(start=ReplicaStart(99, "x")),
        seen_disk=mine.introduction_to("b").disk,
    )
    answer = await mine.judge("b", replace(told, point=HistoryPosition(3, b"there")))
    assert answer is not None and (answer.accepted, answer.differs) == (False, True)
    assert ("put back", "b") not in log.heard
    # One whose history is the same, or longer, is believed.
    for point in (HistoryPosition(3, b"here"), HistoryPosition(5, b"there"), None):
        log.heard.clear()
        assert await mine.judge("b", replace(told, point=point)) is None
        assert ("put back", "b") in log.heard
        told = replace(told, seen=PeerRecord(start=ReplicaStart(told.seen.start.number + 99, "x")))
