"""Requests that wait until nothing of a workflow or an agent is on the agenda."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.coordinator.commit.pending_jobs import PendingJobs, of_workflow
from raftflow.coordinator.commit.submitter import NoLeaderError, OutcomeUnknownError
from raftflow.domain.commands import ControlWorkflow
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import AgentAccepted, Done
from raftflow.domain.tasks.states import TaskState
from raftflow.machine.rules.step_limits import StepLimits


@pytest.fixture
def small(bench: Any) -> Any:
    """Start a leader that does nearly everything in small pieces."""

    async def start(**timing: int) -> Any:
        one = await bench(leads=False, **timing)
        one.machine._step.limits = StepLimits(inline_max=4, piece_max=2)
        one.log.gain_leadership()
        await one.until(lambda: one.replica.leader.leading)
        return one

    return start


def control(one: Any, action: Any) -> ControlWorkflow:
    return ControlWorkflow(at_ms=one.clock.ms, actor="client:test", workflow_id="wf-1", action=action)


def counts(one: Any, state: TaskState) -> int:
    return int(one.machine.tables.workflows["wf-1"].counts[state])


async def test_the_leader_works_the_agenda_off_and_answers_then(small: Any) -> None:
    one = await small()
    await one.submit(*[f"t{number}" for number in range(20)])
    assert await one.replica.control(control(one, "cancel")) == Done()
    assert counts(one, TaskState.CANCELLED) == 20
    assert not one.machine.tables.agenda


async def test_a_read_sees_all_of_a_command_or_nothing_of_it(small: Any) -> None:
    one = await small()
    await one.submit(*[f"t{number}" for number in range(20)])
    seen: list[int] = []

    async def read() -> None:
        while not seen or seen[-1] < 20:
            await one.replica.read_barrier()
            await one.replica.settle("wf-1")
            seen.append(counts(one, TaskState.CANCELLED))
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        await asyncio.gather(read(), one.replica.propose(control(one, "cancel")))
    assert set(seen) <= {0, 20}


async def test_a_retry_right_after_a_cancel_waits_for_it(small: Any) -> None:
    one = await small()
    await one.submit(*[f"t{number}" for number in range(20)])
    await one.replica.propose(control(one, "cancel"))
    refused: Any = await one.replica.propose(control(one, "retry"))
    assert refused.code is RejectionCode.PENDING
    assert await one.replica.control(control(one, "retry")) == Done()
    assert counts(one, TaskState.READY) == 20


async def test_a_new_leader_goes_on_with_the_agenda(small: Any) -> None:
    one = await small()
    await one.submit(*[f"t{number}" for number in range(20)])
    reply = asyncio.ensure_future(one.replica.control(control(one, "cancel")))
    async with asyncio.timeout(5):
        while not one.replica.pending_jobs.count:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0)
    one.log.lose_leadership()
    with pytest.raises(NoLeaderError):
        await reply
    assert one.machine.tables.agenda
    one.log.gain_leadership()
    await one.until(lambda: not one.machine.tables.agenda)
    assert counts(one, TaskState.CANCELLED) == 20


async def test_what_takes_too_long_is_told_as_unknown(bench: Any) -> None:
    one = await bench(leads=False)
    jobs = PendingJobs(one.machine, timeout_s=0.001, not_leading=one.replica.submitter.no_leader_error)
    await jobs.wait(of_workflow("wf-1"))
    jobs.is_pending = lambda _: True  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknownError, match="still being carried out"):
        await jobs.wait(of_workflow("wf-1"))
    assert jobs.count == 0


async def test_a_refusal_that_lasts_is_returned(bench: Any) -> None:
    one = await bench(leads=False)
    jobs = PendingJobs(one.machine, timeout_s=0.0, not_leading=one.replica.submitter.no_leader_error)
    refusal = Rejection(RejectionCode.PENDING, "later")

    async def propose() -> Rejection:
        return refusal

    assert await jobs.propose_until_taken(of_workflow("wf-1"), propose) == refusal


async def test_a_process_takes_the_place_of_an_agent_with_many_attempts(small: Any) -> None:
    """The former one is removed in pieces, and the registration waits for that."""
    one = await small()
    await one.register(cpu=9)
    await one.submit("t0", "t1", "t2")
    await one.until(lambda: counts(one, TaskState.RUNNING) == 3)
    command = one.registration(instance="another instance")
    reply, _ = await one.replica.registration.register(command, [])
    assert isinstance(reply, AgentAccepted)
    assert reply.incarnation == 2
    await one.until(lambda: counts(one, TaskState.READY) + counts(one, TaskState.RUNNING) == 3)


async def test_a_job_that_begins_before_a_held_read_goes_on_is_waited_for_too() -> None:
    """One entry ends the last job, and the next one begins another, before the read has its turn."""
    jobs = {"wf-1": 1}

    class Workflows:
        def get(self, name: str) -> Any:
            return type("Workflow", (), {"jobs": jobs[name]})

    machine: Any = type("Machine", (), {"tables": type("Tables", (), {"workflows": Workflows()})})
    pending = PendingJobs(machine, timeout_s=20.0, not_leading=NoLeaderError)
    reading = asyncio.create_task(pending.wait(of_workflow("wf-1")))
    await asyncio.sleep(0)
    jobs["wf-1"] = 0
    pending.on_applied()
    jobs["wf-1"] = 1
    for _ in range(5):
        await asyncio.sleep(0)
    assert not reading.done() and pending.count == 1
    jobs["wf-1"] = 0
    pending.on_applied()
    async with asyncio.timeout(5):
        await reading
    assert pending.count == 0
