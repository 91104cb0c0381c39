"""A transfer is done when the replica that was named leads, and not before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.replication.elections.handover import Handover


class Cluster:
    """What a leader sees of its cluster: `winner` leads once somebody was asked to stand."""

    def __init__(self, winner: str) -> None:
        self.winner = winner
        self.asked: list[str] = []
        self.term, self.last_index = 3, 9
        self.is_leader = True
        self.leader = "n1"
        self.other_voters = {"n2", "n3"}

    def match_index(self, peer: str) -> int:
        return 9 if peer == "n2" else 8

    def transfer_to(self, peer: str) -> bool:
        self.asked.append(peer)
        self.term, self.is_leader, self.leader = 4, False, self.winner
        return True

    def connected(self) -> set[str]:
        return self.other_voters

    def leads(self, _raft: Any) -> bool:
        return self.is_leader

    async def next_change(self) -> None:
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("target", "winner", "moved"), [("n2", "n2", True), ("n2", "n3", False), (None, "n2", True), (None, "n3", True)]
)
async def test_another_winner_is_no_success_if_one_was_named(target: str | None, winner: str, *, moved: bool) -> None:
    cluster: Any = Cluster(winner)
    handover = Handover(cluster, cluster, cluster, lambda: None)
    assert await handover.run(target, 5.0, lambda: False) is moved
    assert cluster.asked == ["n2"]
    assert not handover.active
