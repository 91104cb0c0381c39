"""The gate by itself: what waits for what, and in which order it leaves."""

from __future__ import annotations

from dataclasses import dataclass

from raftflow.replication.raft.sync_gate import SyncGate


@dataclass
class Disk:
    write_seq: int = 10
    term_seq: int = 5
    durable_seq: int = 7
    durable_index: int = 3


def make(disk: Disk) -> tuple[SyncGate, list, list]:
    sent: list = []
    counted: list = []
    gate = SyncGate(disk, lambda peer, m: sent.append((peer, m["n"])), lambda peer, m: counted.append((peer, m["n"])))
    return gate, sent, counted


def ack(number: int, *, success: bool = True, index: int = 0) -> dict:
    return {"type": "next_node_idx", "success": success, "next_node_idx": index + 1, "n": number}


def vote(number: int) -> dict:
    return {"type": "response_vote", "n": number}


def test_acknowledgement_waits_for_everything_written_and_keeps_the_order() -> None:
    disk = Disk()
    gate, sent, _ = make(disk)
    gate.emit("b", vote(1))
    gate.emit("b", ack(2))
    gate.emit("b", vote(3))
    gate.emit("c", vote(4))
    assert sent == [("b", 1), ("c", 4)]
    assert gate.is_blocked("b") and not gate.is_blocked("c")
    disk.durable_seq = 9
    gate.advance()
    assert sent == [("b", 1), ("c", 4)]
    disk.durable_seq = 10
    gate.advance()
    assert sent == [("b", 1), ("c", 4), ("b", 2), ("b", 3)]
    assert len(gate) == 0


def test_vote_waits_for_its_term() -> None:
    disk = Disk(term_seq=8)
    gate, sent, _ = make(disk)
    gate.emit("b", vote(1))
    gate.emit("b", ack(2, success=False))
    assert sent == []
    disk.durable_seq = 8
    gate.advance()
    assert sent == [("b", 1), ("b", 2)]


def test_leader_counts_an_acknowledgement_only_up_to_its_own_disk() -> None:
    disk = Disk()
    gate, _, counted = make(disk)
    assert gate.accept("b", ack(1, index=3))
    assert not gate.accept("b", ack(2, index=4))
    assert not gate.accept("b", ack(3, success=False))
    assert gate.accept("c", ack(4, index=2))
    assert counted == [("b", 1), ("c", 4)]
    disk.durable_index = 4
    gate.advance()
    assert counted == [("b", 1), ("c", 4), ("b", 2), ("b", 3)]


def test_what_belongs_to_a_broken_link_is_forgotten() -> None:
    disk = Disk()
    gate, sent, counted = make(disk)
    gate.emit("b", ack(1))
    gate.accept("b", ack(2, index=9))
    gate.accept("c", ack(3, index=9))
    gate.forget("b")
    gate.clear_incoming()
    disk.durable_seq = disk.durable_index = 99
    gate.advance()
    assert sent == counted == []
