"""A replica is dialled by members that it does not know, and takes those in that know a newer list of members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raftflow.replication.members.identity import DataDir
from raftflow.replication.members.introducer import Introducer
from raftflow.replication.members.membership import Membership, MembershipVersion
from raftflow.replication.real_files import RealFileSystem


def introducer(directory: Path, name: str, version: MembershipVersion) -> Introducer:
    fs = RealFileSystem()
    DataDir.open(fs, directory, "c1", name).close()
    made = Introducer(fs, directory, level=3)
    made.update(version)
    return made


FOUNDERS = MembershipVersion(Membership.of("bxy"), 0, 0)


def now(names: str, index: int = 9) -> MembershipVersion:
    return MembershipVersion(Membership.of(names), index, index)


@pytest.mark.parametrize("member", ["a", "c"], ids=["who dials anyway", "who should be dialled"])
async def test_a_member_that_is_not_known_gets_through(world: Any, tmp_path: Path, member: str) -> None:
    """b was away while x and y were replaced. When it has the list itself, the link stays and is one of a peer."""
    lost = introducer(tmp_path / "b", "b", FOUNDERS)
    b = await world.node("b", peers="xy", introducer=lost)
    known = now(f"b{member}z")
    other = await world.node(
        member, addresses={"b": b.address}, introducer=introducer(tmp_path / member, member, known)
    )
    await b.until(lambda: b.is_up(member))
    await other.until(lambda: other.is_up("b"))
    assert b.links.levels() == {member: 3}
    assert other.links.send("b", b"entries")
    await b.until(lambda: b.frames == [b"entries"])
    lost.update(known)
    b.links.set_peers({member: other.address})
    assert b.ups_and_downs(member) == ["up"]
    assert b.links.send(member, b"thanks")
    await other.until(lambda: other.frames == [b"thanks"])


async def test_a_guest_has_to_go_when_the_newer_list_is_without_it(world: Any, tmp_path: Path) -> None:
    lost = introducer(tmp_path / "b", "b", FOUNDERS)
    b = await world.node("b", peers="xy", introducer=lost)
    a = await world.node("a", addresses={"b": b.address}, introducer=introducer(tmp_path / "a", "a", now("abz")))
    await b.until(lambda: b.is_up("a"))
    lost.update(now("bdz", 12))
    b.links.set_peers({})
    await b.until(lambda: b.ups_and_downs("a") == ["up", "down"])
    await a.until_counted("refused_by_peer_unknown_peer")


@pytest.mark.parametrize(
    "version", [now("abz", 4), now("az"), now("bz"), FOUNDERS], ids=["older", "without b", "without a", "founders"]
)
async def test_a_stranger_without_a_newer_list_is_refused(
    world: Any, tmp_path: Path, version: MembershipVersion, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not even remembered, so that nobody can use up a name, or the room for names."""
    at_home = introducer(tmp_path / "b", "b", now("bxy", 5))
    b = await world.node("b", peers="xy", introducer=at_home)
    a = await world.node("a", addresses={"b": b.address}, introducer=introducer(tmp_path / "a", "a", version))
    await b.until_counted("refused_unknown_peer", 2)
    await a.until_counted("refused_by_peer_unknown_peer", 2)
    assert a.events == b.events == []
    assert at_home.known == {}
    assert "compare the peer lists" in caplog.text


async def test_two_that_look_for_each_other_end_with_one_link(world: Any, tmp_path: Path) -> None:
    """b, which should be the dialled one, dials as well while there is no link: it is refused, quietly."""
    limits = world.limits(seek_s=0.01)
    a = await world.node("a", introducer=introducer(tmp_path / "a", "a", now("ab")))
    b = await world.node(
        "b", addresses={"a": a.address}, limits=limits, introducer=introducer(tmp_path / "b", "b", now("ab"))
    )
    a.links.set_peers({"b": ("127.0.0.1", 1)})  # there nobody listens
    await b.until_counted("refused_by_peer_wrong_direction", 2)
    assert a.events == b.events == []
    a.links.set_peers({})
    a.links.set_peers({"b": b.address})
    await b.until(lambda: b.is_up("a"))
    await a.until(lambda: a.is_up("b"))
