"""Ends of attempts on their way into the log: by reports, and as offers of agents that return."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Raw

from raftflow.coordinator.audit.frames import record_of
from raftflow.coordinator.sessions.ends import attempt_end
from raftflow.domain.commands import ControlWorkflow, RegisterAgent, RemoveAgent
from raftflow.domain.contract.views import ReportedEnd
from raftflow.domain.limits import RESULT_BYTES_MAX
from raftflow.domain.replies import AgentAccepted
from raftflow.domain.tasks.states import AttemptOutcome, TaskState
from raftflow.machine.read import invariants

ONE = Raw(b"1")


def ended(outcome: Any, **fields: Any) -> ReportedEnd:
    return ReportedEnd(fence=1, workflow_id="wf-1", task_id="t", outcome=outcome, **fields)


def test_a_result_that_cannot_be_kept_makes_a_failed_attempt() -> None:
    end = attempt_end(ended("succeeded", result=Raw(b'"' + b"x" * RESULT_BYTES_MAX + b'"')))
    assert (end.outcome, end.result) == (AttemptOutcome.FAILED, b"")
    assert str(RESULT_BYTES_MAX) in end.error
    assert attempt_end(ended("succeeded", result=ONE)).result == b"1"
    assert attempt_end(ended("succeeded", result=Raw(b"null"))).result == b""
    assert attempt_end(ended("failed", result=ONE)).result == b""


def test_an_end_carries_what_the_attempt_used() -> None:
    end = attempt_end(ended("outgrown", error="used too much", cpu_ms=7, peak_mib=8))
    assert (end.outcome, end.error, end.cpu_ms, end.peak_mib) == (AttemptOutcome.OUTGROWN, "used too much", 7, 8)


async def test_a_report_is_one_command_and_its_usage_is_learnt(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    end = one.end(fence, workflow, "t", cpu_ms=1_500, peak_mib=70)
    answer = await one.poll(incarnation, 2, seen=fence, ends=[end])
    assert [verdict.verdict for verdict in answer.verdicts] == ["accepted"]
    await one.replica.audit.sync()
    frames, _ = await one.replica.audit.read(1, 1_000)
    assert [record.outcome for record in map(record_of, frames) if record.command == "attempts.report"] == ["ok"]
    (kind,) = one.machine.state.kinds_learnt.values()
    assert (kind.cpu_ms, kind.peak_mib) == (1_500, 70)


# --- offers


async def lose(one: Any, name: str, incarnation: int) -> None:
    await one.replica.propose(
        RemoveAgent(at_ms=one.clock.ms, actor="leader:n1", name=name, incarnation=incarnation, reason="lost")
    )


async def come_back(one: Any, name: str, *offers: ReportedEnd) -> tuple[AgentAccepted, list[str]]:
    """Register the same process anew; returns the reply and the verdicts."""
    command = RegisterAgent(
        at_ms=one.clock.ms,
        actor=f"agent:{name}",
        name=name,
        instance="i" * 8,
        capacity={"cpu": 1000},
    )
    reply, verdicts = await one.replica.registration.register(command, offers)
    assert isinstance(reply, AgentAccepted)
    return reply, [verdict.verdict for verdict in verdicts]


async def lost_with_work(one: Any, *names: str) -> list[ReportedEnd]:
    """Give each agent the one task of a workflow, and lose them all. Returns what each might offer."""
    held = {}
    for name in names:
        incarnation = await one.register(name)
        workflow = await one.submit("t")
        fence = (await one.work(incarnation, 1, name=name)).assign[0].fence
        held[name] = incarnation, one.end(fence, workflow, "t", result=ONE)
    for name, (incarnation, _) in held.items():
        await lose(one, name, incarnation)
    return [offer for _, offer in held.values()]


def task_of(one: Any, end: ReportedEnd) -> Any:
    return one.machine.state.workflows[end.workflow_id].tasks[0]


async def test_an_offer_is_taken_before_the_task_is_placed_anew(bench: Any) -> None:
    """The agent is the only one: as soon as it is back, it has room for the very task that it has finished."""
    one = await bench()
    (offer,) = await lost_with_work(one, "a1")
    assert task_of(one, offer).state is TaskState.READY
    reply, verdicts = await come_back(one, "a1", offer)
    assert verdicts == ["accepted"]
    task = task_of(one, offer)
    assert (task.state, task.result, task.attempts) == (TaskState.SUCCEEDED, b"1", 1)
    assert (await one.poll(reply.incarnation, 1)).assign == []
    again, verdicts = await come_back(one, "a1", offer)  # the answer was lost
    assert (again.incarnation, verdicts) == (reply.incarnation, ["duplicate"])
    assert invariants.check(one.machine) == []


async def test_agents_that_return_together_each_bring_back_what_is_theirs(bench: Any) -> None:
    one = await bench()
    names = [f"a{number}" for number in range(5)]
    offers = await lost_with_work(one, *names)
    back = await asyncio.gather(*(come_back(one, name, offer) for name, offer in zip(names, offers, strict=True)))
    assert [verdicts for _, verdicts in back] == [["accepted"]] * 5
    assert {task_of(one, offer).attempts for offer in offers} == {1}


async def test_a_registration_in_between_costs_a_second_offer(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The offer names the incarnation that was expected; when it turns out otherwise it is made again."""
    one = await bench(lease_ms=60_000)
    (offer,) = await lost_with_work(one, "a1")
    pause = ControlWorkflow(at_ms=one.clock.ms, actor="client:x", workflow_id=offer.workflow_id, action="pause")
    await one.replica.propose(pause)  # so that nothing is placed meanwhile
    other = RegisterAgent(at_ms=one.clock.ms, actor="agent:b", name="b", instance="j" * 8, capacity={"cpu": 500})
    between = asyncio.ensure_future(one.replica.propose(other))
    await asyncio.sleep(0)
    _, verdicts = await come_back(one, "a1", offer)
    await between
    assert verdicts == ["accepted"]


async def test_what_another_agent_runs_is_stale(bench: Any) -> None:
    one = await bench()
    (offer,) = await lost_with_work(one, "a1")
    incarnation = await one.register("a2")
    second = (await one.work(incarnation, 1, name="a2")).assign[0]
    _, verdicts = await come_back(one, "a1", offer)
    assert verdicts == ["stale"]
    assert task_of(one, offer).last.fence == second.fence
    answer = await one.poll(incarnation, 2, name="a2", seen=second.fence, running=[second.fence])
    assert answer.stop == []


async def test_a_refused_registration_offers_nothing(bench: Any) -> None:
    one = await bench()
    (offer,) = await lost_with_work(one, "a1")
    command = RegisterAgent(at_ms=one.clock.ms, actor="agent:a1", name="a1", instance="i" * 8, capacity={"cpu": -1})
    reply, verdicts = await one.replica.registration.register(command, [offer])
    assert (type(reply).__name__, verdicts) == ("Rejection", [])
    assert task_of(one, offer).state is TaskState.READY
