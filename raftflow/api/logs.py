"""The route of an attempt's output."""

from __future__ import annotations

from typing import Literal

import msgspec

from raftflow.api import problems
from raftflow.api.calls import Access, Answer, Call, Param, Route, found
from raftflow.api.problems import ProblemError
from raftflow.coordinator.relay import PIECE_BYTES_MAX
from raftflow.domain.contract import LogPiece, TaskLog
from raftflow.domain.utf8 import CHARACTER_BYTES_MAX, incomplete_suffix
from raftflow.machine import queries

_WHOLE_BYTES = 64 * 1024
"""An agent sends pieces of at least so many bytes if it has them: a shorter one ends where what is kept ends."""


async def logs(call: Call) -> Answer:
    """Fetch a piece of an attempt's output from the agent that holds it."""
    machine = call.replica.machine
    stream: Literal["stdout", "stderr"] = "stderr" if call.text("stream") == "stderr" else "stdout"
    offset, attempt = call.require_number("offset"), call.number("attempt")
    what = f"task {call.path('task')!r} in workflow {call.path('id')!r}"
    found(queries.task_view(machine, call.path("id"), call.path("task")), what)
    place = queries.attempt_location(machine, call.path("id"), call.path("task"), attempt)
    if place is None:
        if attempt is None:
            raise ProblemError(problems.CONFLICT, "the task has not been attempted yet, so there is no output")
        raise ProblemError(problems.NOT_FOUND, f"{what} has no attempt {attempt} that is remembered")
    name, fence, number = place
    agent = machine.state.agents.get(name)
    if agent is None or not agent.present:
        raise ProblemError(
            problems.CONFLICT, f"the output is with agent {name}, which is not there; it can be read when it is back"
        )
    since_ms = call.number("since_ms")
    limit = max(call.require_number("limit"), CHARACTER_BYTES_MAX)
    piece = await call.replica.desk.relay.request_log(
        name, fence, stream, offset, limit, workflow_id=call.path("id"), since_ms=since_ms
    )
    if since_ms is not None:
        if piece.offset is msgspec.UNSET:
            raise ProblemError(problems.CONFLICT, f"agent {name} is of an older version, which keeps no times")
        piece.data, offset = b"", piece.offset
    return Answer(task_log(piece, offset, limit, attempt=number, agent=name, stream=stream))


def task_log(
    piece: LogPiece, wanted: int, limit: int, *, attempt: int, agent: str, stream: Literal["stdout", "stderr"]
) -> TaskLog:
    """Return the answer for a piece of which `limit` bytes from the byte `wanted` on were asked for.

    The beginning of a character at the end of a piece is left for the next one, if there is more to come.
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


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/v1/workflows/{id}/tasks/{task}/logs",
        Access.WRITE,
        logs,
        "Fetch a piece of an attempt's output from its agent",
        TaskLog,
        params=(
            Param("stream", "string", "which output", ("stdout", "stderr"), default="stdout"),
            Param("attempt", "integer", "number of the attempt; the last one by default", least=1),
            Param("offset", "integer", "byte of the stream to begin at", default=0),
            Param(
                "limit",
                "integer",
                "most bytes; one character always comes whole",
                least=1,
                most=PIECE_BYTES_MAX,
                default=PIECE_BYTES_MAX,
            ),
            Param(
                "since_ms",
                "integer",
                "ms since 1970: the answer has no text, and its `next` is where output of that time or later begins",
            ),
        ),
        problems=(problems.CONFLICT, problems.LOG_UNAVAILABLE),
    ),
)
