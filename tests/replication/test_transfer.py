"""When a follower takes a snapshot: after its history was compared with the leader's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raftflow.replication.members.introductions import Introducer, Point
from raftflow.replication.snapshot.transfer import IncomingTransfer
from raftflow.simulation.world.disk import FaultyFileSystem

BEGIN = {"type": "snapshot_begin", "term": 3, "transfer_id": 1, "index": 40, "snap_term": 2, "size": 10}


class Follower:
    """A receiver whose surroundings write down what it does."""

    def __init__(self, *, covered: bool = False) -> None:
        self.seen: list[Any] = []
        self.compared = False
        guard = SimpleNamespace(
            follows=lambda _peer, _term: True,
            covers=lambda _index, _term: covered,
            acknowledge_covered=lambda _peer, index: self.seen.append(("covered", index)),
            is_up=lambda _peer: True,
        )
        store = SimpleNamespace(
            receiver=lambda: SimpleNamespace(
                begin=lambda size: self.seen.append(("begins", size)), abort=lambda: self.seen.append("given up")
            )
        )
        self.receiver = IncomingTransfer(
            guard,  # type: ignore[arg-type]
            store,  # type: ignore[arg-type]
            lambda _peer, message: self.seen.append((message["type"], message["status"])),
            prepare=None,  # type: ignore[arg-type]
            install=None,  # type: ignore[arg-type]
            driver=None,  # type: ignore[arg-type]
            alive_s=1.0,
            compared=lambda _peer: self.compared,
            reset=lambda peer: self.seen.append(("link made anew", peer)),
        )


def test_a_snapshot_begins_only_after_histories_were_compared() -> None:
    follower = Follower()
    follower.receiver.receive("a", BEGIN)
    assert follower.seen == [("link made anew", "a")]
    follower.seen.clear()
    follower.compared = True
    follower.receiver.receive("a", BEGIN)
    assert follower.seen == [("begins", 10), ("snapshot_ack", "more")]


def test_nothing_is_compared_for_a_snapshot_that_is_not_needed() -> None:
    follower = Follower(covered=True)
    follower.receiver.receive("a", BEGIN)
    assert follower.seen == [("snapshot_ack", "done"), ("covered", 40)]


def test_a_history_is_compared_again_when_it_has_gone_on() -> None:
    introducer = Introducer(FaultyFileSystem(), Path("/data"), level=5)
    assert introducer.is_compared("a")  # nothing was applied here
    applied = 7
    introducer.history = SimpleNamespace(point=lambda: Point(applied, b"chain"))  # type: ignore[assignment]
    assert not introducer.is_compared("a")
    introducer.starts = SimpleNamespace(mine=None, of=lambda _peer: None)  # type: ignore[assignment]
    assert introducer.introduce_to("a").point == Point(7, b"chain")
    assert introducer.is_compared("a")
    assert not introducer.is_compared("b")
    applied = 8
    assert not introducer.is_compared("a")
