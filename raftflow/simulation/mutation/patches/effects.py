# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from msgspec.structs import replace

from raftflow.coordinator.calls.effect_calls import EffectCalls
from raftflow.domain.commands import BeginEffect, EndEffect, ResolveEffect
from raftflow.domain.contract.views import EffectOpened
from raftflow.domain.rejections import Rejection
from raftflow.domain.tasks.effects import EffectState
from raftflow.machine.commands import children
from raftflow.machine.commands.effects import attempts, changes, resolving
from raftflow.machine.read.effects import key_of

if TYPE_CHECKING:
    from raftflow.domain.contract.views import AnyAnswer, OpenEffect
    from raftflow.domain.replies import Done, EffectBegun
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow
    from raftflow.simulation.mutation.patches.common import Patch


def call_before_the_intent() -> Patch:
    async def hurried(self: Any, agent: str, incarnation: int, call: OpenEffect) -> AnyAnswer:
        """Propose the intent, and do not wait for the log."""
        self._submitter.enqueue(
            BeginEffect(
                at_ms=self._clock.now_ms(),
                actor=f"agent:{agent}",
                agent=agent,
                incarnation=incarnation,
                fence=call.fence,
                begin=call.begin,
                name=call.name,
                occurrence=call.occurrence,
                function=call.function,
            )
        )
        key = key_of(self._machine, agent, incarnation, call.fence, call.name, call.occurrence)
        return EffectOpened(status="begun", number=0, idempotency_key=key or "")

    return patch.object(EffectCalls, "_begin", hurried)


def end_for_the_dead() -> Patch:
    """Take outcomes of any attempt that is remembered."""
    find = children.find_live

    def lenient(step: ApplyContext, command: EndEffect) -> tuple[Workflow, Task] | Rejection:
        found = find(step, command)
        if isinstance(found, Rejection):
            for workflow in step.state.workflows.values():
                for task in workflow.tasks:
                    if any(each is not None and each.fence == command.fence for each in (task.last, *task.history)):
                        return workflow, task
        return found

    return patch.object(attempts, "find_live", lenient)


def call_open_effects_again() -> Patch:
    """Let attempts that begin an effect see an intent without an outcome as a call that was not done."""
    begin = attempts.begin_effect

    def mistaken(step: ApplyContext, command: BeginEffect) -> EffectBegun | Rejection:
        find = attempts._find  # noqa: SLF001

        def found(workflow: Workflow, task: Task, told: Any) -> Any:
            row = find(workflow, task, told)
            return (
                row if row is None or row.state is not EffectState.BEGUN else replace(row, state=EffectState.NOT_DONE)
            )

        with patch.object(attempts, "_find", found):
            return begin(step, command)

    return patch.dict("raftflow.machine.apply.HANDLERS", {BeginEffect: ("effects.begin", mistaken, "agent")})


def let_two_hold_an_intent() -> Patch:
    """Let an attempt take over an intent from another one that is live and calls."""
    return patch.object(attempts, "is_held", lambda *_: False)


def call_uncertain_effects_again() -> Patch:
    """Take an outcome that nobody knows for one that is known: nothing was done."""
    return patch.dict(changes.ENDED, {"uncertain": EffectState.NOT_DONE})


def let_every_decision_count() -> Patch:
    """Let a person resolve what is resolved already."""
    resolve = resolving.resolve_effect

    def lenient(step: ApplyContext, command: ResolveEffect) -> Done | Rejection:
        table = step.state.effects
        row = table.find(command.number)
        if row is not None and row.state is EffectState.RETRY:
            table.replace(replace(row, state=EffectState.UNCERTAIN))
        return resolve(step, command)

    return patch.dict("raftflow.machine.apply.HANDLERS", {ResolveEffect: ("effects.resolve", lenient, "")})
