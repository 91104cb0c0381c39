"""A peer that holds the secret and is wrong: nothing that it says stops the others for good."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from bare_cluster import Bare
from virtual_cluster import Cluster, run_virtual

from raftflow.replication.errors import RemovedError
from raftflow.replication.log import Applied
from raftflow.replication.messages import wire
from raftflow.replication.raft.bounds import TERMS_AHEAD_MAX, MessageBounds, claims_needed
from raftflow.simulation.world.disk import Loss

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = (2**63 - 1, 2**62, 2**40, TERMS_AHEAD_MAX * 2)
NUMBERS = (0, 1, 2, 3, 17, 1000, *BIG)
MESSAGES = 300


def lies(rng: random.Random, term: int) -> Iterator[dict[str, object]]:
    """Yield messages of every kind with numbers that are right, nearly right, and absurd.

    But none by which it claims to lead: whoever leads writes the log.
    """
    terms = (term, term, max(1, term - 1), *BIG)
    while True:
        head = {"term": rng.choice(terms)}
        number = lambda: rng.choice((*NUMBERS, rng.randrange(50)))  # noqa: E731 - short
        yield rng.choice(
            (
                {"type": "removed", **head},
                {"type": "request_vote", "last_log_index": number(), "last_log_term": number(), **head},
                {"type": "response_vote", **head},
                {"type": "pre_vote", "last_log_index": number(), "last_log_term": number(), "seq": number(), **head},
                {"type": "pre_vote_granted", "seq": number(), **head},
                {"type": "pre_vote_refused", "seq": number(), "voter_term": number(), **head},
                {"type": "timeout_now", **head},
                {"type": "read_probe", "seq": number(), **head},
                {"type": "read_ack", "seq": number(), **head},
                {
                    "type": "next_node_idx",
                    "next_node_idx": number(),
                    "reset": rng.random() < 0.5,
                    "success": rng.random() < 0.5,
                    **head,
                },
                {"type": "append_entries", "commit_index": number(), "term": rng.choice(BIG)},
                {
                    "type": "snapshot_begin",
                    "transfer_id": number(),
                    "index": number(),
                    "snap_term": number(),
                    "size": number(),
                    **head,
                },
                {"type": "snapshot_chunk", "transfer_id": number(), "offset": number(), "data": b"x", **head},
                {"type": "snapshot_end", "transfer_id": number(), **head},
                {"type": "snapshot_ack", "transfer_id": number(), "offset": number(), "status": "more", **head},
            )
        )


async def among_lies(seed: int) -> list[str]:
    """c tells lies to a and b, while entries are written and after all have started again."""
    cluster = Cluster(seed, replicas=3)
    await cluster.start()
    assert await cluster.wait(lambda: cluster.leader() and len(cluster.network.connections) == 3)
    rng = random.Random(seed)
    sent = 0
    for message in lies(rng, 1):
        term = max(cluster.logs[name].status().term for name in "ab")
        if message["term"] < TERMS_AHEAD_MAX:
            message["term"] = max(1, term - rng.randrange(2))
        for target in "ab":
            frame = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 60)))
            if rng.random() < 0.9:
                try:
                    frame = wire.encode(message)
                except wire.FrameError:
                    continue
            sent += cluster.links["c"].send(target, frame)
        await asyncio.sleep(0.01)
        await cluster.wait(lambda: len(cluster.network.connections) == 3, 1.0)
        if sent >= MESSAGES:
            break
    cluster.crash("c", Loss.NONE)
    wrong = [f"{name} has stopped: {cluster.logs[name].failure}" for name in "ab" if cluster.logs[name].failure]
    if not wrong:
        leader = await cluster.elect()
        wrong += [] if isinstance(await cluster.put(leader), Applied) else ["nothing is acknowledged"]
    for name in "ab":
        cluster.crash(name, Loss.NONE)
    await cluster.start("a", "b")
    leader = await cluster.elect()
    if not isinstance(await cluster.put(leader), Applied):
        wrong.append("nothing is acknowledged after a restart")
    if cluster.logs[leader].status().term > TERMS_AHEAD_MAX:
        wrong.append("an absurd term was stored")
    await cluster.close()
    return wrong


@pytest.mark.parametrize("seed", range(4))
def test_lies_of_one_peer_stop_nobody_for_good(seed: int) -> None:
    assert run_virtual(among_lies(seed), seed) == []


class _Raft:
    term = 5
    is_leader = True
    last_index = 100


def test_a_term_far_ahead_is_believed_of_two_peers() -> None:
    bounds = MessageBounds(_Raft())  # type: ignore[arg-type]
    far = 5 + TERMS_AHEAD_MAX
    assert bounds.term_problem("b", far) == ""
    assert "need a second peer" in bounds.term_problem("b", far + 1)
    assert "need a second peer" in bounds.term_problem("b", far + 2)
    assert "need a second peer" in bounds.term_problem("liar", 2**60)
    assert bounds.term_problem("c", far + 1) == ""
    assert bounds.term_problem("b", far + 1) == ""
    assert "need a second peer" in bounds.term_problem("liar", 2**60)


def test_an_acknowledgement_beyond_the_end_of_the_log_is_none() -> None:
    bounds = MessageBounds(_Raft())  # type: ignore[arg-type]
    answer = {"type": "next_node_idx", "term": 5, "success": True, "reset": False}
    assert bounds.problem("b", {**answer, "next_node_idx": 101}) == ""
    assert "acknowledges entry 101" in bounds.problem("b", {**answer, "next_node_idx": 102})


@pytest.mark.parametrize(("names", "tellers"), [("ABC", 2), ("ABCD", 2), ("ABCDE", 3), ("ABCDEFG", 4)])
def test_a_removal_is_believed_of_a_majority_of_the_others(names: str, tellers: int) -> None:
    cluster = Bare(names)
    others = [name for name in names if name != "A"]
    assert claims_needed(others) == tellers
    guard = cluster["A"].guard
    for peer in [*others[: tellers - 1], *others[: tellers - 1], "stranger"]:
        guard.receive(peer, {"type": "removed", "term": 1})
    with pytest.raises(RemovedError, match="removed from the cluster"):
        guard.receive(others[tellers - 1], {"type": "removed", "term": 1})
