from typing import Any

import msgspec

from raftflow.agent.exchange.attempt_table import AttemptTable
from raftflow.domain.contract.views import Assignment, ReportedEnd, ReportVerdict
from raftflow.domain.tasks.program import CommandLine


def attempt(fence: int, **resources: int) -> Assignment:
    return Assignment(
        fence=fence,
        workflow_id="wf",
        workflow_name="w",
        task_id=f"t{fence}",
        attempt=1,
        resources=resources,
        program=CommandLine(("true",)),
    )


def end(fence: int, outcome: Any = "succeeded") -> ReportedEnd:
    return ReportedEnd(fence=fence, workflow_id="wf", task_id=f"t{fence}", outcome=outcome)


def start_all(attempt_table: AttemptTable) -> list[int]:
    started = []
    while (assignment := attempt_table.start_next()) is not None:
        started.append(assignment.fence)
    return started


def test_a_small_attempt_does_not_overtake_the_head() -> None:
    attempt_table = AttemptTable({"cpu": 2000})
    attempt_table.receive([attempt(1, cpu=1000), attempt(2, cpu=2000), attempt(3, cpu=1000)])
    assert start_all(attempt_table) == [1]
    assert attempt_table.free == {"cpu": 1000}
    attempt_table.end(end(1))
    assert start_all(attempt_table) == [2]
    attempt_table.end(end(2))
    assert start_all(attempt_table) == [3]


def test_every_resource_must_fit_and_is_given_back() -> None:
    attempt_table = AttemptTable({"cpu": 4000, "gpu": 1000})
    attempt_table.receive([attempt(1, cpu=1000, gpu=1000), attempt(2, cpu=1000, gpu=1000)])
    assert start_all(attempt_table) == [1]
    attempt_table.end(end(1))
    assert attempt_table.free == {"cpu": 4000, "gpu": 1000}
    assert start_all(attempt_table) == [2]


def test_an_exclusive_attempt_runs_alone() -> None:
    """Nothing runs beside it, not even what demands nothing."""

    def alone(fence: int) -> Assignment:
        return msgspec.structs.replace(attempt(fence, cpu=2000), exclusive=True)

    attempt_table = AttemptTable({"cpu": 2000})
    attempt_table.receive([attempt(1), alone(2), attempt(3), attempt(4, cpu=1000), alone(5)])
    assert start_all(attempt_table) == [1]
    attempt_table.end(end(1))
    assert start_all(attempt_table) == [2]
    attempt_table.end(end(2))
    assert start_all(attempt_table) == [3, 4]
    attempt_table.end(end(3))
    assert start_all(attempt_table) == []
    attempt_table.end(end(4))
    assert start_all(attempt_table) == [5]
    assert attempt_table.free == {"cpu": 0}


def test_what_was_received_before_is_ignored() -> None:
    attempt_table = AttemptTable({"cpu": 1000})
    attempt_table.receive([attempt(1, cpu=1000), attempt(2, cpu=1000)])
    attempt_table.receive([attempt(1, cpu=1000), attempt(2, cpu=1000), attempt(3, cpu=1000)])
    assert [assignment.fence for assignment in attempt_table.queue] == [1, 2, 3]
    assert attempt_table.seen == 3


def test_ends_are_kept_in_order_until_any_verdict() -> None:
    attempt_table = AttemptTable({"cpu": 3000})
    attempt_table.receive([attempt(1, cpu=1000), attempt(2, cpu=1000), attempt(3, cpu=1000)])
    start_all(attempt_table)
    for fence in (2, 3, 1):
        attempt_table.end(end(fence))
    assert list(attempt_table.ends) == [2, 3, 1]
    verdicts = [ReportVerdict(fence=3, verdict="stale"), ReportVerdict(fence=2, verdict="duplicate")]
    assert attempt_table.answered(verdicts) == 2
    assert list(attempt_table.ends) == [1]
    assert not attempt_table.empty
    attempt_table.answered([ReportVerdict(fence=1, verdict="accepted")])
    assert attempt_table.empty


def test_an_end_that_is_no_success_is_pressing() -> None:
    attempt_table = AttemptTable({"cpu": 2000})
    attempt_table.receive([attempt(fence, cpu=1000) for fence in range(1, 4)])
    start_all(attempt_table)
    attempt_table.end(end(1))
    assert not attempt_table.pressing
    attempt_table.end(end(3, "released"))
    attempt_table.end(end(2))
    assert attempt_table.pressing


def test_give_back_takes_only_what_waits() -> None:
    attempt_table = AttemptTable({"cpu": 1000})
    attempt_table.receive([attempt(fence, cpu=1000) for fence in (1, 2, 3, 4)])
    start_all(attempt_table)
    assert [assignment.fence for assignment in attempt_table.give_back({1, 3, 99})] == [3]
    assert [assignment.fence for assignment in attempt_table.give_back()] == [2, 4]
    assert list(attempt_table.running) == [1]


def test_a_head_that_can_never_fit_is_taken_only_when_nothing_runs() -> None:
    attempt_table = AttemptTable({"cpu": 1000})
    attempt_table.receive([attempt(1, cpu=1000), attempt(2, tpu=1)])
    assert start_all(attempt_table) == [1]
    assert attempt_table.take_misfit() is None
    attempt_table.end(end(1))
    misfit = attempt_table.take_misfit()
    assert misfit is not None
    assert misfit.fence == 2
