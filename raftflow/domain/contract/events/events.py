"""Events: what changed, as the API tells it."""

from __future__ import annotations

import msgspec


class ClusterEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One change. It is derived from an applied command, so all replicas tell the same under the same id."""

    id: str
    """`INDEX.POSITION`: the index of the log, and the place among the events of that entry, from 1 on."""
    kind: str
    """What changed, as `task.started`. The part before the point is its family."""
    at: str
    """The cluster's time."""
    actor: str = ""
    """Who asked for it."""
    workflow: str = ""
    task: str = ""
    agent: str = ""
    attempt: int = 0
    """Number of the attempt, 0 if the event is about none."""
    state: str = ""
    """The state after it."""
    before: str = ""
    """The state of the task before it."""
    cause: str = ""
    """What happened to the task, as the audit names it; why an agent was removed."""
    detail: str = ""
    """A name or a number that belongs to it: of a signal, an approval, a budget, a token; how an attempt failed."""


class EventPage(msgspec.Struct, kw_only=True):
    """Events of one replica in log order."""

    events: list[ClusterEvent]
    next: str
    """The id to go on from: all events up to it were looked at."""
    replica: str = ""
