"""Inputs of attempts: small ones come with the assignment, large ones in pieces that are alike on every replica."""

from __future__ import annotations

import pytest

from raftflow.domain import limits
from raftflow.domain.tasks.program import CommandLine, PythonCall
from raftflow.machine.read import inputs as machine_inputs
from raftflow.machine.read import queries as q
from raftflow.machine.read.inputs import BehindError, NotLiveError, inputs_slice

BIG = b'"' + b"x" * 20_000 + b'"'


@pytest.fixture
def joined(drive):
    """Task `t3` runs on a1 under fence 4 and needs t0 (large), t1 (no result) and t2 (large)."""
    drive.register(cpu=3)
    drive.submit(drive.tasks((), (), (), (0, 1, 2)))
    drive.place(0, 1, 2)
    drive.report(drive.end(1, result=BIG), drive.end(2), drive.end(3, result=BIG))
    drive.place(3)
    return drive


def test_large_inputs_are_left_out_for_agents_that_fetch(joined):
    (apart,) = q.assignments(joined.machine, "a1", 0, apart=True)
    assert (apart.fence, apart.inputs) == (4, {})
    assert (apart.inputs_apart.count, apart.inputs_apart.size) == (3, 2 * len(BIG))
    (whole,) = q.assignments(joined.machine, "a1", 0)
    assert whole.inputs_apart is None
    assert [len(result) for result in whole.inputs.values()] == [len(BIG), 4, len(BIG)]


def test_inputs_up_to_the_limit_come_along(joined, monkeypatch):
    monkeypatch.setattr(machine_inputs, "INPUTS_INLINE_BYTES_MAX", 2 * len(BIG))
    (assignment,) = q.assignments(joined.machine, "a1", 0, apart=True)
    assert assignment.inputs_apart is None
    assert len(assignment.inputs) == 3


def test_pieces_are_bounded_in_bytes_and_hold_at_least_one_input(joined, monkeypatch):
    monkeypatch.setattr(machine_inputs, "INPUTS_PIECE_BYTES_MAX", len(BIG) + 4)
    first = inputs_slice(joined.machine, "a1", 4, 0)
    assert first == ([("t0", BIG), ("t1", b"null")], 2, len(BIG) + 4)
    assert inputs_slice(joined.machine, "a1", 4, 2) == ([("t2", BIG)], None, len(BIG))
    monkeypatch.setattr(machine_inputs, "INPUTS_PIECE_BYTES_MAX", 1)
    assert inputs_slice(joined.machine, "a1", 4, 0) == ([("t0", BIG)], 1, len(BIG))


def test_pieces_are_bounded_in_number(joined, monkeypatch):
    monkeypatch.setattr(machine_inputs, "INPUTS_PIECE_COUNT_MAX", 2)
    assert inputs_slice(joined.machine, "a1", 4, 0).next == 2
    assert inputs_slice(joined.machine, "a1", 4, 1).next is None


def test_a_task_without_needs_has_one_empty_piece(drive):
    drive.register()
    drive.submit()
    drive.place(0)
    assert inputs_slice(drive.machine, "a1", 1, 0) == ([], None, 0)


@pytest.mark.parametrize("first", [3, 4, limits.NEEDS_PER_TASK_MAX])
def test_behind_the_last_need_there_is_nothing(joined, first):
    with pytest.raises(ValueError, match="the task has 3 needs"):
        inputs_slice(joined.machine, "a1", 4, first)


def test_a_fence_that_was_not_given_yet_is_no_error_of_the_agent(joined):
    with pytest.raises(BehindError):
        inputs_slice(joined.machine, "a1", 5, 0)
    with pytest.raises(BehindError):
        inputs_slice(joined.machine, "nobody", 5, 0)


@pytest.mark.parametrize(("agent", "fence"), [("a2", 4), ("nobody", 4), ("a1", 1), ("a1", 0)])
def test_attempts_of_others_and_those_that_are_over_have_no_inputs(joined, agent, fence):
    joined.register("a2")
    with pytest.raises(NotLiveError):
        inputs_slice(joined.machine, agent, fence, 0)


def test_a_cancelled_attempt_has_its_inputs_until_it_has_ended(joined):
    joined.control("cancel")
    assert inputs_slice(joined.machine, "a1", 4, 0).inputs
    joined.finish(4, "cancelled")
    with pytest.raises(NotLiveError):
        inputs_slice(joined.machine, "a1", 4, 0)
    joined.retire()
    with pytest.raises(NotLiveError):
        inputs_slice(joined.machine, "a1", 4, 0)


def test_another_incarnation_has_no_inputs_of_the_former_one(joined):
    joined.register("a1", "another instance")
    with pytest.raises(NotLiveError):
        inputs_slice(joined.machine, "a1", 4, 0)


def test_an_answer_holds_about_so_many_bytes_of_what_tasks_run(drive):
    drive.register(cpu=4)
    drive.submit(drive.bag(4, program=CommandLine(("x" * 100,)), env={"A": "b" * 100}))
    drive.place(0, 1, 2, 3)
    assert [a.fence for a in q.assignments(drive.machine, "a1", 0, bytes_max=500)] == [1, 2]
    assert [a.fence for a in q.assignments(drive.machine, "a1", 2, bytes_max=1)] == [3]
    drive.submit(drive.bag(2, program=PythonCall("m:f", b'["' + b"x" * 100 + b'"]')), "wf-2")
    drive.register("a2", cpu=2)
    drive.place(0, 1, agent="a2", workflow_id="wf-2")
    assert [a.fence for a in q.assignments(drive.machine, "a2", 0, bytes_max=150)] == [5]


def test_needs_whose_results_are_left_out_count_too(drive):
    """To look at ten thousand needs of each of many attempts takes time, whatever is sent."""
    drive.register(cpu=4)
    drive.submit(drive.tasks((), (), (0, 1), (0, 1)))
    drive.place(0, 1)
    drive.report(drive.end(1, result=BIG), drive.end(2, result=BIG))
    drive.place(2, 3)
    assert [a.fence for a in q.assignments(drive.machine, "a1", 0, apart=True, bytes_max=200)] == [3]
    assert len(q.assignments(drive.machine, "a1", 0, apart=True, bytes_max=300)) == 2


def test_what_a_task_can_be_given_is_bounded_by_its_needs():
    assert limits.INPUTS_BYTES_MAX >= limits.NEEDS_PER_TASK_MAX * limits.RESULT_BYTES_MAX


def test_a_page_of_tasks_ends_early_when_results_are_large(drive, monkeypatch):
    drive.register(cpu=4)
    drive.submit(drive.tasks((), (), (), (), (0, 1, 2, 3)))
    drive.place(0, 1, 2, 3)
    drive.report(*[drive.end(fence, result=BIG) for fence in (1, 2, 3, 4)])
    monkeypatch.setattr(q, "PAGE_BYTES", 2 * len(BIG))
    seen, cursor = [], None
    while True:
        page = q.task_page(drive.machine, "wf-1", 100, cursor)
        seen.append([task.id for task in page.tasks])
        cursor = page.next
        if cursor is None:
            break
    assert seen == [["t0", "t1"], ["t2", "t3"], ["t4"]]
    monkeypatch.setattr(q, "PAGE_BYTES", 1)
    assert [task.id for task in q.task_page(drive.machine, "wf-1", 100, None).tasks] == ["t0"]


def test_large_results_fail_their_attempts_when_too_many_are_kept(drive, monkeypatch):
    monkeypatch.setattr(limits, "RESULTS_BYTES_MAX", 30_000)
    drive.register(cpu=4)
    drive.submit(drive.bag(1))
    drive.submit(drive.bag(3), "wf-2")
    drive.place(0)
    drive.place(0, 1, workflow_id="wf-2")
    assert drive.finish(1, result=BIG) == "accepted"
    assert drive.machine.state.result_bytes == len(BIG)
    drive.finish(2, result=BIG)
    assert (
        "the results of all workflows have 20002 bytes, and no more than 30000 are kept"
        in drive.task(0, "wf-2").detail
    )
    drive.finish(3, result=b"1" * limits.RESULT_SMALL_BYTES)
    assert drive.machine.state.result_bytes == len(BIG) + limits.RESULT_SMALL_BYTES
    drive.retire()
    assert drive.machine.state.result_bytes == 0, "what is forgotten makes room"
    drive.submit(drive.bag(1), "wf-3")
    drive.place(0, workflow_id="wf-3")
    drive.finish(4, result=BIG)
    assert drive.states("wf-3") == "S"
