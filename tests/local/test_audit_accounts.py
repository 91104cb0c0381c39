"""What an audit says of a workflow, read from made-up records."""

from __future__ import annotations

from raftflow.domain.contract.views import AuditLine, AuditTransition
from raftflow.local.accounts import WorkflowAccount, account_of

Move = tuple[str, str, int, str]
"""Task, event, fence, agent."""


def account(*moves: Move) -> WorkflowAccount:
    transitions = [
        AuditTransition("w", task, "before", event, "after", attempt=1, fence=fence, agent=agent)
        for task, event, fence, agent in moves
    ]
    line = AuditLine(
        index=1,
        position=0,
        term=1,
        at="",
        actor="",
        command="",
        subject="",
        request_id="",
        outcome="ok",
        detail="",
        transitions=transitions,
        chain="",
    )
    return account_of([line], "w")


def test_a_backup_that_wins_ends_both_attempts_once() -> None:
    told = account(
        ("t", "started", 1, "a1"),
        ("t", "backup_started", 2, "a2"),
        ("t", "backup_ended", 1, "a1"),
        ("t", "succeeded", 2, "a2"),
    )
    assert (told.lost, told.ended_twice, told.doubly_completed) == ([], [], [])
    assert told.overtaken_agents() == {"a1": 1}
    assert told.rerun_agents() == {}


def test_what_was_lost_and_offered_later_succeeded_once() -> None:
    told = account(("t", "started", 1, "a1"), ("t", "agent_lost", 1, "a1"), ("t", "offered", 1, "a1"))
    assert (told.lost, told.ended_twice, told.succeeded) == ([], [], {"t": 1})
    assert told.rerun_agents() == {"a1": 1}


def test_a_reused_result_needs_no_attempt() -> None:
    told = account(("t", "cached", 0, ""))
    assert (told.lost, told.succeeded) == ([], {"t": 1})


def test_a_forgotten_assignment_and_a_second_success_are_seen() -> None:
    told = account(
        ("t", "started", 1, "a1"), ("u", "queued", 2, "a1"), ("t", "succeeded", 1, "a1"), ("t", "succeeded", 1, "a1")
    )
    assert (told.lost, told.ended_twice, told.doubly_completed) == ([2], [1], ["t"])
