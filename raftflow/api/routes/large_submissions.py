"""Large submissions: a separate process reads the document, and it enters the log in pieces (`coordinator.uploads`).

A client that gives up and sends the request again with the same idempotency key waits for the first request, and gets
its answer. Without a key no client could ask for that answer, so the work ends when the client is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiohttp import web

from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.commit.submitter import FOUNDING, NoLeaderError
from raftflow.coordinator.uploads.document_reader import DocumentReader, ReaderFailedError
from raftflow.coordinator.uploads.document_worker import DocumentFault
from raftflow.coordinator.uploads.workflow_uploads import ClientGoneError
from raftflow.machine.read import queries

if TYPE_CHECKING:
    from raftflow.api.dispatch.requests import Request
    from raftflow.domain.replies import AnyReply

SUBMISSIONS_MAX = 16
"""Large submissions at the same time."""


class LargeSubmissions:
    """The reader of large documents, and how many are in work."""

    def __init__(self) -> None:
        self.reader = DocumentReader()
        self._in_work = 0

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Count one more submission. Raises `ProblemError` if there are too many."""
        if self._in_work >= SUBMISSIONS_MAX:
            raise ProblemError(problems.QUEUE_FULL, "many large documents are being submitted; try again later")
        self._in_work += 1
        try:
            yield
        finally:
            self._in_work -= 1


KEY = web.AppKey("large", LargeSubmissions)


async def submit(call: Request, *, request_id: str, workflow_id: str, actor: str) -> AnyReply:
    """Submit a large document; return the state machine's reply. Raises `ProblemError` and `ProposeError`s."""
    large = call.request.app[KEY]
    with large.reserve():
        async with call.replica.uploads.alone(request_id):
            try:
                return await _submit(large.reader, call, request_id, workflow_id, actor)
            except ReaderFailedError as error:
                raise ProblemError(problems.QUEUE_FULL, str(error)) from error
            except ClientGoneError:
                raise ProblemError(problems.INVALID_DOCUMENT, "the client went away") from None


async def _submit(reader: DocumentReader, call: Request, request_id: str, workflow_id: str, actor: str) -> AnyReply:
    replica = call.replica
    if not replica.feature_level():
        raise NoLeaderError(FOUNDING)
    submission = await reader.pieces_of(call.body, request_id, queries.expected_times(replica.machine))
    if isinstance(submission, DocumentFault):
        raise _problem(submission)
    if not replica.leader.leading:
        raise replica.submitter.no_leader_error()
    return await replica.uploads.submit(
        submission,
        workflow_id=workflow_id,
        request_id=request_id,
        actor=actor,
        wanted=lambda: bool(request_id) or _is_connected(call.request),
    )


def _is_connected(request: web.Request) -> bool:
    transport = request.transport
    return transport is not None and not transport.is_closing()


def _problem(wrong: DocumentFault) -> ProblemError:
    kind = problems.INVALID_DOCUMENT if wrong.limit is None else problems.TOO_LARGE
    return ProblemError(kind, wrong.message, errors=wrong.problems, limit=wrong.limit)
