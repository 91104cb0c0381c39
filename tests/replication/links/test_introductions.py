"""A replica whose disk was emptied is refused under its old name, on both sides of the link, for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.replication.files import RealFileSystem
from raftflow.replication.identity import DataDir
from raftflow.replication.introductions import Introducer, Introduction, PeersFileError


def introducer(directory: Path, name: str, *, level: int = 1) -> Introducer:
    fs = RealFileSystem()
    DataDir.open(fs, directory, "c1", name).close()
    return Introducer(fs, directory, level=level)


def words(disk: str) -> Introduction:
    return Introduction(format=1, disk=disk, level=1)


def test_a_disk_is_remembered_over_restarts(tmp_path: Path) -> None:
    first = introducer(tmp_path, "a")
    first.open()
    assert first.meet("b", words("disk-b")).accepted
    again = introducer(tmp_path, "a")
    again.open()
    assert again.meet("b", words("disk-b")).accepted
    answer = again.meet("b", words("another"))
    assert not answer.accepted
    assert "join under a new name" in answer.reason
    assert again.meet("b", words("disk-b")).accepted


@pytest.mark.parametrize("at", [0, 10, 30, -3])
def test_a_damaged_memory_is_refused(tmp_path: Path, at: int) -> None:
    first = introducer(tmp_path, "a")
    first.open()
    first.meet("b", words("disk-b"))
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
    assert first.meet("b", told).accepted
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
