from typing import Any

import msgspec

from raftflow.agent.exchange.attempt_table import AttemptTable
from raftflow.domain.contract.views import Assignment, ReportedEnd, ReportVerdict


def attempt(fence: int, **resources: int) -> Assignment:
    return Assignment(
        fence=fence, workflow_id="wf", workflow_name="w", task_id=f"t{fence}", attempt=1, resources=resources
    )


def end(fence: int, outcome: Any = "succeeded") -> ReportedEnd:
    return ReportedEnd(fence=fence, workflow_id="wf", task_id=f"t{fence}", outcome=outcome)


def start_all(book: AttemptTable) -> list[int]:
    started = []
    while (assignment := book.start_next()) is not None:
        started.append(assignment.fence)
    return started


def test_a_small_attempt_does_not_overtake_the_head() -> None:
    book = AttemptTable({"cpu": 2000})
    book.receive([attempt(1, cpu=1000), attempt(2, cpu=2000), attempt(3, cpu=1000)])
    assert start_all(book) == [1]
    assert book.free == {"cpu": 1000}
    book.end(end(1))
    assert start_all(book) == [2]
    book.end(end(2))
    assert start_all(book) == [3]


def test_every_resource_must_fit_and_is_given_back() -> None:
    book = AttemptTable({"cpu": 4000, "gpu": 1000})
    book.receive([attempt(1, cpu=1000, gpu=1000), attempt(2, cpu=1000, gpu=1000)])
    assert start_all(book) == [1]
    book.end(end(1))
    assert book.free == {"cpu": 4000, "gpu": 1000}
    assert start_all(book) == [2]


def test_an_exclusive_attempt_runs_alone() -> None:
    """Nothing runs beside it, not even what demands nothing."""

    def alone(fence: int) -> Assignment:
        return msgspec.structs.replace(attempt(fence, cpu=2000), exclusive=True)

    book = AttemptTable({"cpu": 2000})
    book.receive([attempt(1), alone(2), attempt(3), attempt(4, cpu=1000), alone(5)])
    assert start_all(book) == [1]
    book.end(end(1))
    assert start_all(book) == [2]
    book.end(end(2))
    assert start_all(book) == [3, 4]
    book.end(end(3))
    assert start_all(book) == []
    book.end(end(4))
    assert start_all(book) == [5]
    assert book.free == {"cpu": 0}


def test_what_was_received_before_is_ignored() -> None:
    book = AttemptTable({"cpu": 1000})
    book.receive([attempt(1, cpu=1000), attempt(2, cpu=1000)])
    book.receive([attempt(1, cpu=1000), attempt(2, cpu=1000), attempt(3, cpu=1000)])
    assert [assignment.fence for assignment in book.queue] == [1, 2, 3]
    assert book.seen == 3


def test_ends_are_kept_in_order_until_any_verdict() -> None:
    book = AttemptTable({"cpu": 3000})
    book.receive([attempt(1, cpu=1000), attempt(2, cpu=1000), attempt(3, cpu=1000)])
    start_all(book)
    for fence in (2, 3, 1):
        book.end(end(fence))
    assert list(book.ends) == [2, 3, 1]
    verdicts = [ReportVerdict(fence=3, verdict="stale"), ReportVerdict(fence=2, verdict="duplicate")]
    assert book.answered(verdicts) == 2
    assert list(book.ends) == [1]
    assert not book.empty
    book.answered([ReportVerdict(fence=1, verdict="accepted")])
    assert book.empty


def test_an_end_that_is_no_success_is_pressing() -> None:
    book = AttemptTable({"cpu": 2000})
    book.receive([attempt(fence, cpu=1000) for fence in range(1, 4)])
    start_all(book)
    book.end(end(1))
    assert not book.pressing
    book.end(end(3, "released"))
    book.end(end(2))
    assert book.pressing


def test_give_back_takes_only_what_waits() -> None:
    book = AttemptTable({"cpu": 1000})
    book.receive([attempt(fence, cpu=1000) for fence in (1, 2, 3, 4)])
    start_all(book)
    assert [assignment.fence for assignment in book.give_back({1, 3, 99})] == [3]
    assert [assignment.fence for assignment in book.give_back()] == [2, 4]
    assert list(book.running) == [1]


def test_a_head_that_can_never_fit_is_taken_only_when_nothing_runs() -> None:
    book = AttemptTable({"cpu": 1000})
    book.receive([attempt(1, cpu=1000), attempt(2, tpu=1)])
    assert start_all(book) == [1]
    assert book.take_misfit() is None
    book.end(end(1))
    misfit = book.take_misfit()
    assert misfit is not None
    assert misfit.fence == 2
