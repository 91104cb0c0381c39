"""Which commands had an effect in a run. A command that no seed shows with an effect is not tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import (
    AgentAccepted,
    BundlesRetired,
    Cleared,
    Done,
    EffectBegun,
    EffectEnded,
    Fired,
    Placed,
    RatesTaken,
    Reported,
    Retired,
    SignalTaken,
    StepsRecorded,
    TasksSpawned,
    WaitBegun,
    WorkflowAccepted,
)

if TYPE_CHECKING:
    from raftflow.domain.replies import AnyReply


def has_effect(reply: AnyReply) -> bool:  # noqa: PLR0911 - a line for each reply
    """Return True if the reply says that the command changed something."""
    match reply:
        case Rejection():
            return False
        case Done() | EffectEnded():
            return reply.changed
        case WorkflowAccepted() | AgentAccepted() | WaitBegun():
            return True
        case Placed():
            return any(reply.fences)
        case Reported():
            return any(verdict.verdict == "accepted" for verdict in reply.verdicts)
        case StepsRecorded() | RatesTaken():
            return any(verdict.verdict in ("recorded", "taken") for verdict in reply.verdicts)
        case TasksSpawned():
            return reply.added > 0
        case EffectBegun():
            return reply.status in {"begun", "open"}
        case Fired() | Cleared():
            return reply.count > 0
        case SignalTaken() | Retired():
            return reply.state != "repeated" if isinstance(reply, SignalTaken) else bool(reply.workflow_ids)
        case BundlesRetired():
            return bool(reply.digests)
    assert_never(reply)
