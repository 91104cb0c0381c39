"""Routes of snapshots: take one, and read it piece by piece."""

from __future__ import annotations

from raftflow.api.dispatch.requests import Cost, Request, Response, Route
from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.snapshots import SnapshotGoneError
from raftflow.domain.contract.operations.snapshots import READ_SNAPSHOT, TAKE_SNAPSHOT
from raftflow.replication.log import SnapshotNotTakenError


async def take_snapshot(call: Request) -> Response:
    """Write a snapshot of this replica and open it."""
    try:
        return Response(await call.replica.snapshots.take())
    except SnapshotNotTakenError as error:
        raise ProblemError(problems.CONFLICT, str(error)) from error


async def read_snapshot(call: Request) -> Response:
    """Return a piece of a snapshot."""
    offset, limit = call.require_number("offset"), call.require_number("limit")
    try:
        piece = await call.replica.snapshots.read(call.path("id"), offset, limit)
    except SnapshotGoneError as error:
        raise ProblemError(problems.NOT_FOUND, str(error)) from error
    except OSError as error:
        raise ProblemError(problems.INTERNAL, f"the snapshot cannot be read: {error}") from error
    return Response(piece, headers={"Content-Type": READ_SNAPSHOT.media_type})


ROUTES: tuple[Route, ...] = (
    Route(TAKE_SNAPSHOT, take_snapshot, cost=Cost.LONG),
    Route(READ_SNAPSHOT, read_snapshot, cost=Cost.LARGE),
)
