"""The route on which agents fetch large inputs of their attempts, piece by piece, from any replica.

The results are in memory as JSON, so a piece is joined from bytes and nothing is encoded again. Large pieces run one
at a time (`load_shedder`), so that heartbeats are sent between them.
"""

from __future__ import annotations

from raftflow.api.dispatch.requests import Request, Response, Route, as_json, encode
from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import FieldProblem
from raftflow.domain.limits import NUMBER_MAX
from raftflow.machine.read.inputs import BehindError, InputsSlice, NotLiveError, inputs_slice

SMALL_BYTES = 64 * 1024
"""A piece of up to this size costs little."""


async def fetch_inputs(call: Request) -> Response:
    """Return a piece of an attempt's inputs."""
    piece = _find(call)
    if piece.size <= SMALL_BYTES:
        return as_json(_content(piece))
    async with call.shedder.heavy():
        return as_json(_content(piece))


def _find(call: Request) -> InputsSlice:
    agent, fence = call.path("id"), _fence(call)
    try:
        return inputs_slice(call.replica.machine, agent, fence, call.require_number("first"))
    except BehindError:
        raise ProblemError(
            problems.BEHIND,
            f"this replica does not know attempt {fence} yet; ask another replica, or try again shortly",
        ) from None
    except NotLiveError:
        raise ProblemError(
            problems.CONFLICT,
            f"agent {agent[:200]!r} has no running attempt with fence {fence}: it has ended or is another agent's",
        ) from None
    except ValueError as error:
        raise ProblemError(
            problems.INVALID_DOCUMENT,
            f"query parameter 'first': {error}",
            errors=[FieldProblem("?first", str(error))],
        ) from None


def _fence(call: Request) -> int:
    text = call.path("fence")
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= NUMBER_MAX):
        raise ProblemError(problems.INVALID_DOCUMENT, f"{text[:40]!r} is not a fence: it is a whole number")
    return int(text)


def _content(piece: InputsSlice) -> bytes:
    members = b",".join([b"%s:%s" % (encode(need), result) for need, result in piece.inputs])
    return b'{"inputs":{%s},"next":%s}' % (members, b"null" if piece.next is None else b"%d" % piece.next)


ROUTES: tuple[Route, ...] = (Route(operations.agents.FETCH_INPUTS, fetch_inputs),)
