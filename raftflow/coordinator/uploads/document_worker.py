"""The process that reads large workflow documents, so that no document blocks the replica.

It parses a document, checks and normalises it, and cuts it into pieces (`domain.pieces`). In the replica's own
process that would take seconds, some of them in single calls that block every other thread. It has no state: it gets
a document and answers with frames. When the replica is gone, the pipe closes and the process ends.

    frame   = length (4 bytes, big endian) + MessagePack
    request = ReadRequest
    answer  = DocumentFault | SubmissionHeader followed by as many pieces as it says

Started isolated (`raftflow.helpers`).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from raftflow.coordinator.uploads.submission import WorkflowSubmission, submission_of
from raftflow.domain.contract.views import FieldProblem
from raftflow.domain.pieces import TaskPiece
from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.readers.json_reader import decode_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.domain.tasks.workflow import WorkflowSpec

LENGTH_BYTES = 4
NICE = 5
"""The replica comes first where they share a core."""


class ReadRequest(msgspec.Struct, array_like=True, frozen=True):
    """A document to be read."""

    body: bytes
    request_id: str
    learnt_ms: dict[str, int]
    """How long tasks of a kind are taken to run."""


class DocumentFault(msgspec.Struct, frozen=True, tag="fault"):
    """The document is wrong."""

    message: str
    problems: list[FieldProblem] = []
    limit: int | None = None


class SubmissionHeader(msgspec.Struct, frozen=True, tag="head"):
    """A submission without its pieces, which follow, a frame for each."""

    submission: WorkflowSubmission
    pieces: int


Answer = DocumentFault | SubmissionHeader

_encode = msgspec.msgpack.Encoder().encode
_request_decoder = msgspec.msgpack.Decoder(ReadRequest)
answer_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Answer)
piece_decoder = msgspec.msgpack.Decoder(TaskPiece)


def frame(content: Any) -> bytes:
    """Encode a message as it travels."""
    data = _encode(content)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def answer(request: ReadRequest) -> Iterator[Answer | TaskPiece]:
    """Read a document: one answer, and the pieces that it announces."""
    try:
        spec = normalize(decode_json(request.body))
    except DocumentError as error:
        yield DocumentFault(f"the workflow document is invalid: {str(error)[:1000]}", error.problems, error.limit)
    except RecursionError:
        yield DocumentFault("the workflow document is nested too deeply")
    else:
        yield from _pieces(request, spec)


def _pieces(request: ReadRequest, spec: WorkflowSpec) -> Iterator[Answer | TaskPiece]:
    try:
        submission = submission_of(spec, request.request_id, request.learnt_ms)
    except (OverflowError, ValueError) as error:
        yield DocumentFault(f"the workflow document holds a value that cannot be stored: {error}")
        return
    yield SubmissionHeader(msgspec.structs.replace(submission, pieces=()), len(submission.pieces))
    yield from submission.pieces


def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answer requests until the pipe closes."""
    while len(head := incoming.read(LENGTH_BYTES)) == LENGTH_BYTES:
        request = _request_decoder.decode(incoming.read(int.from_bytes(head, "big")))
        outgoing.writelines(frame(message) for message in answer(request))
        outgoing.flush()


def main() -> None:
    """Serve standard input and output."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the replica says when it is over
    os.nice(NICE)
    gc.disable()  # what a document leaves behind has no cycles
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:  # the replica is gone
        os._exit(0)


if __name__ == "__main__":
    main()
