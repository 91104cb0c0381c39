"""What polls are answered and when, under every order in which things can happen."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import pytest

from raftflow.coordinator.commit.submitter import BusyError, NoLeaderError, OutcomeUnknownError
from raftflow.coordinator.config.replica_config import Limits
from raftflow.coordinator.leader import pauses
from raftflow.coordinator.leader.pauses import BEAT_S, PAUSE_MAX_S
from raftflow.coordinator.sessions import instructions, poll_turns
from raftflow.coordinator.sessions import poll_service as polls_module
from raftflow.coordinator.sessions.agent_session import Poll
from raftflow.domain import limits
from raftflow.domain.commands import ControlWorkflow, DrainAgent, RemoveAgent
from raftflow.domain.contract.views import PollRequest, PollResponse
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.states import AgentState, TaskState, WorkflowState
from raftflow.machine.read import invariants
from raftflow.replication.errors import NoQuorumError
from raftflow.replication.log import Unknown


async def held(one: Any, count: int = 1) -> None:
    await one.until(lambda: one.poll_service.held == count)


async def control(one: Any, workflow: str, action: Any) -> None:
    await one.replica.propose(
        ControlWorkflow(at_ms=one.clock.ms, actor="client:x", workflow_id=workflow, action=action)
    )


async def test_a_held_poll_is_answered_when_work_arrives(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    polling = asyncio.ensure_future(one.work(incarnation, 1))
    await held(one)
    workflow = await one.submit("t")
    answer = await polling
    assert [(item.workflow_id, item.task_id, item.attempt) for item in answer.assign] == [(workflow, "t", 1)]
    assert one.poll_service.held == 0


def confirm_for_long(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this leader confirmed, and take no delay of this machine for a pause."""
    monkeypatch.setattr(pauses, "PAUSE_MAX_S", 1_000.0)
    one.replica.leader.liveness.pauses.note_confirmed(asyncio.get_running_loop().time())


def pause_the_process(one: Any) -> None:
    """Block the loop as a stopped process would, for longer than a leader may trust its own role."""
    time.sleep(PAUSE_MAX_S + BEAT_S)
    assert one.replica.leader.liveness.pauses.was_paused(asyncio.get_running_loop().time())


async def test_a_leader_that_was_paused_renews_no_lease_before_a_majority_confirms_it(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that arrived during the pause would renew a lease behind the back of a new leader."""
    one = await bench()
    incarnation = await one.register()
    await one.poll(incarnation, 1, wait_ms=0)

    async def read_index(_timeout_s: float) -> int:
        raise NoQuorumError("no_quorum")

    monkeypatch.setattr(one.log, "read_index", read_index)
    assert isinstance(await one.poll(incarnation, 2, wait_ms=0), PollResponse), "it need not ask without a pause"
    polling = asyncio.ensure_future(one.poll(incarnation, 3, wait_ms=100))
    await held(one)
    pause_the_process(one)
    await asyncio.sleep(3 * BEAT_S)  # beats alone do not end the pause
    assert not polling.done()
    one.log.lose_leadership()
    with pytest.raises(NoLeaderError):
        await polling
    assert one.poll_service.held == 0


async def test_a_leader_that_was_paused_answers_when_a_majority_has_confirmed_it(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    polling = [asyncio.ensure_future(one.poll(incarnation, seq, wait_ms=1)) for seq in (1, 2)]
    pause_the_process(one)
    assert all(isinstance(answer, PollResponse) for answer in await asyncio.gather(*polling))
    await one.submit("t")
    assert [item.task_id for item in (await one.work(incarnation, 3)).assign] == ["t"]
    assert not one.replica.leader.liveness.pauses.was_paused(asyncio.get_running_loop().time())


async def test_a_new_leader_asks_a_majority_once_before_its_first_answer(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its election may have ended before a pause."""
    one = await bench()
    incarnation = await one.register()
    asked = 0
    read_index = one.log.read_index

    async def counted(timeout_s: float) -> Any:
        nonlocal asked
        asked += 1
        return await read_index(timeout_s)

    monkeypatch.setattr(one.log, "read_index", counted)
    for seq in range(1, 6):
        await one.poll(incarnation, seq, wait_ms=0)
    assert asked == 1


async def test_an_idle_poll_is_held_as_long_as_it_asks_and_no_longer(bench: Any) -> None:
    one = await bench(poll_wait_ms=60)
    incarnation = await one.register()
    loop = asyncio.get_running_loop()
    started = loop.time()
    answer = await one.poll(incarnation, 1, wait_ms=0)
    nothing = PollResponse(lease_ms=5_000, feature_level=one.machine.state.feature_level)
    assert (answer, loop.time() - started < 0.05) == (nothing, True)
    await one.poll(incarnation, 2, wait_ms=60_000)
    assert 0.05 < loop.time() - started < 1.0


async def test_the_answer_to_a_report_carries_what_was_placed_because_of_it(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("a", "b<a", "c<b")
    seen = 0
    for seq, (task, following) in enumerate([("a", "b"), ("b", "c"), ("c", None)], start=2):
        if not seen:
            seen = (await one.work(incarnation, 1)).assign[0].fence
        answer = await one.poll(incarnation, seq, seen=seen, ends=[one.end(seen, workflow, task)])
        assert [verdict.verdict for verdict in answer.verdicts] == ["accepted"]
        assert [item.task_id for item in answer.assign] == ([following] if following else [])
        seen = answer.assign[0].fence if following else seen
    assert one.machine.state.workflows[workflow].state is WorkflowState.SUCCEEDED


async def test_an_answer_that_was_lost_is_given_again(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("a", "b<a")
    first = (await one.work(incarnation, 1)).assign[0].fence
    report = {"seen": first, "ends": [one.end(first, workflow, "a")]}
    lost = await one.poll(incarnation, 2, **report)
    again = await one.poll(incarnation, 3, **report)
    assert [verdict.verdict for verdict in again.verdicts] == ["duplicate"]
    assert [item.fence for item in again.assign] == [item.fence for item in lost.assign]


async def test_a_newer_poll_answers_the_held_one_at_once(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    older = asyncio.ensure_future(one.work(incarnation, 1))
    await held(one)
    newer = asyncio.ensure_future(one.work(incarnation, 2))
    assert (await asyncio.wait_for(older, 0.5)).assign == []
    await held(one)
    await one.submit("t")
    assert len((await newer).assign) == 1


async def test_polls_that_arrive_in_the_wrong_order(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    newer = asyncio.ensure_future(one.work(incarnation, 5))
    await held(one)
    older = await asyncio.wait_for(one.work(incarnation, 4), 0.5)
    assert older.assign == []
    assert not newer.done(), "the late one does not disturb the one that counts"
    await one.submit("t")
    assert len((await newer).assign) == 1


async def test_the_same_poll_twice_leaves_one_held(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    first = asyncio.ensure_future(one.work(incarnation, 1))
    await held(one)
    second = asyncio.ensure_future(one.work(incarnation, 1))
    await asyncio.wait_for(first, 0.5)
    await held(one)
    await one.submit("t")
    assert len((await second).assign) == 1


async def test_an_attempt_that_the_agent_dropped_is_missed_and_runs_again(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    answer = await one.work(incarnation, 2, seen=fence, running=[fence])
    assert answer.assign == []
    task = one.machine.state.workflows[workflow].tasks[0]
    assert task.state is TaskState.RUNNING
    answer = await one.work(incarnation, 3, seen=fence)
    await one.until(lambda: task.attempts == 2)
    answer = await one.work(incarnation, 4, seen=fence)
    assert [item.attempt for item in answer.assign] == [2]


async def test_what_was_not_sent_is_not_missed(bench: Any) -> None:
    """A poll that was written before an assignment says nothing about it, however late it arrives."""
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    await one.work(incarnation, 2)
    await one.work(incarnation, 1)
    assert one.machine.state.workflows[workflow].tasks[0].attempts == 1


async def test_an_old_poll_does_not_revive_or_miss_what_was_reported_since(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("a", "b<a")
    first = (await one.work(incarnation, 1)).assign[0].fence
    answer = await one.work(incarnation, 3, seen=first, ends=[one.end(first, workflow, "a")])
    second = answer.assign[0].fence
    late = await one.work(incarnation, 2, seen=first, running=[first])
    assert late.stop == [first], "it is over; to stop it is harmless"
    tasks = one.machine.state.workflows[workflow].tasks
    assert [task.attempts for task in tasks] == [1, 1]
    answer = await one.work(incarnation, 4, seen=second, ends=[one.end(second, workflow, "b")])
    assert one.machine.state.workflows[workflow].state is WorkflowState.SUCCEEDED


async def test_a_stop_is_told_at_once_and_then_repeated_calmly(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polls_module, "REPEAT_S", 0.15)
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    polling = asyncio.ensure_future(one.work(incarnation, 2, seen=fence, running=[fence]))
    await held(one)
    await control(one, workflow, "cancel")
    assert (await asyncio.wait_for(polling, 0.5)).stop == [fence]
    loop = asyncio.get_running_loop()
    started = loop.time()
    assert (await one.work(incarnation, 3, seen=fence, running=[fence])).stop == [fence]
    assert loop.time() - started > 0.1, "no tight loop while the attempt takes its time to end"
    end = one.end(fence, workflow, "t", "cancelled")
    assert (await one.work(incarnation, 4, seen=fence, ends=[end])).stop == []
    assert one.machine.state.workflows[workflow].state is WorkflowState.CANCELLED


async def test_an_attempt_cancelled_before_it_was_sent_still_comes_to_an_end(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    await one.until(lambda: one.machine.state.agents["a1"].live)
    await control(one, workflow, "cancel")
    answer = await one.work(incarnation, 1)
    fences = [item.fence for item in answer.assign]
    if fences:
        assert answer.stop == fences
        ends = [one.end(fences[0], workflow, "t", "cancelled")]
        await one.work(incarnation, 2, seen=fences[0], ends=ends)
    assert one.machine.state.workflows[workflow].state is WorkflowState.CANCELLED
    assert invariants.check(one.machine) == []


async def test_queued_work_is_asked_back_when_its_workflow_pauses(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register(prefetch=2)
    workflow = await one.submit("a", "b")
    await one.until(lambda: len(one.machine.state.agents["a1"].live) == 2)
    running, queued = [item.fence for item in (await one.work(incarnation, 1)).assign]
    polling = asyncio.ensure_future(one.work(incarnation, 2, seen=queued, running=[running], queued=[queued]))
    await held(one)
    await control(one, workflow, "pause")
    assert (await polling).release == [queued]
    end = one.end(queued, workflow, "b", "released")
    answer = await one.work(incarnation, 3, seen=queued, running=[running], ends=[end])
    assert (answer.release, answer.assign) == ([], [])


async def test_an_agent_that_holds_what_nobody_knows_is_told_to_stop_it(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    await one.work(incarnation, 2, seen=fence, ends=[one.end(fence, workflow, "t")])
    assert (await one.work(incarnation, 3, seen=fence, running=[fence])).stop == [fence]
    ahead = await one.poll(incarnation, 4, seen=fence, running=[fence + 1000])
    assert ahead.stop == [], "a fence that was never given here may come from a leader that knows more"


async def test_unknown_agents_and_old_incarnations_must_register(bench: Any) -> None:
    one = await bench()
    reply = await one.poll(1, 1)
    assert (type(reply), reply.code) == (Rejection, RejectionCode.NOT_FOUND)
    old = await one.register(instance="1" * 8)
    workflow = await one.submit("t")
    fence = (await one.work(old, 1)).assign[0].fence
    polling = asyncio.ensure_future(one.poll(old, 2, seen=fence, running=[fence], wait_ms=1000))
    await held(one)
    new = await one.register(instance="2" * 8)
    assert (await asyncio.wait_for(polling, 0.5)).code is RejectionCode.STALE_INCARNATION
    index = one.machine.applied_index
    reply = await one.poll(old, 3, seen=fence, ends=[one.end(fence, workflow, "t")])
    assert reply.code is RejectionCode.STALE_INCARNATION
    assert one.machine.applied_index == index + 1, "the refusal is in the audit"
    frames, _ = await one.replica.audit.read(index + 1, 1)
    from raftflow.coordinator.audit.frames import record_of

    record = record_of(frames[0])
    assert (record.command, record.outcome, record.transitions) == ("attempts.report", "stale_incarnation", ())
    reply = await one.poll(new + 5, 1)
    assert reply.code is RejectionCode.STALE_INCARNATION
    assert [item.attempt for item in (await one.work(new, 1)).assign] == [2]


async def test_goodbye_and_leaving(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    answer = await one.work(incarnation, 1, leaving=True)
    assert answer.draining
    assert one.machine.state.agents["a1"].state is AgentState.DRAINING
    answer = await one.poll(incarnation, 2, goodbye=True)
    assert isinstance(answer, PollResponse)
    assert one.machine.state.agents["a1"].state is AgentState.LEFT
    assert (await one.poll(incarnation, 3)).code is RejectionCode.STALE_INCARNATION


async def test_draining_is_told_once(bench: Any) -> None:
    one = await bench(poll_wait_ms=200)
    incarnation = await one.register()
    polling = asyncio.ensure_future(one.work(incarnation, 1))
    await held(one)
    await one.replica.propose(DrainAgent(at_ms=one.clock.ms, actor="client:x", name="a1"))
    assert (await asyncio.wait_for(polling, 0.15)).draining
    second = asyncio.ensure_future(one.work(incarnation, 2))
    await held(one)
    assert (await second).draining


async def test_a_result_that_cannot_be_kept_fails_the_attempt_and_says_so(bench: Any) -> None:
    import msgspec

    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    large = msgspec.Raw(b'"' + b"x" * limits.RESULT_BYTES_MAX + b'"')
    answer = await one.work(incarnation, 2, seen=fence, ends=[one.end(fence, workflow, "t", result=large)])
    assert [verdict.verdict for verdict in answer.verdicts] == ["accepted"]
    task = one.machine.state.workflows[workflow].tasks[0]
    assert (task.state, task.result) == (TaskState.FAILED, b"")
    assert "the limit is" in task.last.error


async def test_losing_leadership_sends_held_polls_away(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    polling = asyncio.ensure_future(one.poll(incarnation, 1, wait_ms=1000))
    await held(one)
    one.log.lose_leadership()
    with pytest.raises(NoLeaderError):
        await asyncio.wait_for(polling, 0.5)
    with pytest.raises(NoLeaderError):
        await one.poll(incarnation, 2)


async def test_closing_answers_held_polls(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    polling = asyncio.ensure_future(one.work(incarnation, 1))
    await held(one)
    one.poll_service.close()
    nothing = PollResponse(lease_ms=5_000, feature_level=one.machine.state.feature_level)
    assert await asyncio.wait_for(polling, 0.5) == nothing


async def test_many_held_polls_are_woken_over_several_turns(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_turns, "WAKES_PER_TURN", 2)
    one = await bench()
    confirm_for_long(one, monkeypatch)
    names = [f"a{number}" for number in range(7)]
    polling = []
    for number, name in enumerate(names):
        incarnation = await one.register(name, instance=str(number) * 8)
        polling.append(asyncio.ensure_future(one.work(incarnation, 1, name=name)))
    await held(one, len(names))
    one.poll_service.close()
    answered = []
    while not all(poll.done() for poll in polling):
        await asyncio.sleep(0)
        answered.append(sum(poll.done() for poll in polling))
    steps = [after - before for before, after in zip([0, *answered], answered, strict=False)]
    assert max(steps) == 2
    assert one.poll_service.held == 0


async def test_work_goes_out_before_reports_come_in(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_turns, "WAKES_PER_TURN", 2)
    monkeypatch.setattr(poll_turns, "POLLS_PER_TURN", 3)
    monkeypatch.setattr(poll_turns, "REPORTS_MIN", 1)
    one = await bench()
    confirm_for_long(one, monkeypatch)
    taken: list[str] = []
    continue_poll = one.poll_service._continue_poll

    def noted(poll: Poll) -> None:
        if poll.step == "admit":
            taken.append(poll.name)
        continue_poll(poll)

    monkeypatch.setattr(one.poll_service._turns, "_continue_poll", noted)
    polls = {}
    for name in (*(f"held{n}" for n in range(5)), *(f"report{n}" for n in range(6)), *(f"idle{n}" for n in range(4))):
        incarnation = await one.register(name, instance=name * 2)
        ends = [one.end(1, "wf-9", "t")] if name.startswith("report") else []
        polls[name] = PollRequest(incarnation=incarnation, seq=1, wait_ms=1_000, ends=ends)
        if name.startswith("held"):
            one.poll_service.ingest_poll(
                name, polls.pop(name), functools.partial(lambda name, _: taken.append(name), name)
            )
    await held(one, 5)
    taken.clear()
    one.poll_service._closing = True  # every look is an answer
    for n in range(5):
        one.poll_service.wake(f"held{n}")
    for name, poll in polls.items():
        one.poll_service.ingest_poll(name, poll, lambda _: None)
    shares = []
    while len(taken) < 15:
        before = len(taken)
        await asyncio.sleep(0)
        shares.append(taken[before:])
    assert [share for share in shares if share] == [
        ["held0", "held1", "idle0", "idle1", "idle2", "report0"],
        ["held2", "held3", "idle3", "report1"],
        ["held4", "report2", "report3", "report4"],
        ["report5"],
    ]


async def test_a_poll_whose_caller_goes_away_is_held_no_more(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    polling = asyncio.ensure_future(one.work(incarnation, 1))
    await held(one)
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling
    assert one.poll_service.held == 0
    assert not one.poll_service._sessions.get("a1").polls


async def test_an_agent_that_is_removed_while_its_poll_is_held_must_register(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    polling = asyncio.ensure_future(one.poll(incarnation, 1, wait_ms=1_000))
    await held(one)
    await one.replica.propose(
        RemoveAgent(at_ms=one.clock.ms, actor="leader:n1", name="a1", incarnation=incarnation, reason="lost")
    )
    refused = await asyncio.wait_for(polling, 0.5)
    assert (refused.code, one.poll_service.held) == (RejectionCode.STALE_INCARNATION, 0)


async def test_a_report_that_is_lost_on_its_way_is_no_answer(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    fence = (await one.work(incarnation, 1)).assign[0].fence

    async def lost(_entry: bytes, _timeout_s: float) -> Unknown:
        return Unknown("timeout")

    monkeypatch.setattr(one.log, "submit", lost)
    with pytest.raises(OutcomeUnknownError):
        await one.poll(incarnation, 2, seen=fence, ends=[one.end(fence, workflow, "t")])
    assert one.poll_service.held == 0


async def test_a_report_while_the_replica_stops_is_refused(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    one.replica.submitter.refuse()
    with pytest.raises(NoLeaderError):
        await one.poll(incarnation, 1, ends=[one.end(1, "wf-1", "t")])


async def test_a_bug_in_an_answer_reaches_whoever_asked(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await bench()
    incarnation = await one.register()

    def broken(*_: Any) -> Any:
        raise LookupError("a bug")

    monkeypatch.setattr(polls_module, "instructions_for", broken)
    with pytest.raises(LookupError):
        await one.poll(incarnation, 1, wait_ms=1_000)
    assert one.poll_service.held == 0


async def test_held_polls_are_bounded(bench: Any) -> None:
    one = await bench(limits=Limits(held_polls=1))
    first, second = await one.register("a1"), await one.register("a2", instance="2" * 8)
    polling = asyncio.ensure_future(one.work(first, 1))
    await held(one)
    with pytest.raises(BusyError):
        await one.work(second, 1, name="a2")
    await one.submit("t", "u")
    assert (await polling).assign


async def test_large_inputs_are_spread_over_answers(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "ANSWER_BYTES", 3)
    one = await bench()
    incarnation = await one.register(cpu=3)
    await one.submit("a", "b", "c")
    await one.until(lambda: len(one.machine.state.agents["a1"].live) == 3)
    first = await one.work(incarnation, 1)
    assert [item.task_id for item in first.assign] == ["a"]
    fence = first.assign[0].fence
    second = await one.work(incarnation, 2, seen=fence, running=[fence])
    assert [item.task_id for item in second.assign] == ["b"]
