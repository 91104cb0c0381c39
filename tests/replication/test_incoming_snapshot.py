"""When a follower accepts a snapshot: after its history was compared with the leader's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raftflow.replication.members.introducer import Introducer
from raftflow.replication.members.introductions import HistoryPosition
from raftflow.replication.snapshot.incoming import IncomingSnapshot
from raftflow.replication.storage.snapshot_store import SnapshotStore
from raftflow.simulation.world.disk import FaultyFileSystem

BEGIN = {"type": "snapshot_begin", "term": 3, "transfer_id": 1, "index": 40, "snap_term": 2, "size": 10}
DIRECTORY = Path("/data/snapshots")


class Follower:
    """An incoming snapshot whose surroundings write down what it does."""

    def __init__(self, *, covered: bool = False) -> None:
        self.seen: list[Any] = []
        self.compared = False
        self.fs = FaultyFileSystem()
        follower = SimpleNamespace(
            follows=lambda _peer, _term: True,
            covers=lambda _index, _term: covered,
            acknowledge_covered=lambda _peer, index: self.seen.append(("covered", index)),
        )
        guard: Any = SimpleNamespace(follower=follower, is_up=lambda _peer: True)
        unused: Any = None
        self.incoming = IncomingSnapshot(
            self.fs,
            SnapshotStore(self.fs, DIRECTORY),
            guard,
            lambda _peer, message: self.seen.append((message["type"], message["status"])),
            restorer=unused,
            writer=unused,
            driver=unused,
            alive_s=1.0,
            is_compared=lambda _peer: self.compared,
            reset_link=lambda peer: self.seen.append(("link reset", peer)),
            postpone_election=unused,
        )


def test_a_snapshot_begins_only_after_histories_were_compared() -> None:
    follower = Follower()
    follower.incoming.receive("a", BEGIN)
    assert follower.seen == [("link reset", "a")]
    assert follower.fs.list_dir(DIRECTORY) == []
    follower.seen.clear()
    follower.compared = True
    follower.incoming.receive("a", BEGIN)
    assert follower.seen == [("snapshot_ack", "more")]
    assert follower.fs.list_dir(DIRECTORY) == ["1.partial"]


def test_a_broken_link_drops_the_partial_file() -> None:
    follower = Follower()
    follower.compared = True
    follower.incoming.receive("a", BEGIN)
    follower.incoming.receive("a", {**BEGIN, "type": "snapshot_chunk", "offset": 0, "data": b"12345"})
    follower.incoming.cancel("b")
    assert follower.fs.list_dir(DIRECTORY) == ["1.partial"]
    follower.incoming.cancel("a")
    assert follower.fs.list_dir(DIRECTORY) == []


def test_a_chunk_that_does_not_continue_the_file_is_refused() -> None:
    follower = Follower()
    follower.compared = True
    follower.incoming.receive("a", BEGIN)
    follower.incoming.receive("a", {**BEGIN, "type": "snapshot_chunk", "offset": 5, "data": b"12345"})
    assert follower.seen == [("snapshot_ack", "more"), ("snapshot_ack", "refused")]
    assert follower.fs.list_dir(DIRECTORY) == []


def test_nothing_is_compared_for_a_snapshot_that_is_not_needed() -> None:
    follower = Follower(covered=True)
    follower.incoming.receive("a", BEGIN)
    assert follower.seen == [("snapshot_ack", "done"), ("covered", 40)]


def test_a_history_is_compared_again_when_it_has_gone_on() -> None:
    introducer = Introducer(FaultyFileSystem(), Path("/data"), level=5)
    assert introducer.is_compared("a")  # nothing was applied here
    applied = 7
    introducer.history = SimpleNamespace(point=lambda: HistoryPosition(applied, b"chain"))  # type: ignore[assignment]
    assert not introducer.is_compared("a")
    introducer.starts = SimpleNamespace(mine=None, peer_record=lambda _peer: None)  # type: ignore[assignment]
    assert introducer.introduction_to("a").point == HistoryPosition(7, b"chain")
    assert introducer.is_compared("a")
    assert not introducer.is_compared("b")
    applied = 8
    assert not introducer.is_compared("a")
