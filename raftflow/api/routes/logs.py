"""The route of an attempt's output."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from raftflow.api.dispatch.requests import Request, Response, Route, as_json, require_found
from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.replica import Replica
from raftflow.coordinator.sessions.log_relay import PIECE_BYTES_MAX, LogUnavailableError
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import LogPiece, TaskLog
from raftflow.domain.values.utf8 import CHARACTER_BYTES_MAX, incomplete_suffix
from raftflow.logstore.attempts import Place
from raftflow.machine.read import queries

_WHOLE_BYTES = 64 * 1024
"""An agent sends at least so many bytes if it has them. A shorter piece ends where the kept output ends."""


async def fetch_task_log(call: Request) -> Response:
    """Fetch a piece of an attempt's output from the agent that holds it, or from the log store."""
    machine = call.replica.machine
    stream: Literal["stdout", "stderr"] = "stderr" if call.text("stream") == "stderr" else "stdout"
    offset, attempt = call.require_number("offset"), call.number("attempt")
    what = f"task {call.path('task')!r} in workflow {call.path('id')!r}"
    require_found(queries.task_view(machine, call.path("id"), call.path("task")), what)
    place = queries.attempt_location(machine, call.path("id"), call.path("task"), attempt)
    if place is None:
        if attempt is None:
            raise ProblemError(problems.CONFLICT, "the task has no attempt yet, so there is no output")
        raise ProblemError(problems.NOT_FOUND, f"attempt {attempt} of {what} is unknown or no longer remembered")
    name, fence, number = place
    limit = max(call.require_number("limit"), CHARACTER_BYTES_MAX)
    wanted = _Wanted(
        Place(call.path("id"), call.path("task"), number, fence), name, stream, offset, limit, call.number("since_ms")
    )
    if call.request.method == "HEAD":
        return as_json(b"")  # no output is fetched: an agent answers with its next poll
    piece = await _fetch(call.replica, wanted)
    if wanted.since_ms is not None:
        if piece.offset is msgspec.UNSET:
            raise ProblemError(problems.CONFLICT, f"agent {name} has an older version, which keeps no times")
        piece.data, offset = b"", piece.offset
    return Response(task_log(piece, offset, limit, attempt=number, agent=name, stream=stream))


class _Wanted(NamedTuple):
    place: Place
    agent: str
    stream: Literal["stdout", "stderr"]
    offset: int
    limit: int
    since_ms: int | None


async def _fetch(replica: Replica, wanted: _Wanted) -> LogPiece:
    """Fetch a piece from the agent, or from the log store if the agent does not have it."""
    agent = replica.machine.tables.agents.get(wanted.agent)
    if agent is None or not agent.present:
        piece = await _fetch_stored(replica, wanted)
        if piece is None:
            raise ProblemError(
                problems.CONFLICT,
                f"the output is with agent {wanted.agent}, which is not connected; read it when the agent is back"
                + ("" if replica.stored_logs is None else ". The log store has no output of this attempt"),
            )
        return piece
    try:
        return await replica.poll_service.relay.request_log(
            wanted.agent,
            wanted.place.fence,
            wanted.stream,
            wanted.offset,
            wanted.limit,
            workflow_id=wanted.place.workflow_id,
            since_ms=wanted.since_ms,
        )
    except LogUnavailableError:
        piece = await _fetch_stored(replica, wanted)
        if piece is None:
            raise
        return piece


async def _fetch_stored(replica: Replica, wanted: _Wanted) -> LogPiece | None:
    if replica.stored_logs is None:
        return None
    return await replica.stored_logs.read(
        wanted.place, wanted.stream, wanted.offset, min(wanted.limit, PIECE_BYTES_MAX), wanted.since_ms
    )


def task_log(
    piece: LogPiece, wanted: int, limit: int, *, attempt: int, agent: str, stream: Literal["stdout", "stderr"]
) -> TaskLog:
    """Return the answer for a piece; the client asked for `limit` bytes from the byte `wanted`.

    If more output follows, an incomplete character at the end of a piece is left for the next piece.
    """
    offset = max(wanted if piece.offset is msgspec.UNSET else piece.offset, wanted)
    data, end = piece.data, offset + len(piece.data)
    is_last = piece.complete and end >= piece.size
    is_full = end >= piece.size or len(data) >= min(limit, _WHOLE_BYTES)
    if not is_last and is_full:
        data = data[: len(data) - incomplete_suffix(data)]
    text = data.decode("utf-8", "replace")
    return TaskLog(
        attempt=attempt,
        agent=agent,
        stream=stream,
        offset=offset,
        text=text,
        data=None if text.encode() == data else data,
        skipped=offset - wanted,
        next=offset + len(data),
        size=piece.size,
        truncated=piece.truncated,
        complete=piece.complete,
    )


ROUTES: tuple[Route, ...] = (Route(operations.tasks.FETCH_TASK_LOG, fetch_task_log),)
