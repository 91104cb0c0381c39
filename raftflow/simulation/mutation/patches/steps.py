# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of durable steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.agent.calls.steps import UNASKED_MAX, AttemptSteps
from raftflow.agent.exchange.call_channel import CallChannel
from raftflow.coordinator.calls.attempt_calls import AttemptCalls
from raftflow.domain.commands import RecordSteps, StepToRecord
from raftflow.domain.contract.views import StepRecorded
from raftflow.machine.commands import steps as machine_steps
from raftflow.machine.read import exchange

if TYPE_CHECKING:
    from raftflow.domain.contract.views import AnyAnswer, RecordStep
    from raftflow.domain.replies import StepVerdict
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.simulation.mutation.patches.common import Patch


def record_for_the_dead() -> Patch:
    record = machine_steps._record  # noqa: SLF001

    def lenient(step: ApplyContext, agent: Agent, told: StepToRecord) -> StepVerdict:
        """Take a step of any attempt that is remembered."""
        if told.fence not in agent.live:
            for workflow in step.state.workflows.values():
                for task in workflow.tasks:
                    if any(each is not None and each.fence == told.fence for each in (task.last, *task.history)):
                        agent.live[told.fence] = (workflow, task)
                        try:
                            return record(step, agent, told)
                        finally:
                            del agent.live[told.fence]
        return record(step, agent, told)

    return patch.object(machine_steps, "_record", lenient)


def forget_steps_of_earlier_attempts() -> Patch:
    return patch.object(exchange, "count_of", lambda *_: 0)


def answer_before_the_commit() -> Patch:
    async def hurried(self: Any, agent: str, incarnation: int, calls: list[RecordStep]) -> list[AnyAnswer]:
        """Propose the steps, and do not wait for the log."""
        steps = tuple(StepToRecord(c.fence, c.name, c.occurrence, c.function, bytes(c.result)) for c in calls)
        self._submitter.enqueue(
            RecordSteps(
                at_ms=self._clock.now_ms(), actor=f"agent:{agent}", agent=agent, incarnation=incarnation, steps=steps
            )
        )
        return [StepRecorded() for _ in calls]

    return patch.object(AttemptCalls, "_propose_steps", hurried)


def count_records_ahead_twice() -> Patch:
    """Let a record that was asked for already wait once more: the attempt believes that it knows of all."""
    learn = AttemptSteps.learn

    def forgetful(self: Any, steps: Any) -> None:
        with patch.object(AttemptSteps, "is_begun", lambda *_: False):
            learn(self, steps)

    return patch.object(AttemptSteps, "learn", forgetful)


def run_unasked_beside_records() -> Patch:
    """Let every attempt run steps without asking, also one whose task has records that it has not found yet."""
    return patch.object(AttemptSteps, "unasked", property(lambda _: UNASKED_MAX))


def mix_answers() -> Patch:
    """Tell the calls of a request their answers in the wrong order."""
    deliver = CallChannel._deliver  # noqa: SLF001

    async def mixed(self: Any, batch: Any) -> None:
        post = self._post

        async def turned(agent: str, body: bytes) -> Any:
            response = await post(agent, body)
            response.answers.reverse()
            return response

        self._post = turned
        try:
            await deliver(self, batch)
        finally:
            self._post = post

    return patch.object(CallChannel, "_deliver", mixed)
