"""Operations of the API: their paths, and the problems that follow from what they are."""

from __future__ import annotations

import re

import pytest

from raftflow.domain.contract import operations, problem_kinds
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation
from raftflow.domain.contract.operations import OPERATIONS


def test_names_and_targets_are_unique() -> None:
    assert len({each.name for each in OPERATIONS}) == len(OPERATIONS)
    assert len({(each.method, each.path) for each in OPERATIONS}) == len(OPERATIONS)


def test_the_parts_of_a_path_are_filled_in_by_their_order() -> None:
    assert operations.tasks.SHOW_TASK.path_names == ("id", "task")
    assert operations.tasks.SHOW_TASK.target("wf-1", "a%2Fb") == "/v1/workflows/wf-1/tasks/a%2Fb"
    with pytest.raises(ValueError, match="zip"):
        operations.tasks.SHOW_TASK.target("wf-1")


def test_all_kinds_of_problems_have_words_and_statuses() -> None:
    assert len({kind.word for kind in problem_kinds.ALL_KINDS}) == len(problem_kinds.ALL_KINDS)
    for kind in problem_kinds.ALL_KINDS:
        assert re.fullmatch("[a-z-]+", kind.word)
        assert 400 <= kind.status < 600


@pytest.mark.parametrize(
    ("changes", "more", "less"),
    [
        ({}, {"unauthorized", "wrong-host"}, {"not-found", "no-leader", "outcome-unknown", "request-mismatch"}),
        ({"access": Access.OPEN}, {"queue-full"}, {"unauthorized", "wrong-host"}),
        ({"path": "/v1/x/{id}"}, {"not-found"}, {"no-leader"}),
        ({"answered_by": AnsweredBy.LEADER_READ}, {"no-leader"}, {"outcome-unknown"}),
        ({"method": "POST"}, {"outcome-unknown"}, {"request-mismatch"}),
        ({"method": "POST", "answered_by": AnsweredBy.LEADER_WRITE}, {"outcome-unknown", "request-mismatch"}, set()),
    ],
)
def test_problems_follow_from_what_an_operation_is(changes: dict, more: set[str], less: set[str]) -> None:
    plain = {"method": "GET", "path": "/v1/x", "answered_by": AnsweredBy.ASKED_REPLICA, "access": Access.READ}
    operation: Operation[bytes] = Operation(name="x", summary="", answer=bytes, **(plain | changes))
    words = {kind.word for kind in operation.problems()}
    assert more <= words
    assert not less & words
