"""The route of events: a page, or a stream of server-sent events, of what this replica has applied."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from aiohttp import web

from raftflow.api.dispatch.requests import Request, Response, Route, encode
from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.events.history import EventHistory, EventId, EventsFound, GoneError
from raftflow.domain import limits
from raftflow.domain.contract import operations
from raftflow.domain.contract.events.events import ClusterEvent, EventPage

STREAM_TYPE: Final = "text/event-stream"
HEARTBEAT_S: Final = 10.0
LEFT_CHECK_S: Final = 1.0
"""How long the place of a reader that has left stays taken, at most."""
WRITE_TIMEOUT_S: Final = 15.0
"""A reader that does not take what was sent for this time is closed. It can go on behind the last id that it has."""
_BATCH: Final = 500
_ID: Final = re.compile(r"(?P<index>[0-9]{1,16})(\.(?P<position>[0-9]{1,9}))?")


class _Asked(NamedTuple):
    after: EventId
    limit: int
    wanted: Callable[[ClusterEvent], bool]


async def list_events(call: Request) -> Response | web.StreamResponse:
    """List what changed, in the order of the log, or stream it."""
    asked = _read_request(call)
    history = call.replica.events
    wait_s = call.hold_s("wait_ms")
    if call.request.method != "HEAD" and STREAM_TYPE in call.request.headers.get("Accept", ""):
        with _counted(call):
            return await _stream(call, asked)
    found = _find(history, asked)
    if not found.events and wait_s:
        with _counted(call):
            loop = asyncio.get_running_loop()
            until_s = loop.time() + wait_s
            while not found.events and not history.closed and (left_s := until_s - loop.time()) > 0:
                if found.at_end:
                    await history.wait(left_s)
                else:
                    await asyncio.sleep(0)
                asked = asked._replace(after=found.following)
                found = _find(history, asked)
    return Response(EventPage(events=found.events, next=str(found.following), replica=call.replica.config.name))


def _read_request(call: Request) -> _Asked:
    """Read what is asked for. Raises `ProblemError`."""
    history = call.replica.events
    text = call.request.headers.get("Last-Event-ID") or call.text("from")
    if text is None:
        after = history.end()
    elif (match := _ID.fullmatch(text)) is None:
        raise ProblemError(problems.INVALID_DOCUMENT, f"{text[:80]!r} must be the id of an event, such as 4711.2")
    else:
        after = EventId(int(match["index"]), int(match["position"] or 0))
        if after.entry == 0:
            after = history.oldest
    exact = [(name, value) for name in ("workflow", "task", "agent") if (value := call.text(name)) is not None]
    kinds = frozenset((call.text("kind") or "").split(",")) - {""}

    def wanted(event: ClusterEvent) -> bool:
        if kinds and event.kind not in kinds and event.kind.partition(".")[0] not in kinds:
            return False
        return all(getattr(event, name) == value for name, value in exact)

    return _Asked(after, call.require_number("limit"), wanted)


def _find(history: EventHistory, asked: _Asked) -> EventsFound:
    """Return a page. Raises `ProblemError` if it is gone."""
    try:
        return history.read(asked.after, asked.limit, asked.wanted)
    except GoneError as gone:
        raise _gone(gone) from None


def _gone(gone: GoneError) -> ProblemError:
    return ProblemError(
        problems.GONE,
        f"events behind that id are not kept here any more; the oldest id to go on from is {gone.oldest}. Read the "
        f"lists again, and go on from there",
    )


@contextmanager
def _counted(call: Request) -> Iterator[None]:
    """Count a reader. Raises `ProblemError` if there are too many."""
    readers = call.replica.events.readers
    who = call.actor
    if readers.total() >= limits.EVENT_READERS_MAX or readers[who] >= limits.EVENT_READERS_PER_CLIENT_MAX:
        raise ProblemError(
            problems.QUEUE_FULL,
            f"too many readers of events: a replica has at most {limits.EVENT_READERS_MAX}, and "
            f"{limits.EVENT_READERS_PER_CLIENT_MAX} for each identity; ask another replica",
        )
    readers[who] += 1
    try:
        yield
    finally:
        readers[who] -= 1
        if not readers[who]:
            del readers[who]


async def _stream(call: Request, asked: _Asked) -> web.StreamResponse:
    """Send events until the reader leaves, or does not take them. Raises `ProblemError` before the first byte."""
    history = call.replica.events
    asked = asked._replace(limit=_BATCH)
    _find(history, asked)
    response = web.StreamResponse(
        headers={"Content-Type": STREAM_TYPE, "Cache-Control": "no-store", "Server": "raftflow"}
    )
    await response.prepare(call.request)
    try:
        await _send(response, b": events\n\n")
        while not history.closed:
            try:
                found = history.read(asked.after, asked.limit, asked.wanted)
            except GoneError as gone:
                await _send(response, b'event: gone\ndata: {"oldest":"%s"}\n\n' % str(gone.oldest).encode())
                break
            asked = asked._replace(after=found.following)
            if found.events:
                # The last id without data moves `Last-Event-ID` of a reader behind what was looked at, too.
                await _send(
                    response, b"".join(map(_as_message, found.events)) + b"id: %s\n\n" % str(found.following).encode()
                )
            elif found.at_end and not await _wait(call):
                await _send(response, b": heartbeat\nid: %s\n\n" % str(asked.after).encode())
            await asyncio.sleep(0)
    except TimeoutError:
        if call.request.transport is not None:
            call.request.transport.abort()
    except ConnectionError:
        pass
    return response


async def _wait(call: Request) -> bool:
    """Wait for something that is applied. False if nothing was until a heartbeat is due, or the reader has left."""
    history = call.replica.events
    end, loop = history.end(), asyncio.get_running_loop()
    until_s = loop.time() + HEARTBEAT_S
    while call.request.transport is not None and loop.time() < until_s:
        await history.wait(LEFT_CHECK_S)
        if history.closed or history.end() != end:
            return True
    return False


async def _send(response: web.StreamResponse, data: bytes) -> None:
    """Send bytes. Raises `TimeoutError` if the reader does not take them, `ConnectionError` if it is gone."""
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


def _as_message(event: ClusterEvent) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.kind.encode(), encode(event))


ROUTES: Final[tuple[Route, ...]] = (Route(operations.events.LIST_EVENTS, list_events),)
