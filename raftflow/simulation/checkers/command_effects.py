"""Which commands had an effect in a run. A command that no seed shows with an effect is not tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import (
    AgentAccepted,
    BundlesRetired,
    Cleared,
    Done,
    Fired,
    Placed,
    Reported,
    Retired,
    StepsRecorded,
    TasksSpawned,
    WorkflowAccepted,
)

if TYPE_CHECKING:
    from raftflow.domain.replies import AnyReply


def has_effect(reply: AnyReply) -> bool:
    """Return True if the reply says that the command changed something."""
    match reply:
        case Rejection():
            return False
        case Done():
            return reply.changed
        case WorkflowAccepted() | AgentAccepted():
            return True
        case Placed():
            return any(reply.fences)
        case Reported():
            return any(verdict.verdict == "accepted" for verdict in reply.verdicts)
        case StepsRecorded():
            return any(verdict.verdict == "recorded" for verdict in reply.verdicts)
        case TasksSpawned():
            return reply.added > 0
        case Fired() | Cleared():
            return reply.count > 0
        case Retired():
            return bool(reply.workflow_ids)
        case BundlesRetired():
            return bool(reply.digests)
    assert_never(reply)
