"""What the machine answers when it is asked."""

from __future__ import annotations

import msgspec
import pytest

from raftflow.domain.contract.views import AgentView, Assignment, AttemptView, LedgerLine, LedgerView, TaskCounts
from raftflow.domain.tasks.feasibility import AgentRoom, ReadyTask, Shape
from raftflow.domain.tasks.program import AssignedCall, CommandLine, PythonCall
from raftflow.machine.read import queries as q


def test_a_workflow_is_shown_with_its_counts_and_times(drive):
    drive.register(prefetch=1)
    drive.submit(drive.tasks((), (), (), (0,), priority=70))
    drive.place(0, 1)
    view = q.workflow_view(drive.machine, "wf-1")
    assert (view.state, view.priority, view.submitted_at) == ("running", 70, "2023-11-14T22:13:20.000Z")
    assert view.tasks == TaskCounts(total=4, running=1, ready=2, waiting=1)
    assert view.finished_at is None
    drive.now_ms += 1_500
    drive.control("cancel")
    drive.report(drive.end(1), drive.end(2, "released"))
    view = q.workflow_view(drive.machine, "wf-1")
    assert (view.state, view.finished_at) == ("cancelled", "2023-11-14T22:13:21.500Z")
    assert view.tasks == TaskCounts(total=4, succeeded=1, cancelled=3)
    assert q.workflow_view(drive.machine, "wf-9") is None


def test_workflows_are_listed_newest_first_in_pages(drive):
    for number in range(1, 6):
        drive.submit(workflow_id=f"wf-{number}")
    drive.control("cancel", "wf-4")

    def page(state, limit, cursor=None):
        found = q.workflow_page(drive.machine, state, limit, cursor)
        return [view.id for view in found.workflows], found.next

    assert page(None, 2) == (["wf-5", "wf-4"], "4")
    drive.submit(workflow_id="wf-6")
    assert page(None, 2, "4") == (["wf-3", "wf-2"], "2")
    assert page(None, 2, "2") == (["wf-1"], None)
    assert page("pending", 4) == (["wf-6", "wf-5", "wf-3", "wf-2"], "2")
    assert page("cancelled", 100) == (["wf-4"], None)
    assert page(None, 0) == (["wf-6"], "6")
    with pytest.raises(ValueError, match="not a cursor"):
        page(None, 1, "x")


def test_tasks_are_listed_in_document_order_in_pages(drive):
    drive.submit(drive.chain(3))
    first = q.task_page(drive.machine, "wf-1", 2, None)
    assert ([task.id for task in first.tasks], first.next) == (["t0", "t1"], "2")
    rest = q.task_page(drive.machine, "wf-1", 2, "2")
    assert ([task.id for task in rest.tasks], rest.next) == (["t2"], None)
    assert q.task_page(drive.machine, "wf-9", 2, None) is None


def test_a_task_is_shown_with_its_attempts(drive):
    drive.register(prefetch=1)
    drive.submit(drive.tasks((), (0,), retries=1))
    task = q.task_view(drive.machine, "wf-1", "t1")
    assert (task.state, task.attempt, task.agent, task.needs, task.history) == ("waiting", 0, None, ["t0"], [])
    drive.place(0)
    drive.finish(1, "failed", exit_code=2, error="boom")
    assert q.task_view(drive.machine, "wf-1", "t0").detail == "next attempt at 2023-11-14T22:13:21.000Z"
    drive.fire(1_000)
    drive.place(0)
    drive.finish(2, result=b'{"n": 1}')
    task = q.task_view(drive.machine, "wf-1", "t0")
    assert msgspec.json.decode(msgspec.json.encode(task))["result"] == {"n": 1}
    at = "2023-11-14T22:13:20.000Z"
    assert task.history[0] == AttemptView(
        attempt=1,
        fence=1,
        agent="a1",
        outcome="failed",
        exit_code=2,
        error="boom",
        assigned_at=at,
        started_at=at,
        finished_at=at,
        index=3,
    )
    assert (task.history[1].outcome, task.started_at) == ("succeeded", "2023-11-14T22:13:21.000Z")
    assert q.task_page(drive.machine, "wf-1", 1, None).tasks[0].history == []
    assert q.task_view(drive.machine, "wf-1", "t9") is None
    assert q.task_view(drive.machine, "wf-9", "t0") is None


def test_details_of_live_attempts(drive):
    drive.register(prefetch=1)
    drive.submit(drive.bag(2))
    drive.place(0, 1)

    def details():
        return [task.detail for task in q.task_page(drive.machine, "wf-1", 9, None).tasks]

    assert details() == ["", "queued on a1"]
    drive.control("cancel")
    assert details() == ["stopping", "stopping"]


def test_where_an_attempt_ran(drive):
    drive.register(cpu=2)
    drive.submit()
    assert q.attempt_location(drive.machine, "wf-1", "t0", None) is None
    drive.place(0)
    drive.finish(1, "abandoned")
    drive.place(0)
    assert q.attempt_location(drive.machine, "wf-1", "t0", None) == ("a1", 2, 2)
    assert q.attempt_location(drive.machine, "wf-1", "t0", 1) == ("a1", 1, 1)
    assert q.attempt_location(drive.machine, "wf-1", "t0", 3) is None
    assert q.attempt_location(drive.machine, "wf-1", "t9", None) is None


def test_agents_and_the_ledger(drive):
    drive.register("b", cpu=2, prefetch=1, labels={"zone": "a"})
    drive.register("a", capacity={"memory": 512})
    drive.remove("a")
    drive.submit(drive.bag(2, resources={"cpu": 1500}))
    drive.place(0, 1, agent="b")
    assert [view.name for view in q.agent_list(drive.machine)] == ["a", "b"]
    assert q.agent_view(drive.machine, "b") == AgentView(
        id="b",
        name="b",
        state="up",
        incarnation=1,
        resources={"cpu": 2},
        allocated={"cpu": 1.5},
        labels={"zone": "a"},
        running=1,
        queued=1,
    )
    assert q.agent_view(drive.machine, "c") is None
    assert q.ledger_view(drive.machine) == LedgerView(
        index=drive.index, agents=[LedgerLine(name="b", capacity={"cpu": 2}, allocated={"cpu": 1.5})]
    )


def test_an_assignment_carries_all_that_the_agent_needs(drive):
    drive.register(cpu=1, prefetch=2)
    drive.submit(drive.tasks((), (), (0, 1), program=PythonCall("m:f", b"[1]"), timeout_ms=5, env={"A": "b"}))
    drive.submit(workflow_id="wf-2")
    drive.place(0, 1)
    drive.report(drive.end(1, result=b'{"x":1}'), drive.end(2))
    drive.place(2)
    drive.place(0, workflow_id="wf-2")
    first, second = q.assignments(drive.machine, "a1", 0)
    assert first == Assignment(
        fence=3,
        workflow_id="wf-1",
        workflow_name="test",
        task_id="t2",
        attempt=1,
        resources={"cpu": 1000},
        program=AssignedCall("m:f", msgspec.Raw(b"[1]")),
        env={"A": "b"},
        timeout_ms=5,
        inputs={"t0": msgspec.Raw(b'{"x":1}'), "t1": msgspec.Raw(b"null")},
    )
    assert second.program == CommandLine(("true",))
    assert [each.fence for each in q.assignments(drive.machine, "a1", 3)] == [4]
    assert q.live_fences(drive.machine, "a1") == [3, 4]
    assert (q.assignments(drive.machine, "a9", 0), q.live_fences(drive.machine, "a9")) == ([], [])
    assert q.orders(drive.machine, "a9") == ([], [])


def test_keyword_arguments_arrive(drive):
    drive.register()
    drive.submit(drive.bag(1, program=PythonCall("m:f", kwargs=b'{"a":1}')))
    drive.place(0)
    (assignment,) = q.assignments(drive.machine, "a1", 0)
    assert (bytes(assignment.program.args), bytes(assignment.program.kwargs)) == (b"[]", b'{"a":1}')


def test_what_the_scheduler_is_told(drive):
    drive.register("a2", cpu=2, prefetch=3, labels={"zone": "a"})
    drive.register("a1")
    drive.register("a3")
    drive.drain_leaving("a3")
    drive.submit(drive.chain(2), "wf-1")
    drive.submit(drive.bag(2), "wf-2")
    drive.submit(drive.bag(1), "wf-3")
    drive.control("pause", "wf-3")
    drive.place(0, agent="a2", workflow_id="wf-2")
    assert list(q.ready_tasks(drive.machine)) == [("wf-1", 0), ("wf-2", 1)]
    assert q.workflows_with_ready(drive.machine) == ["wf-1", "wf-2"]
    looks = [("wf-1", 0, 5), ("wf-1", 0, 1), ("wf-1", 1, 1), ("wf-2", 0, 2), ("wf-2", 2, 2), ("wf-9", 0, 2)]
    assert [q.ready_positions(drive.machine, *look) for look in looks] == [
        ([0], 2), ([0], 1), ([], 1), ([1], 2), ([], 0), ([], 0)
    ]  # fmt: skip
    assert q.ready_task(drive.machine, "wf-1", 0) == ReadyTask(
        workflow_id="wf-1",
        task=0,
        shape=Shape((("cpu", 1000),)),
        priority=50,
        rank=2_000,
        number=1,
        age=drive.now_ms // 300_000,
    )
    for workflow_id, task in (("wf-1", 1), ("wf-3", 0), ("wf-9", 0), ("wf-1", 7)):
        assert q.ready_task(drive.machine, workflow_id, task) is None
    assert [room.name for room in q.agent_rooms(drive.machine)] == ["a1", "a2"]
    assert q.agent_room(drive.machine, "a2") == AgentRoom(
        name="a2",
        incarnation=1,
        capacity={"cpu": 2000},
        free={"cpu": 1000},
        labels={"zone": "a"},
        queued=0,
        prefetch=3,
        running=1,
    )
    assert q.agent_room(drive.machine, "a3") is None
    assert q.agent_room(drive.machine, "a9") is None


def _ready(drive, task):
    return q.ready_task(drive.machine, "wf-1", task)


def test_near_is_where_most_of_what_it_needs_was_made(drive):
    for name in ("a1", "a2", "a3", "a4", "a5"):
        drive.register(name, cpu=4)
    drive.submit(drive.tasks((), (), (), (), (), (), (0,), (0, 1, 2, 3, 4, 5)))
    for task, agent in enumerate(("a5", "a1", "a2", "a2", "a3", "a4")):
        (fence,) = drive.place(task, agent=agent)
        drive.finish(fence, agent=agent)
    assert _ready(drive, 6).near == ("a5",)
    assert _ready(drive, 7).near == ("a2", "a5", "a1", "a3")
    # A result that no attempt made is nowhere.
    drive.task(2).last = drive.task(0).last = None
    assert _ready(drive, 6).near == ()
    assert _ready(drive, 7).near == ("a1", "a2", "a3", "a4")


def test_what_was_lost_goes_first_and_elsewhere(drive):
    drive.register("a1")
    drive.register("a2")
    drive.submit(drive.bag(2, retries=3, retry_delay_ms=1_000))
    drive.place(0)
    drive.place(1, agent="a2")
    drive.remove("a1")
    lost = _ready(drive, 0)
    assert (lost.lost, lost.avoid, lost.avoid_hard) == (True, (), ("a1",))
    drive.finish(2, "failed", agent="a2")
    drive.fire(1_000)
    failed = _ready(drive, 1)
    assert (failed.lost, failed.avoid, failed.avoid_hard) == (False, (), ("a2",)), "nothing has succeeded there since"
    (fence,) = drive.place(0, agent="a2")
    drive.finish(fence, "abandoned", agent="a2")
    both = _ready(drive, 0)
    assert (both.lost, both.avoid, both.avoid_hard) == (True, (), ("a1", "a2"))
    (fence,) = drive.place(0, agent="a2")
    drive.finish(fence, "released", agent="a2")
    assert not _ready(drive, 0).lost


def test_budgets_are_what_the_limit_leaves(drive):
    drive.register("a1", cpu=1, prefetch=1)
    drive.submit(msgspec.structs.replace(drive.bag(4), max_parallel=3))
    drive.submit(drive.bag(1), "wf-2")
    assert (_ready(drive, 0).limited, q.ready_task(drive.machine, "wf-2", 0).limited) == (True, False)
    assert q.budget(drive.machine, "wf-1") == 3
    drive.place(0, 1)
    assert [q.budget(drive.machine, name) for name in ("wf-1", "wf-2", "wf-9")] == [1, None, None]


def test_what_runs_holds_its_demand_until_it_is_expected_to_end(drive):
    drive.register("a1", cpu=2, prefetch=2)
    drive.submit(drive.tasks((), (0,), (), (), expected_ms=5_000))
    drive.place(0, 2, 3)
    assert q.holdings(drive.machine, "a1") == [(drive.now_ms + 5_000, (("cpu", 1_000),))] * 2
    assert q.holdings(drive.machine, "a9") == []
