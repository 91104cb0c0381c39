# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of the state machine."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import msgspec

from raftflow.domain.commands import OfferEnds, ReportAttempts
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import EndVerdict, Reported
from raftflow.domain.tasks.feasibility import fits_in
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine import apply as machine_apply
from raftflow.machine.commands import agents as machine_agents
from raftflow.machine.commands import attempts
from raftflow.machine.machine import Machine
from raftflow.machine.read.inputs import inputs_slice
from raftflow.machine.rules import ledger, quarantine
from raftflow.machine.rules.audit_chain import CHAIN_START
from raftflow.machine.schema import registry
from raftflow.machine.schema.declaration import Frozen, Reason, Saved
from raftflow.machine.tables.identities.tokens import AccessToken, TokenTable
from raftflow.machine.tables.timers import Timers
from raftflow.simulation.world.agents import leader_client as sim_leader_client

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import AttemptEnd
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.schema.declaration import Table
    from raftflow.machine.tables.agents import Agent
    from raftflow.simulation.mutation.patches.common import Patch


def accept_stale() -> Patch:
    judge = attempts._report_end  # noqa: SLF001

    def lenient(step: ApplyContext, agent: Agent, end: AttemptEnd) -> EndVerdict:
        """Take any end of a task for the end of its present attempt."""
        workflow = step.state.workflows.get(end.workflow_id)
        task = None if workflow is None else workflow.by_id.get(end.task_id)
        if task is None or task.last is None or task.last.outcome is not None:
            return judge(step, agent, end)
        holder = step.state.agents[task.last.agent]
        if end.outcome is AttemptOutcome.RELEASED:
            return judge(step, agent, end)
        assert workflow is not None  # noqa: S101 - the task is its
        present = msgspec.structs.replace(end, fence=task.last.fence)
        attempts.end_attempt(step, holder, workflow, task, present)
        return EndVerdict(end.fence, "accepted")

    return patch.object(attempts, "_report_end", lenient)


def accept_superseded() -> Patch:
    judge = attempts._offer_end  # noqa: SLF001

    def generous(step: ApplyContext, command: Any) -> Reported:
        """Take any success for that of the task's last attempt, also when another agent had it."""
        verdicts = []
        for end in command.ends:
            workflow = step.state.workflows.get(end.workflow_id)
            task = None if workflow is None else workflow.by_id.get(end.task_id)
            if task is None or workflow is None or task.last is None or task.state not in attempts._OFFERABLE:  # noqa: SLF001
                verdicts.append(judge(step, step.state.agents[command.agent], end))
                continue
            task.last.outcome = AttemptOutcome.LOST
            present = msgspec.structs.replace(end, fence=task.last.fence)
            verdicts.append(judge(step, step.state.agents[task.last.agent], present))
        return Reported(tuple(verdicts))

    handlers = machine_apply.HANDLERS
    name, _handler, subject = handlers[OfferEnds]
    return patch.dict(handlers, {OfferEnds: (name, generous, subject)})


def count_duplicates() -> Patch:
    judge = attempts._report_end  # noqa: SLF001

    def forgetful(step: ApplyContext, agent: Agent, end: AttemptEnd) -> EndVerdict:
        verdict = judge(step, agent, end)
        return EndVerdict(end.fence, "accepted") if verdict.verdict == "duplicate" else verdict

    return patch.object(attempts, "_report_end", forgetful)


def release_twice() -> Patch:
    release = ledger.release

    def twice(agent: Agent, shape: Any) -> None:
        release(agent, shape)
        release(agent, shape)

    return patch.object(ledger, "release", twice)


def promote_any() -> Patch:
    promote = ledger.promote

    def smallest_first(step: ApplyContext, agent: Agent) -> None:
        """Let something that fits overtake a head that does not."""
        promote(step, agent)
        queue = agent.queue
        for fence in list(queue):
            workflow, task = agent.live[fence]
            if fits_in(workflow.profiles[task.profile].shape, agent.free):
                queue.remove(fence)
                queue.appendleft(fence)
                promote(step, agent)
                return

    return patch.object(ledger, "promote", smallest_first)


def restore_without(change: Callable[[Machine], None]) -> Callable[[], Patch]:
    def plant() -> Patch:
        prepare = Machine.prepare

        def lossy(self: Machine, pieces: Any) -> Callable[[], None]:
            install = prepare(self, pieces)

            def install_less() -> None:
                install()
                change(self)

            return install_less

        return patch.object(Machine, "prepare", lossy)

    return plant


def snapshot_without(table: Table) -> Callable[[], Patch]:
    """Leave the rows of a saved table out of snapshots."""
    saved = table.saved
    assert isinstance(saved, Saved)  # noqa: S101 - only such a table has something to leave out
    empty = replace(saved, freeze=lambda _state, _copying: Frozen(0, iter(())))
    return _declared(table, replace(table, saved=empty))


def retire_without(table: Table) -> Callable[[], Patch]:
    """Leave workflows that are retired in a table."""
    return _declared(table, replace(table, retire=Reason("a planted fault")))


def _declared(table: Table, other: Table) -> Callable[[], Patch]:
    tables = tuple(other if each is table else each for each in registry.TABLES)
    return lambda: patch.object(registry, "TABLES", tables)


def forget_chain(machine: Machine) -> None:
    machine.chain = CHAIN_START


def forget_fence(machine: Machine) -> None:
    machine.state.fence = 0


def forget_timers(machine: Machine) -> None:
    machine.state.timers = Timers()


def apply_again(step: ApplyContext, command: Any, handler: Any) -> Any:
    """Carry a command out whether or not its request id was seen."""
    reply = handler(step, command)
    return reply, reply.code.value if type(reply) is Rejection else "ok"


def roll_dice() -> Patch:
    end = attempts.end_attempt

    def erratic(step: ApplyContext, agent: Agent, workflow: Any, task: Any, *args: Any, **named: Any) -> None:
        end(step, agent, workflow, task, *args, **named)
        if task.due_ms:
            task.due_ms += random.randrange(2)  # noqa: S311 - the fault itself

    return patch.object(attempts, "end_attempt", erratic)


def any_incarnation() -> Patch:
    report = attempts.report_attempts

    def trusting(step: ApplyContext, command: Any) -> Any:
        agent = step.state.agents.get(command.agent)
        if agent is not None:
            command = msgspec.structs.replace(command, incarnation=agent.incarnation)
        return report(step, command)

    handlers = machine_apply.HANDLERS
    changed = {kind: (handlers[kind][0], trusting, handlers[kind][2]) for kind in (ReportAttempts,)}
    return patch.dict(handlers, changed)


def answer_though_behind() -> Patch:
    def careless(machine: Machine, agent: str, fence: int, first: int) -> Any:
        """Answer for the newest attempt of the agent that is known here, if this one is not."""
        known = machine.state.agents.get(agent)
        if fence > machine.state.fence and known is not None and known.live:
            fence = next(reversed(known.live))
        return inputs_slice(machine, agent, fence, first)

    return patch.object(sim_leader_client, "inputs_slice", careless)


def count_mass_losses() -> Patch:
    note_loss = quarantine.note_loss

    def count(step: ApplyContext, agent: Agent, *, mass: bool = False) -> None:
        del mass
        note_loss(step, agent)

    return patch.object(machine_agents, "note_loss", count)


def keep_quarantines() -> Patch:
    take_over = quarantine.take_over

    def as_if_others_were_up(step: ApplyContext, agent: Agent, before: Agent) -> None:
        kinds = step.state.kinds
        step.state.kinds = kinds or {agent.kind(): 1}
        take_over(step, agent, before)
        step.state.kinds = kinds

    return patch.multiple(machine_agents, end_all_if_nobody_is_up=lambda _step: None, take_over=as_if_others_were_up)


def keep_revoked_secrets() -> Patch:
    remove = TokenTable.remove

    def keep(table: TokenTable, name: str) -> AccessToken | None:
        row = remove(table, name)
        if row is not None:
            table._by_digest[row.digest] = row  # noqa: SLF001
        return row

    return patch.object(TokenTable, "remove", keep)


def keep_old_secrets() -> Patch:
    put = TokenTable.put

    def keep(table: TokenTable, row: AccessToken) -> None:
        put(table, msgspec.structs.replace(row, old_until_ms=row.old_until_ms + 60_000) if row.old_digest else row)

    return patch.object(TokenTable, "put", keep)
