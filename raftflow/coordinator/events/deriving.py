"""Deriving events from an applied entry: a pure function of what every replica has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.domain import commands as c
from raftflow.domain.contract.events.events import ClusterEvent
from raftflow.domain.events import BudgetReached, WorkflowFinished
from raftflow.domain.values.times import iso_utc
from raftflow.machine.rules.audit_chain import decode_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.domain.contract.views import AuditRecord, AuditTransition
    from raftflow.domain.events import Event

DETAIL_CHARS_MAX: Final = 300

_CHANGES: Final[dict[type[c.Command], tuple[str, dict[str, str]]]] = {
    c.SubmitWorkflow: ("workflow.submitted", {"workflow": "workflow_id"}),
    c.FinishWorkflow: ("workflow.submitted", {"workflow": "workflow_id"}),
    c.ControlWorkflow: ("workflow.controlled", {"workflow": "workflow_id", "state": "action"}),
    c.SetPriority: ("workflow.prioritized", {"workflow": "workflow_id", "detail": "priority"}),
    c.RegisterAgent: ("agent.registered", {"agent": "name"}),
    c.DrainAgent: ("agent.draining", {"agent": "name"}),
    c.ResumeAgent: ("agent.resumed", {"agent": "name"}),
    c.ForgetAgent: ("agent.forgotten", {"agent": "name"}),
    c.RemoveAgent: ("agent.removed", {"agent": "name", "cause": "reason"}),
    c.BeginWait: ("wait.begun", {"agent": "agent", "state": "kind", "detail": "name"}),
    c.DecideApproval: ("approval.decided", {"state": "choice", "detail": "number"}),
    c.SendSignal: ("signal.sent", {"workflow": "workflow_id", "detail": "name"}),
    c.RaiseBudget: ("budget.raised", {"workflow": "workflow_id"}),
    c.SetRateLimit: ("rate.set", {"detail": "name"}),
    c.RemoveRateLimit: ("rate.removed", {"detail": "name"}),
    c.CreateToken: ("token.created", {"detail": "name"}),
    c.RotateToken: ("token.rotated", {"detail": "name"}),
    c.RevokeToken: ("token.revoked", {"detail": "name"}),
    c.BeginEffect: ("effect.begun", {"agent": "agent"}),
    c.EndEffect: ("effect.ended", {"agent": "agent"}),
    c.ResolveEffect: ("effect.resolved", {"detail": "number"}),
    c.RegisterBundle: ("bundle.registered", {"detail": "digest"}),
    c.RaiseFeatureLevel: ("cluster.level_raised", {"detail": "level"}),
    c.ClearCache: ("cache.cleared", {}),
}
"""The event of each command that is one, and which fields of the event come from which fields of the command.

Others (placements, reports, timers, pieces of large commands) are told by the tasks that they move. Nothing secret
is in these fields.
"""

_FINAL: Final = frozenset({"succeeded", "failed", "cancelled"})
_KIND_OF_STATE: Final = {
    "waiting": "task.waiting",
    "delayed": "task.delayed",
    "ready": "task.ready",
    "queued": "task.queued",
    "running": "task.started",
    "parked": "task.parked",
}


def derive(index: int, entry: bytes, audit: Sequence[bytes], news: Sequence[Event]) -> list[ClusterEvent]:
    """Return the events of an entry in their order.

    Args:
        index: of the entry.
        entry: the entry as the log has it.
        audit: the audit records that applying it made, one for each command.
        news: what applying it told the leader.
    """
    records = [decode_record(each) for each in audit]
    changes = [
        change
        for command, record in zip(c.decode_entry(entry).commands, records, strict=True)
        if record.outcome == "ok"
        for change in _of_command(command, record)
    ]
    at = iso_utc(records[-1].at_ms) if records else ""
    changes += [change | {"at": at} for change in map(_of_news, news) if change]
    return [
        ClusterEvent(id=f"{index}.{position}", **{name: value for name, value in change.items() if value})
        for position, change in enumerate(changes, 1)
    ]


def _of_command(command: c.AnyCommand, record: AuditRecord) -> Iterator[dict[str, Any]]:
    at = iso_utc(record.at_ms)
    if type(command) in _CHANGES:
        kind, fields = _CHANGES[type(command)]
        told = {name: str(getattr(command, source))[:DETAIL_CHARS_MAX] for name, source in fields.items()}
        yield {"kind": kind, "at": at, "actor": record.actor, **told}
    failures: dict[int, str] = {}
    if isinstance(command, c.ReportAttempts):
        failures = {end.fence: end.error for end in command.ends if end.error}
    for transition in record.transitions:
        yield {"at": at, "actor": record.actor, **_of_transition(transition, failures)}


def _of_transition(transition: AuditTransition, failures: dict[int, str]) -> dict[str, Any]:
    after = transition.after
    return {
        "kind": "task.finished" if after in _FINAL else _KIND_OF_STATE[after],
        "workflow": transition.workflow_id,
        "task": transition.task_id,
        "agent": transition.agent,
        "attempt": transition.attempt,
        "state": after,
        "before": transition.before,
        "cause": transition.event,
        "detail": failures.get(transition.fence, "")[:DETAIL_CHARS_MAX],
    }


def _of_news(news: Event) -> dict[str, Any] | None:
    if isinstance(news, WorkflowFinished):
        return {"kind": "workflow.finished", "workflow": news.workflow_id, "state": str(news.state)}
    if isinstance(news, BudgetReached):
        return {
            "kind": "budget.reached",
            "workflow": news.workflow_id,
            "detail": news.name,
            "state": "used_up" if news.used_up else "soft_limit",
        }
    return None


encode_event: Final = msgspec.json.Encoder().encode
