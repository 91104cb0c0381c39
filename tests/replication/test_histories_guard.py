"""One short history for each rule of the guard: with the rule nothing is lost, without it something is.

Each history returns what went wrong. They are told message by message; `bare_cluster.Bare` delivers nothing by
itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bare_cluster import Bare

from raftflow.replication.raft.library_types import LibraryFailure
from raftflow.replication.raft.rules import Rule, SafetyViolationError

if TYPE_CHECKING:
    from collections.abc import Callable

Rules = frozenset[Rule]


def words(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def late_acknowledgement(off: Rules) -> list[str]:
    """T1: an acknowledgement of term 1 arrives when its receiver leads term 3, and is counted there."""
    c = Bare("ABCDE", disabled_rules=off)
    slow = ("B", "A")
    c.elect("A")
    c.run(6)
    c.cut("A", "C", "D", "E")
    c.put("A", *words("one", 10))
    c.tick("A", 2)
    c.deliver("A", "B")
    assert c.waiting(*slow, "next_node_idx")  # and there it stays
    c.elect("C", among="DE")
    for peer in "CDE":
        c.connect("A", peer)
    c.run(15, without=(slow,))
    c.campaign("A")
    for peer in "CDE":
        c.deliver("A", peer)
    for peer in "CDE":
        c.deliver(peer, "A")
    assert c["A"].raft.is_leader
    c.deliver(*slow)
    c.cut("A", "B", "C", "E")
    c.put("A", *words("three", 5))
    for _ in range(6):
        c.tick("A")
        c.deliver("A", "D")
        c.deliver("D", "A")
    acked = c.acked
    c.cut("A")
    c.cut("D", "B", "C", "E")
    c.elect("C", among="BE")
    c.run(10, among="BCE")
    return [word for word in acked if word not in c["C"].applied]


def duplicate_append(off: Rules) -> list[str]:
    """T2: one of several appends arrives again, and the follower cuts off what it acknowledged behind it."""
    c = Bare(disabled_rules=off, batch=2)
    c.elect("A")
    c.run(6)
    c.cut("A", "C")
    c.put("A", *words("w", 8))
    c.tick("A", 2)
    c.deliver("A", "B")
    last = c["B"].raft.last_index
    acknowledgements = c.waiting("B", "A", "next_node_idx")
    assert [message["next_node_idx"] for message in acknowledgements[-4:]] == [last - 5, last - 3, last - 1, last + 1]
    c.deliver("B", "A", len(acknowledgements) - 3)  # the first of four; the others are on their way
    c["A"].raft.set_next_index("B", last - 5)  # where the library goes on from
    c.tick("A")
    c.deliver("B", "A")
    c.tick("A")
    assert len(c.acked) == 8
    while c.queues["A", "B"] and not c.queues["A", "B"][0].get("entries"):
        c.deliver("A", "B", 1)
    c.deliver("A", "B", 1)
    c.cut("A")
    c.connect("B", "C")
    c.elect("B", among="C")
    c.run(10, among="BC")
    return [word for word in c.acked if word not in c["B"].applied]


def conflicting_tail(off: Rules) -> list[str]:
    """T3: a follower with a conflicting tail and a leader with more to send than one append carries never agree."""
    c = Bare(disabled_rules=off, batch=2)
    c.elect("A")
    c.run(5)
    c.cut("A")
    c.put("A", *words("old", 3))
    c.tick("A", 2)
    c.elect("B", among="C")
    c.run(5, among="BC")
    c.put("B", *words("new", 20))
    c.run(30, among="BC")
    c.elect("C", among="B")
    c.run(20, among="BC")
    c.connect("A", "C")
    for _ in range(60):
        c.tick("C")
        c.deliver("C", "A")
        c.deliver("A", "C")
        c.tick("A")
    return [word for word in words("new", 20) if word not in c["A"].applied]


def heartbeat_without_position(off: Rules) -> list[str]:
    """T4: while a snapshot travels, the commit index of a heartbeat covers entries that were never compared."""
    c = Bare(disabled_rules=off)
    c.elect("A")
    c.run(5)
    c.cut("A")
    c.put("A", *words("lost", 5))
    c.tick("A", 3)
    c.elect("B", among="C")
    c.run(5, among="BC")
    c.put("B", *words("kept", 20))
    c.run(10, among="BC")
    c["B"].compact()
    c.connect("A", "B")
    c.connect("A", "C")
    for _ in range(6):
        c.tick("B")
        while c.deliver("B", "A", 1):
            c.tick("A")
        c.deliver("A", "B")
    return [word for word in c.acked if word.startswith("lost")]


def unreadable_snapshot(off: Rules) -> list[str]:
    """T5: a follower that cannot load the snapshot acknowledges its own, uncommitted, longer log."""
    c = Bare(disabled_rules=off)
    c.elect("A")
    c.run(5)
    c.cut("A")
    c.put("A", *words("stale", 28))
    c.tick("A", 2)
    c.elect("B", among="C")
    c.run(5, among="BC")
    c.put("B", *words("ok", 10))
    c.run(8, among="BC")
    c["B"].compact()
    c["A"].load_fails = True
    c.connect("A", "B")
    c.cut("B", "C")
    c.put("B", *words("new", 6))
    for _ in range(4):
        c.tick("B")
        c.deliver("B", "A")
        c.deliver("A", "B")
    c.tick("B", 3)
    held = {command[10:-3].decode() for command, _index, _term in c.journals["A"].entries}
    return [word for word in c.acked if word.startswith("new") and word not in held]


def forwarded_command(off: Rules) -> list[str]:
    """T6: numbers of forwarded commands begin anew after a restart; an old answer is taken for a new command's."""
    c = Bare(disabled_rules=off)
    c.elect("A")
    c.run(6)
    c.put("B", "old")
    c.tick("B")
    c.deliver("B", "A")
    c.restart("B")
    c.connect("A", "B")
    c.connect("B", "C")
    c["A"].raft.send_appends()
    c.deliver("A", "B")
    c.put("B", "new")
    c.tick("B")
    for message in c.waiting("B", "A", "apply_command"):
        c.queues["B", "A"].remove(message)  # the connection breaks before it arrives
    c.run(10)
    return [word for word in c.acked if word not in c["B"].applied]


def needless_snapshot(off: Rules) -> list[str]:
    """T7: a follower whose commit index lags is sent a snapshot, and throws away what it acknowledged behind it."""
    c = Bare(disabled_rules=off)
    c.elect("A")
    c.run(6)
    c.cut("A", "C")
    c.cut("B", "C")
    c.put("A", *words("w", 10))
    c.tick("A", 2)
    c.deliver("A", "B")
    c.deliver("B", "A")
    c["A"].raft.tick()  # committed by A and B; B does not know it yet
    c["A"].compact()
    c.put("A", *words("x", 5))
    c["A"].raft.tick()
    c["A"].raft.send_appends()
    c.queues["A", "B"][-1]["commit_index"] = 0
    c.deliver("A", "B")
    c.deliver("B", "A")
    c["A"].raft.tick()
    assert len(c.acked) == 15
    c["A"].raft.set_next_index("B", c["A"].raft.first_index)  # as after a hint: B's commit index is below A's log
    c.now += 0.6
    c["A"].raft.tick()
    c.deliver("A", "B")
    c.cut("A")
    c.connect("B", "C")
    c.elect("B", among="C")
    c.run(10, among="BC")
    return [word for word in c.acked if word not in c["B"].applied]


HISTORIES: dict[Rule, Callable[[Rules], list[str]]] = {
    Rule.TERM_STAMP: late_acknowledgement,
    Rule.NO_TRUNCATION: duplicate_append,
    Rule.RESUME_HINT: conflicting_tail,
    Rule.COMMIT_VERIFIED: heartbeat_without_position,
    Rule.LOAD_CHECKED: unreadable_snapshot,
    Rule.NO_FORWARDING: forwarded_command,
    Rule.SNAPSHOT_NEEDED: needless_snapshot,
}


@pytest.mark.parametrize("rule", HISTORIES)
def test_history_ends_well_under_the_guard(rule: Rule) -> None:
    assert HISTORIES[rule](frozenset()) == []


@pytest.mark.parametrize("rule", HISTORIES)
def test_history_ends_badly_without_its_rule(rule: Rule) -> None:
    assert HISTORIES[rule](frozenset({rule})) != []


def test_forwarded_command_is_definitely_refused() -> None:
    c = Bare()
    c.elect("A")
    c.run(6)
    c.put("B", "word")
    c.tick("B")
    assert c.outcomes == {"word": LibraryFailure.NOT_LEADER}


def test_leader_that_asks_to_cut_committed_entries_is_not_obeyed() -> None:
    c = Bare()
    c.elect("A")
    c.put("A", "one", "two")
    c.run(6)
    log = c["B"].log
    index, term = log[-1]
    append = {
        "type": "append_entries",
        "term": term + 5,
        "commit_index": 0,
        "prevLogIdx": index - 1,
        "prevLogTerm": log[-2][1],
        "entries": [(b"\x01", index, term + 5)],
    }
    with pytest.raises(SafetyViolationError, match="committed"):
        c["B"].receive("C", append)
    with pytest.raises(SafetyViolationError, match="committed"):
        c["B"].receive("C", {**append, "prevLogIdx": index, "prevLogTerm": term + 4, "entries": []})
    assert c["B"].log == log


def test_second_leader_of_a_term_is_noticed() -> None:
    c = Bare()
    c.elect("A")
    heartbeat = {"type": "append_entries", "term": c["A"].raft.term, "commit_index": 0}
    with pytest.raises(SafetyViolationError, match="so does this replica"):
        c["A"].receive("B", heartbeat)


def test_only_the_leader_may_hand_over() -> None:
    c = Bare()
    c.elect("A")
    c.run(3)
    term = c["A"].raft.term
    c["B"].receive("C", {"type": "timeout_now", "term": term})
    c.tick("B")
    assert c["B"].raft.term == term
    c["B"].receive("A", {"type": "timeout_now", "term": term})
    c.tick("B")
    assert c["B"].raft.term == term + 1
