"""Large commands are carried out in pieces, and are atomic to everybody else."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.domain import commands as c
from raftflow.domain.events import TaskReady, WorkflowNotReady, WorkflowReady
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import Done
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine.commands.restoration import Restoration
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.rules.step_limits import StepLimits
from raftflow.machine.schema.declaration import SnapshotError
from raftflow.machine.tables.agenda import AgendaJob, JobKind
from raftflow.machine.tables.tasks import ORDER_RELEASE, ORDER_STOP

LIMITS = StepLimits(inline_max=4, piece_max=2)


@pytest.fixture
def small(new_drive: Any) -> Any:
    """A drive on which nearly everything is done in pieces of two steps."""
    return new_drive(limits=LIMITS)


def listed(drive: Any) -> tuple[str, int, int]:
    """What a list shows of the workflow: its state, and how many tasks are cancelled and waiting."""
    (view,) = queries.workflow_page(drive.machine, None, 10, None).workflows
    return view.state, view.tasks.cancelled, view.tasks.waiting


def test_an_empty_agenda_has_no_next_piece(drive):
    drive.submit()
    before = drive.facts()
    assert drive.piece() == Done(changed=False)
    assert drive.facts() == before


def test_a_small_command_is_done_at_once(small):
    small.submit(small.bag(4))
    small.control("cancel")
    assert (small.states(), small.state(), small.jobs()) == ("CCCC", "cancelled", [])


# --- cancel


def test_a_cancel_is_done_in_pieces_and_flips_at_once(small):
    small.submit(small.bag(5))
    assert small.control("cancel", request_id="r") == Done()
    assert WorkflowNotReady("wf-1") in small.events
    assert (small.states(), small.state(), small.jobs()) == ("EEEEE", "cancelled", ["stop"])
    assert listed(small) == ("cancelled", 5, 0)
    assert small.control("cancel", request_id="r") == Done(), "a repeated request gets the first answer"
    small.piece()
    assert (small.states(), small.task(0).detail) == ("CCEEE", "the workflow was cancelled")
    assert listed(small) == ("cancelled", 5, 0)
    assert small.work_off() == 2
    assert (small.states(), small.jobs()) == ("CCCCC", [])
    assert small.machine.state.finished.keys() == {"wf-1"}


def test_nothing_of_a_workflow_starts_while_its_stop_is_pending(small):
    small.register(cpu=9)
    small.submit(small.bag(5))
    small.place(4)
    small.control("cancel")
    assert small.state() == "running"
    assert small.place(0, 1, 2, 3) == (0, 0, 0, 0)
    assert queries.ready_task(small.machine, "wf-1", 0) is None
    assert list(queries.ready_tasks(small.machine)) == []
    assert queries.workflows_with_ready(small.machine) == []


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "retry"])
def test_a_workflow_that_is_being_stopped_is_not_controlled(small, action):
    small.submit(small.bag(5))
    small.control("cancel")
    refused = small.control(action, request_id="later")
    assert refused.code is RejectionCode.PENDING
    assert small.do(c.SetPriority(at_ms=small.now_ms, actor="x", workflow_id="wf-1", priority=1)).code is refused.code
    small.work_off()
    after = small.control(action, request_id="later")
    assert getattr(after, "code", None) is (RejectionCode.CONFLICT if action in {"pause", "resume"} else None)


def test_live_attempts_are_ordered_to_stop_before_the_job_comes_to_them(small):
    small.register(cpu=2, prefetch=5)
    small.submit(small.bag(5, retries=1))
    first, second, third = small.place(4, 3, 2)
    small.control("cancel")
    assert small.task(4).last.order == 0
    assert small.orders() == ([first, second, third], [])
    small.finish(first, "failed")
    assert small.states() == "EERRC", "it counts as stopped: it is not tried again"
    assert small.finish(second) == "accepted"
    assert small.states() == "EERSC", "the work is done"
    small.work_off()
    small.finish(third, "cancelled")
    assert (small.states(), small.state()) == ("CCCSC", "cancelled")


def test_a_back_off_that_ends_while_the_stop_is_pending_cancels_the_task(small):
    small.register(cpu=9)
    small.submit(small.bag(5, retries=1, retry_delay_ms=10))
    (fence,) = small.place(4)
    small.finish(fence, "failed")
    small.control("cancel")
    assert small.fire(after_ms=20) == 0
    assert small.states() == "EEEEC"
    small.work_off()
    assert small.state() == "cancelled"


def test_an_offer_to_a_workflow_that_is_being_stopped_is_stale(small):
    small.register(cpu=9)
    small.submit(small.bag(5))
    (fence,) = small.place(4)
    end = small.end(fence)
    small.remove()
    small.register(instance="i2", cpu=9)
    small.control("cancel")
    assert small.offer(end) == ["stale"]
    assert small.states() == "EEEEC"
    small.work_off()


def test_a_failure_stops_a_large_workflow_in_pieces(small):
    small.register(cpu=9)
    small.submit(small.bag(5))
    (fence,) = small.place(4)
    small.finish(fence, "failed")
    assert (small.states(), small.state(), small.jobs()) == ("EEEEF", "failed", ["stop"])
    small.work_off()
    assert (small.states(), small.task(0).detail) == ("CCCCF", "t4 failed")


def test_no_backup_starts_in_a_workflow_that_is_being_stopped(small):
    for name in ("a1", "a2"):
        small.register(name, cpu=9)
    small.submit(small.bag(5, backup=True))
    small.place(4)
    small.control("cancel")
    assert small.back_up(4) == (0,)
    small.work_off()


def test_what_has_ended_is_not_stopped(small):
    small.register(cpu=9)
    small.submit(small.bag(5))
    (fence,) = small.place(0)
    small.finish(fence)
    small.control("cancel")
    small.work_off()
    assert (small.states(), small.state()) == ("SCCCC", "cancelled")


def test_a_paused_workflow_is_cancelled_in_pieces(small):
    small.submit(small.bag(5))
    small.control("pause")
    small.control("cancel")
    assert small.events[-1:] != [WorkflowNotReady("wf-1")]
    assert (small.state(), small.machine.state.workflows["wf-1"].held) == ("cancelled", True)
    small.work_off()
    assert small.states() == "CCCCC"


def test_a_task_in_line_behind_another_workflow_is_not_given_its_result_once_it_is_stopped(small):
    small.register(cpu=9)
    small.submit(small.bag(1, cache="k"), "wf-0")
    small.work_off()
    (fence,) = small.place(0, workflow_id="wf-0")
    small.submit(small.bag(5, cache="k"))
    small.work_off()
    assert small.states() == "WWWWW"
    small.control("cancel")
    small.finish(fence, workflow_id="wf-0", task_id="t0")
    assert small.states() == "WWWWW"
    small.work_off()
    assert (small.states(), small.states("wf-0")) == ("CCCCC", "S")


def test_a_claim_whose_line_is_being_stopped_goes_to_the_next_task(small):
    small.register(cpu=9)
    small.submit(small.bag(6, cache="k"))
    small.work_off()
    small.control("cancel")
    small.piece()
    assert small.states() == "CCWWWW"
    (claim,) = small.machine.state.claims.values()
    assert claim.owner is None
    copy = Machine(limits=LIMITS)
    copy.restore(small.machine.snapshot())
    assert check(copy) == []
    small.submit(small.bag(1, cache="k"), "wf-2")
    small.piece()
    small.work_off()
    assert (small.states(), small.states("wf-2")) == ("CCCCCC", "E")


# --- retry


def test_a_retry_is_done_in_pieces_and_nothing_starts_before_its_end(small):
    small.register(cpu=9)
    small.submit(small.tasks((), (0,), (), (), ()))
    small.control("cancel")
    small.work_off()
    assert small.control("retry") == Done()
    assert (small.states(), small.state(), listed(small)) == ("CCCCC", "pending", ("pending", 0, 5))
    small.piece()
    assert (small.states(), small.place(0), small.events) == ("EWCCC", (0,), small.events)
    assert not any(isinstance(event, TaskReady) for event in small.events)
    assert small.control("cancel").code is RejectionCode.PENDING
    small.work_off()
    assert (small.states(), small.events[0]) == ("EWEEE", WorkflowReady("wf-1"))
    assert small.place(0)[0] > 0


def test_a_result_is_offered_to_a_task_that_was_revived_before_the_others(small):
    small.register(cpu=9)
    small.submit(small.bag(5))
    (fence,) = small.place(0)
    end = small.end(fence)
    small.remove()
    small.control("cancel")
    small.work_off()
    small.register(instance="i2", cpu=9)
    small.control("retry")
    assert small.offer(end) == ["stale"], "it is not revived yet"
    small.piece()
    assert small.offer(end) == ["accepted"]
    assert small.states() == "SECCC"
    small.work_off()
    assert (small.states(), small.state()) == ("SEEEE", "running")


def test_cached_tasks_are_admitted_in_pieces_after_a_retry(small):
    small.register(cpu=9)
    small.submit(small.tasks((), (0,), (), (), (), cache=""))
    assert small.jobs() == ["revive"]
    small.work_off()
    assert small.states() == "EWWWW"
    (fence,) = small.place(0)
    small.finish(fence)
    small.work_off()
    assert small.states() == "SESSS"
    small.control("cancel")
    small.work_off()
    small.control("retry")
    small.work_off()
    assert small.states() == "SESSS"


# --- needs


def test_a_success_that_many_wait_for_is_told_in_pieces(small):
    small.register(cpu=9)
    small.submit(small.tasks((), (0,), (0,), (0,), (0,)))
    (fence,) = small.place(0)
    small.finish(fence)
    assert (small.states(), small.jobs()) == ("SWWWW", ["meet_needs"])
    small.piece()
    assert small.states() == "SEWWW"
    (first,) = small.place(1)
    small.finish(first)
    assert small.states() == "SSWWW"
    assert small.work_off() == 3
    assert (small.states(), small.task(4).open_needs) == ("SSEEE", 0)


def test_several_successes_share_a_job(small):
    small.register(cpu=9)
    small.submit(small.tasks((), (), (0, 1), (0, 1), (0,), (0,), (0,)))
    first, second = small.place(0, 1)
    small.report(small.end(first), small.end(second))
    assert (small.jobs(), small.states()) == (["meet_needs"], "SSWWWWW")
    assert check(small.machine) == []
    small.work_off()
    assert small.states() == "SSEEEEE"


def test_needs_are_counted_and_make_nothing_ready_in_a_workflow_that_was_cancelled(small):
    small.register(cpu=9)
    small.submit(small.tasks((), (0,), (0,), (0,), (0,)))
    (fence,) = small.place(0)
    small.finish(fence)
    assert small.control("cancel") == Done(), "needs that are owed refuse no cancel"
    assert small.jobs() == ["meet_needs", "stop"]
    small.piece()
    assert (small.states(), small.task(1).open_needs) == ("SWWWW", 0)
    small.work_off()
    assert (small.states(), small.task(4).open_needs) == ("SCCCC", 0)
    small.control("retry")
    small.work_off()
    assert small.states() == "SEEEE"


def test_needs_that_the_last_success_met_are_counted_before_a_retry_or_the_retirement(small):
    small.register(cpu=9)
    small.submit(small.tasks((), (0,), (0,), (0,), (0,)))
    (fence,) = small.place(0)
    small.control("cancel")
    small.work_off()
    small.finish(fence)
    assert (small.state(), small.jobs()) == ("cancelled", ["meet_needs"])
    assert small.control("retry").code is RejectionCode.PENDING
    assert small.retire() == ()
    small.work_off()
    assert small.control("retry") == Done()
    small.work_off()
    assert small.states() == "SEEEE"


# --- failures with on_failure = continue


def test_what_needs_a_failed_task_is_cancelled_in_pieces(small):
    small.register(cpu=9)
    small.submit(small.tasks((), *[(0,)] * 6, (1,), (7,), (8,), on_failure="continue"))
    (fence,) = small.place(0)
    small.finish(fence, "failed")
    assert small.jobs() == ["cancel_downstream"]
    assert small.state() == "running"
    small.work_off()
    assert (small.states(), small.state()) == ("FCCCCCCCCC", "failed")
    assert small.task(9).detail == "needs t0, which failed"


# --- pause, resume, priority


def test_queued_attempts_are_asked_back_in_pieces(small):
    small.register(cpu=1, prefetch=9)
    small.submit(small.bag(6))
    small.place(*range(6))
    small.control("pause")
    assert small.jobs() == ["requeue"]
    assert [small.task(number).last.order for number in range(6)] == [
        0,
        ORDER_RELEASE,
        ORDER_RELEASE,
        ORDER_RELEASE,
        0,
        0,
    ]
    small.control("resume")
    assert small.jobs() == ["requeue"]
    small.work_off()
    assert [small.task(number).last.order for number in range(6)] == [0] * 6
    small.control("pause")
    small.control("cancel")
    assert small.jobs() == ["stop"], "what is stopped is not asked back"
    small.work_off()
    assert [small.task(number).last.order for number in range(6)] == [ORDER_STOP] * 6


def test_attempts_that_are_placed_after_a_new_priority_are_not_asked_back(small):
    small.register(cpu=1, prefetch=9)
    small.submit(small.bag(6))
    small.place(0, 1, 2)
    small.do(c.SetPriority(at_ms=small.now_ms, actor="x", workflow_id="wf-1", priority=1))
    small.place(5)
    small.work_off()
    assert [small.task(number).last.order for number in (0, 1, 2, 5)] == [0, ORDER_RELEASE, ORDER_RELEASE, 0]


# --- agents


def test_the_attempts_of_a_lost_agent_end_in_pieces(small):
    small.register(cpu=9)
    small.register("a2", cpu=9)
    small.submit(small.bag(4, timeout_ms=1))
    fences = small.place(0, 1, 2, 3)
    ends = [small.end(fence) for fence in fences]
    small.remove()
    assert (small.jobs(), small.states()) == (["remove_agent"], "ERRR")
    assert small.report(ends[1]).code is RejectionCode.STALE_INCARNATION
    assert small.register(instance="i2").code is RejectionCode.PENDING
    assert small.forget().code is RejectionCode.PENDING
    copy = Machine(limits=LIMITS)
    copy.restore(small.machine.snapshot())
    assert check(copy) == []
    assert b"".join(copy.snapshot()) == small.encoding()
    assert small.fire(after_ms=100_000) == 3, "an attempt that is overdue there ends as overdue"
    small.work_off()
    assert [small.task(number).last.outcome for number in range(2)] == [AttemptOutcome.LOST, AttemptOutcome.TIMEOUT]
    assert small.register(instance="i2").incarnation == 3
    assert small.task(0).mishaps.agents_lost == 1


def test_a_process_does_not_take_the_place_of_an_agent_with_many_attempts(small):
    small.register(cpu=9)
    small.submit(small.bag(3))
    small.place(0, 1, 2)
    before = small.facts()
    refused = small.register(instance="i2")
    assert (refused.code, "remove it first" in refused.message) == (RejectionCode.PENDING, True)
    assert small.facts() == before
    small.remove()
    small.work_off()
    assert small.register(instance="i2").incarnation == 2


def test_an_agent_whose_attempts_have_not_ended_is_not_forgotten_for_another(small, monkeypatch):
    monkeypatch.setattr("raftflow.domain.limits.AGENTS_MAX", 1)
    small.register(cpu=9)
    small.submit(small.bag(4))
    small.place(0, 1, 2)
    small.remove()
    assert small.register("a2").code is RejectionCode.LIMIT
    small.work_off()
    assert small.register("a2").incarnation == 2


# --- what must hold


def test_faults_of_the_agenda_are_found(small):
    small.register(cpu=9)
    small.submit(small.bag(5))
    small.checked = False
    agenda, workflow = small.machine.state.agenda, small.machine.state.workflows["wf-1"]
    for job in (
        AgendaJob(JobKind.REMOVE_AGENT, "a1"),
        AgendaJob(JobKind.STOP, "wf-1"),
        AgendaJob(JobKind.REQUEUE, "wf-7"),
    ):
        agenda.put(job)
    job.subject = "wf-9"
    workflow.held = True
    assert check(small.machine) == [
        (
            "workflow wf-1: is held although it is neither paused nor blocked, nor its budget used up, "
            "or the other way round"
        ),
        "the agenda ends the attempts of agent a1, which is present or unknown",
        f"the job {job.key} is in the agenda under another key",
        "workflow wf-1: 0 jobs counted, the agenda has 1",
        "workflow wf-1: does not match the agenda, which blocks it or not",
        "the agenda has a job for workflow wf-9, which is not there",
    ]


def test_an_absent_agent_is_told_to_stop_nothing(small):
    small.register()
    small.remove()
    small.machine.state.agents["a1"].void = [1]
    assert check(small.machine) == ["agent a1: is lost and is still told to stop attempts"]


# --- snapshots and restoring


def test_a_restored_cluster_begins_with_an_empty_agenda(small):
    small.register(cpu=9)
    small.submit(small.bag(6))
    small.place(0, 1, 2)
    small.remove()
    small.control("cancel")
    assert small.jobs() == ["remove_agent", "stop"]
    small.machine.begin_cluster(small.index + 1, 2, Restoration("new", "old", small.now_ms))
    assert (small.jobs(), small.states(), check(small.machine)) == ([], "CCCCCC", [])


def test_a_job_for_a_workflow_that_is_not_there_makes_a_snapshot_unreadable(small):
    small.machine.state.agenda.put(AgendaJob(JobKind.STOP, "nobody"))
    pieces = list(small.machine.snapshot())
    with pytest.raises(SnapshotError, match="which is not there"):
        Machine().restore(pieces)
