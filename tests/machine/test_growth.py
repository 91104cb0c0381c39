"""Memory over-use: the next attempt gets more, at no cost, until the limit; and ends that carry usage."""

from __future__ import annotations

import pytest

from raftflow.domain.events import TaskReady
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.rules.growth import _SHARED_MAX

ROOM = {"cpu": 4000, "memory": 16_384}


@pytest.fixture
def start(drive):
    """Begin with one agent and a bag of tasks, all of which run."""

    def begin(count=1, memory=512, capacity=ROOM, **each):
        drive.register(capacity=capacity, prefetch=4)
        each.setdefault("resources", {"cpu": 1000, "memory": memory})
        drive.submit(drive.bag(count, on_failure="continue", **each))
        assert all(drive.place(*range(count)))
        return drive

    return begin


def _memory(drive, position=0):
    workflow = drive.machine.state.workflows["wf-1"]
    return dict(workflow.profiles[workflow.tasks[position].profile].shape.demand)["memory"]


def _outgrow(drive, fence, peak_mib, agent="a1"):
    assert drive.report(drive.end(fence, "outgrown", peak_mib=peak_mib), agent=agent) == ["accepted"]


@pytest.mark.parametrize(
    ("peak_mib", "wanted"),
    [(600, 1024), (0, 1024), (-5, 1024), (1000, 1250), (1001, 1252), (5_000, 2048), (2**60, 2048)],
)
def test_the_next_attempt_gets_more(start, peak_mib, wanted):
    drive = start()
    _outgrow(drive, 1, peak_mib)
    task = drive.task(0)
    assert (drive.states(), _memory(drive), task.failures, task.losses) == ("E", wanted, 0, 0)
    assert drive.events[0] == TaskReady("wf-1", 0)
    assert drive.transitions() == ["t0 running outgrown ready"]
    assert (drive.free(), drive.free(name="memory")) == (4000, 16_384)
    assert task.last.outcome is AttemptOutcome.OUTGROWN
    assert (
        task.last.error == f"used {peak_mib} MiB, more than its demand of 512 MiB; the next attempt gets {wanted} MiB"
    )
    drive.place(0)
    assert drive.free(name="memory") == 16_384 - wanted
    assert queries.assignments(drive.machine, "a1", 0)[0].resources == {"cpu": 1000, "memory": wanted}


def test_the_limit_is_four_times_the_first_demand(start):
    drive = start()
    for fence, wanted in ((1, 1024), (2, 2048)):
        _outgrow(drive, fence, 0)
        assert (drive.states(), _memory(drive)) == ("E", wanted)
        drive.place(0)
    _outgrow(drive, 3, 2_100)
    assert drive.states() == "F"
    assert drive.task(0).detail == (
        "outgrew all the memory that it may have: used 2100 MiB, more than its demand of 2048 MiB"
    )
    assert drive.transitions() == ["t0 running failed_final failed"]


def test_at_the_limit_it_is_a_failure_with_retries(start):
    drive = start(memory_max_mib=512, retries=1)
    _outgrow(drive, 1, 600)
    assert (drive.states(), _memory(drive), drive.task(0).failures) == ("D", 512, 1)


def test_the_task_names_its_limit(start):
    drive = start(memory_max_mib=700)
    _outgrow(drive, 1, 600)
    assert _memory(drive) == 700


def test_the_largest_agent_that_suits_is_the_limit(start):
    drive = start(capacity={"cpu": 1000, "memory": 800})
    drive.register("large", capacity={"cpu": 500, "memory": 4000})
    _outgrow(drive, 1, 600)
    assert _memory(drive) == 800


def test_without_an_agent_that_is_up_the_demand_may_still_grow(start):
    drive = start()
    drive.drain_leaving()
    _outgrow(drive, 1, 600)
    assert (drive.states(), _memory(drive)) == ("E", 1024)


def test_a_task_that_demanded_none_has_none_to_grow(start):
    drive = start(resources={"cpu": 1000})
    _outgrow(drive, 1, 600)
    assert drive.states() == "F"


def test_a_queued_one_may_have_run_and_outgrown(start):
    drive = start(count=2, resources={"cpu": 4000, "memory": 100})
    assert drive.states() == "RQ"
    _outgrow(drive, 2, 150)
    assert (drive.states(), drive.transitions()) == ("RE", ["t1 queued outgrown ready"])


def test_one_that_was_told_to_stop_is_cancelled(start):
    drive = start()
    drive.control("cancel")
    _outgrow(drive, 1, 600)
    assert (drive.states(), _memory(drive)) == ("C", 512)


def test_with_a_backup_the_other_goes_on_with_its_own_share(start):
    drive = start(backup=True)
    drive.register("a2", capacity=ROOM)
    drive.back_up(0)
    _outgrow(drive, 1, 600)
    assert (drive.states(), _memory(drive), drive.free("a2", "memory")) == ("R", 512, 16_384 - 512)
    assert drive.task(0).history[0].error.endswith("the next attempt gets 1024 MiB")
    drive.report(drive.end(2, "outgrown", peak_mib=600), agent="a2")
    assert (drive.states(), _memory(drive), drive.free("a2", "memory")) == ("E", 1024, 16_384)
    assert drive.task(0).mishaps is None


@pytest.mark.parametrize(("peaks", "memory"), [((600, 900), 1_125), ((900, 600), 1_125)])
def test_with_a_backup_the_larger_need_counts(start, peaks, memory):
    drive = start(backup=True)
    drive.register("a2", capacity=ROOM)
    drive.back_up(0)
    _outgrow(drive, 1, peaks[0])
    drive.report(drive.end(2, "outgrown", peak_mib=peaks[1]), agent="a2")
    assert (drive.states(), _memory(drive)) == ("E", memory)


@pytest.mark.parametrize("outcome", ["failed", "lost", "released", "abandoned"])
def test_the_need_of_one_counts_whatever_becomes_of_the_other(start, outcome):
    drive = start(backup=True, retries=1)
    drive.register("a2", capacity=ROOM)
    drive.back_up(0)
    _outgrow(drive, 1, 600)
    drive.finish(2, outcome, agent="a2")
    assert (drive.states(), _memory(drive)) == ("D" if outcome == "failed" else "E", 1024)
    assert (drive.free("a1", "memory"), drive.free("a2", "memory")) == (16_384, 16_384)


def test_the_success_of_the_other_forgets_the_need(start):
    drive = start(backup=True)
    drive.register("a2", capacity=ROOM)
    drive.back_up(0)
    _outgrow(drive, 2, 600, agent="a2")
    drive.finish(1)
    assert (drive.states(), _memory(drive), drive.free("a2", "memory")) == ("S", 512, 16_384)


def test_outgrown_at_its_limit_is_a_failure_also_beside_another(start):
    drive = start(backup=True, memory_max_mib=512)
    drive.register("a2", capacity=ROOM)
    drive.back_up(0)
    _outgrow(drive, 1, 600)
    assert (drive.states(), drive.orders("a2"), drive.free("a2", "memory")) == ("F", ([2], []), 16_384)
    assert "outgrew all the memory that it may have" in drive.task(0).detail


def test_a_failure_that_was_put_off_counts_when_the_other_outgrows_its_memory(start):
    drive = start(backup=True, retries=1)
    drive.register("a2", capacity=ROOM)
    drive.back_up(0)
    drive.finish(2, "failed", agent="a2")
    _outgrow(drive, 1, 600)
    assert (drive.states(), _memory(drive), drive.task(0).failures) == ("D", 1024, 1)


def test_told_to_stop_it_grows_no_more(start):
    drive = start(backup=True)
    drive.register("a2", capacity=ROOM)
    drive.back_up(0)
    drive.control("cancel")
    _outgrow(drive, 1, 600)
    assert drive.states() == "R"
    drive.report(drive.end(2, "outgrown", peak_mib=600), agent="a2")
    assert (drive.states(), _memory(drive)) == ("C", 512)


def test_tasks_that_grow_alike_share_a_profile(start):
    drive = start(count=3)
    for fence in (1, 2):
        _outgrow(drive, fence, 600)
    _outgrow(drive, 3, 1_000)
    workflow = drive.machine.state.workflows["wf-1"]
    assert [task.profile for task in workflow.tasks] == [1, 1, 2]
    shapes = {profile.shape for profile in workflow.profiles}
    assert shapes == {drive.machine.state.shape(shape) for shape in shapes} and len(shapes) == 3


def test_equal_profiles_are_looked_for_among_the_newest_alone(start):
    drive = start(count=_SHARED_MAX + 2, resources={"memory": 100}, memory_max_mib=10_000)
    for fence in range(1, _SHARED_MAX + 2):
        _outgrow(drive, fence, 80 * (fence + 3))
    _outgrow(drive, _SHARED_MAX + 2, 80 * 4)
    workflow = drive.machine.state.workflows["wf-1"]
    assert workflow.profiles[1] == workflow.profiles[-1]
    assert len(workflow.profiles) == _SHARED_MAX + 3


def test_an_open_snapshot_does_not_see_later_profiles(start):
    """Neither when its head is written, nor before, nor between two frames of profiles."""
    drive = start(count=3, memory_max_mib=10_000)
    expected = drive.encoding()
    snapshot = drive.machine.snapshot()
    _outgrow(drive, 1, 600)
    _outgrow(drive, 2, 900)
    assert b"".join(snapshot) == expected
    copy = Machine()
    copy.restore([drive.encoding()])
    assert [task.profile for task in copy.state.workflows["wf-1"].tasks] == [1, 2, 0]
    assert copy.state.workflows["wf-1"].profiles == tuple(drive.machine.state.workflows["wf-1"].profiles)


def test_profiles_behind_the_head_of_a_snapshot_are_not_in_it(new_drive):
    drive = new_drive()
    drive.register(capacity={"memory": 2**40})
    drive.submit(drive.bag(1, resources={"memory": 100}, memory_max_mib=10_000))
    tasks = [
        TaskSpec(id=f"t{n}", program=CommandLine(("true", "x" * 500, str(n))), resources={"memory": 100})
        for n in range(1_200)
    ]
    drive.submit(WorkflowSpec(name="many", tasks=tuple(tasks)), "many")
    drive.checked = False
    drive.place(0, workflow_id="many")
    expected = drive.encoding()
    snapshot = drive.machine.snapshot()
    pieces = [next(snapshot)]
    assert drive.report(drive.end(1, "outgrown")) == ["accepted"]
    assert b"".join([*pieces, *snapshot]) == expected


# --- reports with usage


def test_ends_with_usage_mean_what_ends_mean(start):
    drive = start(count=3)
    ends = [drive.end(1, cpu_ms=900, peak_mib=70, duration_ms=1_000), drive.end(2, "failed")]
    assert drive.report(*ends, missing=(3,)) == ["accepted", "accepted"]
    assert drive.states() == "SFE"
    assert drive.report(*ends) == ["duplicate", "duplicate"]
    assert drive.records[-1].command == "attempts.report"
    estimate = queries.kind_estimate(drive.machine, "wf-1", 0)
    assert (estimate.mean_ms, estimate.cpu_ms, estimate.peak_mib) == (1_000, 900, 70)


def test_an_agent_cannot_say_that_it_was_superseded(start):
    drive = start()
    assert drive.finish(1, "superseded") == "accepted"
    assert (drive.states(), drive.task(0).last.outcome) == ("E", AttemptOutcome.ABANDONED)
