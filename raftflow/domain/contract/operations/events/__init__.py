"""Operations of events."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract.events.events import EventPage
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Param
from raftflow.domain.contract.problem_kinds import GONE

LIST_EVENTS: Final = Operation(
    name="list_events",
    method="GET",
    path="/v1/events",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.READ,
    summary="List what changed, in the order of the log",
    details="Every replica tells the same events under the same ids, from what it has applied. With the header "
    "`Accept: text/event-stream` the answer is a stream of server-sent events that does not end; it goes on behind "
    "`from`, or behind the header `Last-Event-ID`. Without either of them it begins with what happens from now on. "
    "The newest events are kept in memory; an older id is answered with the problem `gone`.",
    answer=EventPage,
    items="events",
    answer_s=40.0,
    extra_problems=(GONE,),
    params=(
        Param(
            "from",
            "string",
            "id of the event behind which to go on; 0 for all that are kept, missing for what happens from now on",
            pattern=r"^[0-9]{1,16}(\.[0-9]{1,9})?$",
        ),
        Param("workflow", "string", "only events of this workflow"),
        Param("task", "string", "only events of tasks with this id"),
        Param("agent", "string", "only events of this agent"),
        Param("kind", "string", "only these kinds or families of kinds, with commas between them"),
        Param("limit", "integer", "most events of a page", minimum=1, maximum=limits.EVENTS_PAGE_MAX, default=100),
        Param(
            "wait_ms",
            "integer",
            "hold the answer so long until there is an event",
            maximum=limits.EVENTS_WAIT_MS_MAX,
            default=0,
        ),
    ),
    no_verb="`raftflow events` reads page after page, and follows",
)
