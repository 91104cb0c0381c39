"""Uploads on the leader: one piece in the log at a time, ends of all kinds, and what a new leader drops."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.coordinator.commit.submitter import BusyError, NoLeaderError, NotLeaderError, OutcomeUnknownError
from raftflow.coordinator.placement import planner
from raftflow.coordinator.uploads.submission import WorkflowSubmission, submission_of
from raftflow.coordinator.uploads.workflow_uploads import ClientGoneError
from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.events import WorkflowNotReady, WorkflowReady
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import WorkflowAccepted
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.read import queries
from raftflow.replication.log import Unknown


def submission(count: int = 10, request_id: str = "", tasks_max: int = 2, priority: int = 50) -> WorkflowSubmission:
    tasks = tuple(TaskSpec(id=f"t{n}", program=CommandLine(("true",))) for n in range(count))
    spec = WorkflowSpec(name="w", tasks=tasks, priority=priority)
    return submission_of(spec, request_id, {}, tasks_max=tasks_max)


def begin(one: Any, workflow_id: str = "wf-1", request_id: str = "", **options: Any) -> asyncio.Task[Any]:
    wanted = options.pop("wanted", lambda: True)
    return asyncio.create_task(
        one.replica.uploads.submit(
            submission(request_id=request_id, **options),
            workflow_id=workflow_id,
            request_id=request_id,
            actor="client:test",
            wanted=wanted,
        )
    )


class Log:
    """What a replica's log takes in, and a gate in front of it."""

    def __init__(self, one: Any) -> None:
        self.commands: list[c.AnyCommand] = []
        self.open = asyncio.Event()
        self.open.set()
        self.closes_after = -1
        self.fails_at: int | None = None
        self._submit = one.log.submit
        one.log.submit = self.submit

    async def submit(self, entry: bytes, timeout_s: float) -> Any:
        commands = c.decode_entry(entry).commands
        self.commands += commands
        await self.open.wait()
        if self.fails_at is not None and any(
            isinstance(command, c.AddTasks) and command.number == self.fails_at for command in commands
        ):
            self.fails_at = None
            return Unknown("timeout")
        outcome = await self._submit(entry, timeout_s)
        self.closes_after -= 1
        if self.closes_after == 0:
            self.open.clear()
        return outcome

    def names(self) -> list[str]:
        return [type(command).__name__ for command in self.commands]


async def test_it_goes_in_piece_by_piece(bench: Any) -> None:
    one = await bench()
    log = Log(one)
    reply = await begin(one, request_id="r")
    assert isinstance(reply, WorkflowAccepted) and reply.workflow_id == "wf-1"
    assert log.names() == ["BeginWorkflow", *["AddTasks"] * 5, "FinishWorkflow"]
    assert [command.number for command in log.commands if isinstance(command, c.AddTasks)] == list(range(5))
    assert len(one.machine.state.workflows["wf-1"].tasks) == 10
    assert await begin(one, "wf-2", request_id="r") == reply
    assert log.names()[7:] == ["FinishWorkflow"], "what was answered is not sent again"
    assert (await begin(one, "wf-3", request_id="r", count=11)).code is RejectionCode.REQUEST_MISMATCH


async def test_a_forgotten_answer_begins_anew(bench: Any, monkeypatch: Any) -> None:
    """It was remembered when the submission came, and not when its end was applied."""
    one = await bench()
    known = ["an answer"]
    monkeypatch.setattr(one.machine.state.requests, "get", lambda _id: known.pop() if known else None)
    assert isinstance(await begin(one, request_id="r"), WorkflowAccepted)


async def test_uploads_take_turns_and_others_go_in_between(bench: Any) -> None:
    one = await bench()
    log = Log(one)
    log.closes_after = 4
    first, second = begin(one, "big-1"), begin(one, "big-2")
    await one.until(lambda: not log.open.is_set())
    small = asyncio.create_task(one.submit("small"))
    await asyncio.sleep(0)
    log.open.set()
    await asyncio.gather(first, second, small)
    adds = [command.workflow_id for command in log.commands if isinstance(command, c.AddTasks)]
    assert adds == ["big-1", "big-2"] * 5
    assert log.names().index("SubmitWorkflow") < len(log.commands) - 4


async def test_only_one_piece_is_in_the_log(bench: Any) -> None:
    one = await bench()
    log = Log(one)
    log.closes_after = 2
    uploads = [begin(one, f"wf-{n}") for n in range(4)]
    await one.until(lambda: not log.open.is_set())
    await asyncio.sleep(0.05)
    begun = log.names().count("AddTasks")
    assert begun <= 2
    log.open.set()
    await asyncio.gather(*uploads)


async def test_what_the_client_left_is_dropped(bench: Any) -> None:
    one = await bench()
    asked = iter([True, True, False])
    with pytest.raises(ClientGoneError):
        await begin(one, wanted=lambda: next(asked))
    await one.until(lambda: not one.machine.state.uploads)
    assert (one.machine.state.workflows, one.machine.state.upload_tasks) == ({}, 0)


async def test_a_cancelled_upload_is_dropped(bench: Any) -> None:
    one = await bench()
    log = Log(one)
    log.closes_after = 3
    task = begin(one)
    await one.until(lambda: not log.open.is_set())
    task.cancel()
    log.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await one.until(lambda: "DropUploads" in log.names() and not one.machine.state.uploads)


async def test_one_that_is_torn_down_without_a_loop_asks_nothing_of_it(bench: Any) -> None:
    one = await bench()
    upload = one.replica.uploads.submit(submission(), workflow_id="wf-1", request_id="", actor="client:test")
    upload.send(None)
    await one.until(lambda: one.machine.state.uploads)
    await asyncio.to_thread(upload.close)


async def test_a_piece_without_an_answer_ends_it_for_certain(bench: Any) -> None:
    """Nothing was taken in, and the client may be told so: it need not wonder."""
    one = await bench()
    log = Log(one)
    log.fails_at = 2
    with pytest.raises(NoLeaderError, match="was not taken in"):
        await begin(one, request_id="r")
    await one.until(lambda: not one.machine.state.uploads)
    assert isinstance(await begin(one, "wf-2", request_id="r"), WorkflowAccepted)


async def test_an_end_without_an_answer_is_unknown(bench: Any) -> None:
    one = await bench()
    submit = one.log.submit

    async def lost(entry: bytes, timeout_s: float) -> Any:
        outcome = await submit(entry, timeout_s)
        return Unknown("timeout") if b"workflow.finish" in entry else outcome

    one.log.submit = lost
    with pytest.raises(OutcomeUnknownError):
        await begin(one, request_id="r")
    one.log.submit = submit
    assert (await begin(one, "wf-2", request_id="r")).workflow_id == "wf-1"


async def test_a_refusal_is_handed_on_and_leaves_nothing(bench: Any, monkeypatch: Any) -> None:
    one = await bench()
    refused = await begin(one, "wf 1")
    assert refused.code is RejectionCode.INVALID
    monkeypatch.setattr(limits, "PIECE_TASKS_MAX", 1)
    refused = await begin(one)
    assert refused.code is RejectionCode.INVALID and "in a piece" in refused.message
    await one.until(lambda: not one.machine.state.uploads)


async def test_too_many_at_once_are_busy_and_too_many_tasks_are_refused(bench: Any, monkeypatch: Any) -> None:
    one = await bench()
    monkeypatch.setattr(limits, "UPLOADS_MAX", 0)
    with pytest.raises(BusyError, match="are being taken in"):
        await begin(one)
    monkeypatch.setattr(limits, "UPLOADS_MAX", 8)
    monkeypatch.setattr(limits, "LIVE_TASKS_MAX", 9)
    assert (await begin(one)).code is RejectionCode.LIMIT


async def test_another_leader_drops_it(bench: Any) -> None:
    one = await bench()
    log = Log(one)
    log.closes_after = 3
    task = begin(one, request_id="r")
    await one.until(lambda: not log.open.is_set())
    one.log.lose_leadership()
    log.open.set()
    with pytest.raises((NoLeaderError, NotLeaderError)):
        await task
    assert list(one.machine.state.uploads) == ["wf-1"], "it is there until somebody leads"
    one.log.gain_leadership()
    await one.until(lambda: not one.machine.state.uploads)
    assert isinstance(await begin(one, "wf-2", request_id="r"), WorkflowAccepted)


async def test_one_that_led_before_and_leads_again_is_another_leader(bench: Any) -> None:
    one = await bench()
    log = Log(one)
    log.closes_after = 3
    task = begin(one)
    await one.until(lambda: not log.open.is_set())
    one.replica.uploads.stop()
    one.replica.uploads.start()
    log.open.set()
    with pytest.raises(NoLeaderError):
        await task
    await one.until(lambda: not one.machine.state.uploads)


async def test_a_request_id_is_worked_on_once_at_a_time(bench: Any) -> None:
    one = await bench()
    uploads = one.replica.uploads
    order: list[str] = []

    async def work(name: str, request_id: str) -> None:
        async with uploads.alone(request_id):
            order.append(f"{name} begins")
            await asyncio.sleep(0.01)
            order.append(f"{name} ends")

    await asyncio.gather(work("a", "r"), work("b", "r"), work("c", ""), work("d", ""))
    assert order.index("a ends") < order.index("b begins")
    assert order.index("d begins") < order.index("c ends"), "those without one do not wait"
    assert uploads._requests == {}


async def test_the_planner_takes_it_in_slices(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(planner, "SLICE", 3)
    one = await bench()
    await begin(one, count=10)
    await begin(one, "wf-2", count=4, priority=90)
    await one.until(lambda: len(one.replica.planner._queue) == 14)
    queue = one.replica.planner
    queue.reset()
    assert queue.behind
    assert {key: len(waiting.entries) for key, waiting in queue._queue._table.items()} == {"wf-2": 3}, (
        "the most urgent first"
    )
    assert queue.plan_speculatively("a1", ()) == ()
    queue.plan()
    assert not queue.settled
    while queue.behind:
        queue.catch_up()
    assert len(queue._queue) == 14
    queue.plan()
    assert queue.settled


async def test_workflows_of_one_priority_are_taken_in_in_turn(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(planner, "SLICE", 3)
    one = await bench()
    await begin(one, count=10)
    await begin(one, "wf-2", count=4)
    await one.until(lambda: len(one.replica.planner._queue) == 14)
    queue = one.replica.planner
    queue.reset()
    seen = []
    while queue.behind:
        queue.catch_up()
        seen.append({key: len(waiting.entries) for key, waiting in queue._queue._table.items()})
    assert seen[0] == {"wf-1": 3, "wf-2": 3}, "the small one does not wait for the large one"
    assert seen[-1] == {"wf-1": 10, "wf-2": 4}


async def test_what_is_in_line_may_change_meanwhile(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(planner, "SLICE", 3)
    one = await bench()
    await begin(one, count=10)
    one.replica.planner.reset()
    await one.replica.propose(c.ControlWorkflow(at_ms=1, actor="client:t", workflow_id="wf-1", action="cancel"))
    await one.until(lambda: not one.replica.planner.behind)
    assert list(queries.ready_tasks(one.machine)) == []
    await one.until(lambda: len(one.replica.planner._queue) == 0)


async def test_a_paused_workflow_leaves_and_comes_back_in_slices(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(planner, "SLICE", 3)
    one = await bench()
    await begin(one, count=10)
    queue = one.replica.planner
    await one.until(lambda: len(queue._queue) == 10)

    async def control(action: Any) -> None:
        await one.replica.propose(c.ControlWorkflow(at_ms=1, actor="client:t", workflow_id="wf-1", action=action))

    await control("pause")
    assert queue.behind and not queue.settled
    await one.until(lambda: not queue.behind)
    assert len(queue._queue) == 0
    await control("resume")
    await one.until(lambda: len(queue._queue) == 10)
    # One that goes on before it has left: what ended meanwhile does not stay behind.
    await asyncio.gather(control("pause"), control("cancel"))
    await one.until(lambda: not queue.behind)
    assert len(queue._queue) == 0
    await asyncio.gather(control("retry"), control("pause"), control("resume"))
    await one.until(lambda: not queue.behind)
    assert len(queue._queue) == 10


async def test_workflows_that_are_gone_by_the_end_of_the_entry(bench: Any) -> None:
    one = await bench()
    one.replica.planner.observe([WorkflowReady("wf-9"), WorkflowNotReady("wf-9")])
    assert not one.replica.planner.behind


async def test_new_leader_places_what_is_ready(bench: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(planner, "SLICE", 3)
    one = await bench()
    await begin(one, count=10)
    one.log.lose_leadership()
    one.log.gain_leadership()
    await one.register(cpu=20, prefetch=4)
    await one.until(lambda: len(one.machine.state.agents["a1"].live) == 10)
