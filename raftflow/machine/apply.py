"""How a command becomes a change: the heart of the replicated state machine.

What may live here (and in the modules that the table below names)
-----------------------------------------------------------------
Every replica runs this code on the same commands and must come to the same state, byte for byte. So there is no clock
(`ApplyContext.clock_ms` is the largest time that came inside a command), no randomness (ids come inside commands),
no float,
no I/O, and no iteration over a set. Dicts are iterated in the order in which they were filled, which is the log's.

How it works
------------
1. A command is validated as a whole, then it mutates. A refused command returns a `Rejection` and has changed nothing
   but the clock and the audit chain.
2. A batch (placements, reported ends) consists of parts that hold or fail alone; a part that fails changes nothing.
3. A task's state changes in `step.move` alone, along `domain.task.TRANSITIONS`. A move that is not there raises: a
   bug, which stops the replica loudly rather than let it differ from the others.
4. An *attempt* is live from its placement to its end. It has a fence, a number that only grows. Only the agent, in
   the incarnation, that holds the fence can end it; every other report of it gets the answer that it is stale. A
   running task has one (`last`) or two (and `backup`): `tasks.attempt_of` tells which of them a fence names.
5. A *running* attempt holds its demand in the agent's account, a *queued* one holds nothing. Whatever frees something
   promotes from the head of the queue while it fits, in the order in which the agent starts them (`ledger.promote`).
6. Live work is never taken away from an agent that is present: it gets an order (stop, release), and the attempt ends
   when the agent says so. Only the removal of the agent, a deadline long passed, or the success of the task's other
   attempt ends one without its word; then its fence is *void*, and the agent is told to stop it.
7. A command with a request id that was accepted before gets the remembered reply and changes nothing. Refusals are
   not remembered: they changed nothing, so the same request may succeed later.
8. A command that needs a higher feature level than the cluster's is refused (`domain.features`).
9. A command moves a bounded number of tasks. What is more goes on the agenda, and later commands do it
   (`rules/agenda.py`). To everybody else the command is still atomic.
10. Every command leaves one audit record, sealed into the chain (`rules/audit_chain.py`), and events for the leader.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftflow.domain import commands as c
from raftflow.domain.contract.views import AuditRecord, AuditTransition
from raftflow.domain.features import level_of
from raftflow.domain.limits import NAME_CHARS_MAX
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import AnyReply, Done, Reported
from raftflow.machine.commands import (
    agenda,
    agents,
    attempts,
    bundles,
    children,
    features,
    placements,
    restoration,
    spawning,
    steps,
    timers,
    uploads,
    workflows,
)
from raftflow.machine.commands.effects.attempts import begin_effect, end_effect
from raftflow.machine.commands.effects.resolving import resolve_effect
from raftflow.machine.commands.identities import tokens
from raftflow.machine.commands.spending import budgets, rates
from raftflow.machine.commands.waits import approvals, begin, signals
from raftflow.machine.commands.waits.documents import begin_document_waits
from raftflow.machine.rules import backups, cache, recall
from raftflow.machine.rules.context import NOTES_MAX, ApplyContext
from raftflow.machine.tables.requests import Remembered, fingerprint_of

Handler = Callable[[ApplyContext, Any], AnyReply]

HANDLERS: dict[type[c.Command], tuple[str, Handler, str]] = {
    c.SubmitWorkflow: ("workflow.submit", workflows.submit_workflow, "workflow_id"),
    c.BeginWorkflow: ("workflow.begin", uploads.begin_workflow, "workflow_id"),
    c.AddTasks: ("workflow.add", uploads.add_tasks, "workflow_id"),
    c.FinishWorkflow: ("workflow.finish", uploads.finish_workflow, "workflow_id"),
    c.DropUploads: ("uploads.drop", uploads.drop_uploads, ""),
    c.ControlWorkflow: ("workflow.control", workflows.control_workflow, "workflow_id"),
    c.SetPriority: ("workflow.priority", workflows.set_priority, "workflow_id"),
    c.RegisterAgent: ("agent.register", agents.register_agent, "name"),
    c.DrainAgent: ("agent.drain", agents.drain_agent, "name"),
    c.ResumeAgent: ("agent.resume", agents.resume_agent, "name"),
    c.ForgetAgent: ("agent.forget", agents.forget_agent, "name"),
    c.RemoveAgent: ("agent.remove", agents.remove_agent, "name"),
    c.CommitPlacements: ("placements.commit", placements.commit_placements, ""),
    c.CommitBackups: ("backups.commit", backups.commit_backups, ""),
    c.ReportAttempts: ("attempts.report", attempts.report_attempts, "agent"),
    c.OfferEnds: ("attempts.offer", attempts.offer_ends, "agent"),
    c.SpawnTasks: ("tasks.spawn", spawning.spawn_tasks, "agent"),
    c.CancelChildren: ("tasks.cancel", children.cancel_named, "agent"),
    c.BeginWait: ("waits.begin", begin.begin_wait, "agent"),
    c.DecideApproval: ("approvals.decide", approvals.decide_approval, ""),
    c.SendSignal: ("signals.send", signals.send_signal, "workflow_id"),
    c.RecallAttempts: ("attempts.recall", recall.recall_attempts, "agent"),
    c.RecordSteps: ("steps.record", steps.record_steps, "agent"),
    c.RaiseBudget: ("budgets.raise", budgets.raise_budget, "workflow_id"),
    c.SetRateLimit: ("rates.set", rates.set_limit, "name"),
    c.RemoveRateLimit: ("rates.remove", rates.remove_limit, "name"),
    c.TakeRates: ("rates.take", rates.take_rates, "agent"),
    c.CreateToken: ("tokens.create", tokens.create_token, "name"),
    c.RotateToken: ("tokens.rotate", tokens.rotate_token, "name"),
    c.RevokeToken: ("tokens.revoke", tokens.revoke_token, "name"),
    c.BeginEffect: ("effects.begin", begin_effect, "agent"),
    c.EndEffect: ("effects.end", end_effect, "agent"),
    c.ResolveEffect: ("effects.resolve", resolve_effect, ""),
    c.FireTimers: ("timers.fire", timers.fire_timers, ""),
    c.ContinueAgenda: ("agenda.continue", agenda.continue_agenda, ""),
    c.RetireWorkflows: ("workflows.retire", workflows.retire_workflows, ""),
    c.RegisterBundle: ("bundles.register", bundles.register_bundle, "digest"),
    c.RetireBundles: ("bundles.retire", bundles.retire_bundles, ""),
    c.RaiseFeatureLevel: ("features.raise", features.raise_level, ""),
    c.ClearCache: ("cache.clear", cache.clear_cache, ""),
}
"""For each command: its tag, what applies it, and the field that names what it is about."""


def apply_command(
    step: ApplyContext, command: c.AnyCommand, index: int, position: int, term: int
) -> tuple[AnyReply, AuditRecord]:
    """Apply one command and return its reply and its audit record, not yet sealed."""
    step.clock_ms = max(step.clock_ms, command.at_ms)
    step.budget = step.limits.inline_max
    tag, handler, subject_field = HANDLERS[type(command)]
    level = step.state.feature_level
    reply: AnyReply
    # From the highest level that any command needs on, no command has to be looked at.
    if level < step.highest_need and (needed := level_of(command)) > level:
        reply, outcome = features.refusal(tag, needed, level), RejectionCode.FEATURE_LEVEL.value
    elif command.request_id:
        reply, outcome = _apply_once(step, command, handler)
    else:
        reply = handler(step, command)
        outcome = reply.code.value if type(reply) is Rejection else "ok"
    if step.waits_due:
        begin_document_waits(step)
    transitions = step.transitions
    record = AuditRecord(
        index=index,
        position=position,
        term=term,
        at_ms=step.clock_ms,
        actor=command.actor,
        command=tag,
        subject=getattr(command, subject_field) if subject_field else "",
        request_id=command.request_id,
        outcome=outcome,
        detail=_detail(reply, step.notes),
        transitions=_as_transitions(transitions),
    )
    if transitions:
        step.transitions = []
    if step.notes:
        step.notes = []
    return reply, record


def apply_restoration(step: ApplyContext, restored: restoration.Restoration, index: int, term: int) -> AuditRecord:
    """Make a copied state the beginning of a new cluster, and return the audit record of that, not yet sealed."""
    restoration.fence_off(step, restored)
    record = AuditRecord(
        index=index,
        position=0,
        term=term,
        at_ms=step.clock_ms,
        actor="operator",
        command="cluster.restore",
        subject=restored.cluster,
        request_id="",
        outcome="ok",
        detail=_detail(Done(), step.notes),
        transitions=_as_transitions(step.transitions),
    )
    step.transitions, step.notes = [], []
    return record


def _apply_once(step: ApplyContext, command: c.AnyCommand, handler: Handler) -> tuple[AnyReply, str]:
    """Apply a command that carries a request id, unless that was done before."""
    request_id = command.request_id
    if len(request_id) > NAME_CHARS_MAX:
        refusal = Rejection(RejectionCode.INVALID, f"a request id has at most {NAME_CHARS_MAX} characters")
        return refusal, refusal.code.value
    fingerprint = fingerprint_of(command)
    known = step.state.requests.get(request_id)
    if known is not None:
        if known.fingerprint == fingerprint:
            return known.reply, "repeated"
        refusal = Rejection(
            RejectionCode.REQUEST_MISMATCH,
            f"request id {request_id!r} was used before for another request; make a new id for a new request",
        )
        return refusal, refusal.code.value
    reply = handler(step, command)
    if type(reply) is Rejection:
        return reply, reply.code.value
    step.state.requests.remember(Remembered(request_id, fingerprint, reply))
    return reply, "ok"


def _detail(reply: AnyReply, notes: list[str]) -> str:
    """Return what a person should see in the audit."""
    if type(reply) is Rejection:
        return reply.message
    if notes:
        more = f"; and {len(notes) - NOTES_MAX} more" if len(notes) > NOTES_MAX else ""
        return "; ".join(notes[:NOTES_MAX]) + more
    if type(reply) is Reported:
        stale = [str(verdict.fence) for verdict in reply.verdicts if verdict.verdict == "stale"]
        if stale:
            return f"stale: {', '.join(stale)}"
    return ""


def _as_transitions(rows: list[Any]) -> tuple[AuditTransition, ...]:
    """Pass plain tuples instead of structs: they have the same encoding, and nothing else is used."""
    return tuple(rows)
