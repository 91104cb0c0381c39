"""RFC 9457 problem documents: which there are, and how everything that can go wrong becomes one.

The type words are stable; clients decide by them and by the status, never by the texts.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from aiohttp import web

from raftflow.coordinator.commit.submitter import (
    BusyError,
    NoLeaderError,
    NotLeaderError,
    OutcomeUnknownError,
    ProposeError,
)
from raftflow.coordinator.sessions.log_relay import LogLostError, LogUnavailableError
from raftflow.domain.contract.views import PROBLEM_TYPE_PREFIX, FieldProblem, Problem
from raftflow.domain.rejections import Rejection, RejectionCode

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


class ProblemKind(NamedTuple):
    """A kind of problem."""

    word: str
    status: int
    title: str


INVALID_DOCUMENT = ProblemKind("invalid-document", 400, "The request cannot be understood")
UNAUTHORIZED = ProblemKind("unauthorized", 401, "A valid bearer token is needed")
FORBIDDEN = ProblemKind("forbidden", 403, "Requests from other web sites are refused")
NOT_FOUND = ProblemKind("not-found", 404, "There is no such thing")
METHOD_NOT_ALLOWED = ProblemKind("method-not-allowed", 405, "The method does not apply here")
CONFLICT = ProblemKind("conflict", 409, "Its present state does not allow that")
NAME_IN_USE = ProblemKind("name-in-use", 409, "Another agent that lives has this name")
STALE_INCARNATION = ProblemKind("stale-incarnation", 409, "The agent was declared lost or registered again")
REQUEST_MISMATCH = ProblemKind("request-mismatch", 409, "The idempotency key was used for another request")
TOO_LARGE = ProblemKind("too-large", 413, "A limit would be passed")
URI_TOO_LONG = ProblemKind("uri-too-long", 414, "The target of the request is too long")
UNSUPPORTED_MEDIA = ProblemKind("unsupported-media-type", 415, "The body must be JSON, and not compressed")
WRONG_HOST = ProblemKind("wrong-host", 421, "The replica does not answer under this name")
QUEUE_FULL = ProblemKind("queue-full", 429, "Too much is waiting")
HEADERS_TOO_LARGE = ProblemKind("headers-too-large", 431, "The headers of the request are too large")
INTERNAL = ProblemKind("internal", 500, "The replica failed")
LOG_UNAVAILABLE = ProblemKind("log-unavailable", 503, "The agent did not deliver the output")
NO_LEADER = ProblemKind("no-leader", 503, "There is no leader at the moment")
BEHIND = ProblemKind("behind", 503, "This replica has not come that far yet")
OUTCOME_UNKNOWN = ProblemKind("outcome-unknown", 503, "The request may have been carried out or not")

ALL_KINDS = (
    INVALID_DOCUMENT,
    UNAUTHORIZED,
    FORBIDDEN,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    CONFLICT,
    NAME_IN_USE,
    STALE_INCARNATION,
    REQUEST_MISMATCH,
    TOO_LARGE,
    URI_TOO_LONG,
    UNSUPPORTED_MEDIA,
    WRONG_HOST,
    QUEUE_FULL,
    HEADERS_TOO_LARGE,
    INTERNAL,
    LOG_UNAVAILABLE,
    NO_LEADER,
    BEHIND,
    OUTCOME_UNKNOWN,
)

_RETRY_LATER = {QUEUE_FULL, NO_LEADER, BEHIND, OUTCOME_UNKNOWN, LOG_UNAVAILABLE}

_REJECTIONS = {
    RejectionCode.INVALID: INVALID_DOCUMENT,
    RejectionCode.NOT_FOUND: NOT_FOUND,
    RejectionCode.CONFLICT: CONFLICT,
    RejectionCode.LIMIT: TOO_LARGE,
    RejectionCode.NAME_IN_USE: NAME_IN_USE,
    RejectionCode.STALE_INCARNATION: STALE_INCARNATION,
    RejectionCode.REQUEST_MISMATCH: REQUEST_MISMATCH,
    RejectionCode.FEATURE_LEVEL: CONFLICT,
}


class ProblemError(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        errors: list[FieldProblem] | None = None,
        limit: int | None = None,
        current_attempt: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.problem = Problem(
            type=PROBLEM_TYPE_PREFIX + kind.word,
            title=kind.title,
            status=kind.status,
            detail=detail,
            errors=errors or [],
            limit=limit,
            current_attempt=current_attempt,
        )
        self.headers = headers or {}

    def parts(self) -> tuple[int, dict[str, str], bytes]:
        """Return the answer's status, headers and body."""
        headers = {**self.headers, "Content-Type": CONTENT_TYPE}
        if self.kind in _RETRY_LATER:
            headers.setdefault("Retry-After", str(RETRY_AFTER_S))
        return self.kind.status, headers, msgspec.json.encode(self.problem)

    def response(self) -> web.Response:
        """Return the answer."""
        status, headers, body = self.parts()
        response = web.Response(status=status, body=body, headers=headers)
        if headers.get("Connection") == "close":
            response.force_close()
        return response


def from_rejection(rejection: Rejection, *, current_attempt: int | None = None) -> ProblemError:
    """Turn the state machine's refusal into a problem."""
    return ProblemError(
        _REJECTIONS[rejection.code],
        rejection.message,
        errors=[FieldProblem(fault.path, fault.message) for fault in rejection.problems],
        limit=rejection.limit,
        current_attempt=current_attempt,
    )


def from_error(error: ProposeError | LogUnavailableError) -> ProblemError:
    """Turn what kept a request from being carried out into a problem."""
    if isinstance(error, LogLostError):
        return ProblemError(NOT_FOUND, str(error))
    if isinstance(error, LogUnavailableError):
        return ProblemError(LOG_UNAVAILABLE, str(error))
    if isinstance(error, BusyError):
        return ProblemError(QUEUE_FULL, f"{error}; try again later")
    if isinstance(error, OutcomeUnknownError):
        return outcome_unknown(str(error))
    if isinstance(error, NotLeaderError):
        return ProblemError(NO_LEADER, f"this replica does not lead ({error}) and the request was passed on already")
    assert isinstance(error, NoLeaderError)  # noqa: S101 - ProposeError has no other kinds
    return ProblemError(NO_LEADER, f"{error}; try again shortly, or ask another replica")


def outcome_unknown(detail: str) -> ProblemError:
    """Return the problem that tells a client how to find out safely."""
    return ProblemError(
        OUTCOME_UNKNOWN,
        f"{detail}; send the request again with the same Idempotency-Key: it is carried out at most once",
    )
