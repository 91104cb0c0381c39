"""What an applied entry means for the leader: small instructions, derived again on every replica, used on one.

They carry no data that the machine does not hold. Within an entry they are in the order in which things happened;
`AgentChanged` and `WorkflowChanged` come last, once for each name.
"""

from __future__ import annotations

import msgspec

from raftflow.domain.tasks.states import WorkflowState


class TaskReady(msgspec.Struct, frozen=True, gc=False):
    """The task may be placed now."""

    workflow_id: str
    task: int
    """Position in its workflow."""


class TaskNotReady(msgspec.Struct, frozen=True, gc=False):
    """The task may no longer be placed: it was placed, cancelled, or its workflow paused."""

    workflow_id: str
    task: int


class WorkflowReady(msgspec.Struct, frozen=True, gc=False):
    """Every task of the workflow that is ready may be placed now. In place of a `TaskReady` for each."""

    workflow_id: str


class WorkflowNotReady(msgspec.Struct, frozen=True, gc=False):
    """No task of the workflow may be placed any more: it is paused."""

    workflow_id: str


class AgentChanged(msgspec.Struct, frozen=True, gc=False):
    """There is news for the agent (assignments, stops, releases), or its room changed."""

    name: str


class WorkflowChanged(msgspec.Struct, frozen=True, gc=False):
    """What `workflow show` prints for it may have changed."""

    workflow_id: str


class WorkflowFinished(msgspec.Struct, frozen=True, gc=False):
    """The last task of the workflow ended."""

    workflow_id: str
    state: WorkflowState


class RateLimitChanged(msgspec.Struct, frozen=True, gc=False):
    """A rate limit was set, changed or removed: tasks that take from it may have to be placed."""

    name: str


class BudgetReached(msgspec.Struct, frozen=True, gc=False):
    """So much was spent of a budget that its soft limit is reached, or all of it is used up."""

    workflow_id: str
    name: str
    used_up: bool


class TimerSet(msgspec.Struct, frozen=True, gc=False):
    """The earliest timer is now this one."""

    due_ms: int


Event = (
    TaskReady
    | TaskNotReady
    | WorkflowReady
    | WorkflowNotReady
    | AgentChanged
    | WorkflowChanged
    | WorkflowFinished
    | RateLimitChanged
    | BudgetReached
    | TimerSet
)
