"""RFC 9457 problem documents: every error that ends a request becomes one here (`domain.contract.problem_kinds`)."""

from __future__ import annotations

import logging

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
from raftflow.domain.contract.problem_kinds import (
    BEHIND,
    CONFLICT,
    FORBIDDEN,
    GONE,
    HEADERS_TOO_LARGE,
    INTERNAL,
    INVALID_DOCUMENT,
    LOG_UNAVAILABLE,
    METHOD_NOT_ALLOWED,
    NAME_IN_USE,
    NO_LEADER,
    NOT_FOUND,
    OUTCOME_UNKNOWN,
    QUEUE_FULL,
    REQUEST_MISMATCH,
    STALE_INCARNATION,
    TOO_LARGE,
    UNAUTHORIZED,
    UNSUPPORTED_MEDIA,
    URI_TOO_LONG,
    WRONG_HOST,
    ProblemKind,
)
from raftflow.domain.contract.views import PROBLEM_TYPE_PREFIX, FieldProblem, Problem
from raftflow.domain.rejections import Rejection, RejectionCode

__all__ = [
    "BEHIND",
    "CONFLICT",
    "CONTENT_TYPE",
    "FORBIDDEN",
    "GONE",
    "HEADERS_TOO_LARGE",
    "INTERNAL",
    "INVALID_DOCUMENT",
    "LOG_UNAVAILABLE",
    "METHOD_NOT_ALLOWED",
    "NAME_IN_USE",
    "NOT_FOUND",
    "NO_LEADER",
    "OUTCOME_UNKNOWN",
    "QUEUE_FULL",
    "REQUEST_MISMATCH",
    "STALE_INCARNATION",
    "TOO_LARGE",
    "UNAUTHORIZED",
    "UNSUPPORTED_MEDIA",
    "URI_TOO_LONG",
    "WRONG_HOST",
    "ProblemError",
    "ProblemKind",
    "explain",
    "from_error",
    "from_rejection",
    "outcome_unknown",
]

_log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 1


_RETRY_LATER = {QUEUE_FULL, NO_LEADER, BEHIND, OUTCOME_UNKNOWN, LOG_UNAVAILABLE}

_REJECTIONS = {
    RejectionCode.INVALID: INVALID_DOCUMENT,
    RejectionCode.NOT_FOUND: NOT_FOUND,
    RejectionCode.CONFLICT: CONFLICT,
    RejectionCode.LIMIT: TOO_LARGE,
    RejectionCode.NAME_IN_USE: NAME_IN_USE,
    RejectionCode.STALE_FENCE: CONFLICT,
    RejectionCode.STALE_INCARNATION: STALE_INCARNATION,
    RejectionCode.REQUEST_MISMATCH: REQUEST_MISMATCH,
    RejectionCode.FEATURE_LEVEL: CONFLICT,
    RejectionCode.PENDING: QUEUE_FULL,
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
        """Return status, headers and body of the answer."""
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
    """Return the problem for a refusal of the state machine."""
    return ProblemError(
        _REJECTIONS[rejection.code],
        rejection.message,
        errors=[FieldProblem(fault.path, fault.message) for fault in rejection.problems],
        limit=rejection.limit,
        current_attempt=current_attempt,
    )


def explain(error: Exception, request_id: str, what: str) -> ProblemError:
    """Return the problem for an error that ended a request. An error that nobody expected is logged.

    Args:
        error: what was raised.
        request_id: of the request.
        what: the request's method and path, for the log.
    """
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, ProposeError | LogUnavailableError):
        return from_error(error)
    _log.error("request %s: %s failed", request_id, what, exc_info=error)
    # The client gets no more than the request id.
    return ProblemError(INTERNAL, f"the replica failed; its log has the reason under request id {request_id}")


def from_error(error: ProposeError | LogUnavailableError) -> ProblemError:
    """Return the problem for an error that kept a request from being carried out."""
    if isinstance(error, LogLostError):
        return ProblemError(NOT_FOUND, str(error))
    if isinstance(error, LogUnavailableError):
        return ProblemError(LOG_UNAVAILABLE, str(error))
    if isinstance(error, BusyError):
        return ProblemError(QUEUE_FULL, f"{error}; try again later")
    if isinstance(error, OutcomeUnknownError):
        return outcome_unknown(str(error))
    if isinstance(error, NotLeaderError):
        return ProblemError(NO_LEADER, f"this replica does not lead ({error}), and the request was already forwarded")
    assert isinstance(error, NoLeaderError)  # noqa: S101 - ProposeError has no other kinds
    return ProblemError(NO_LEADER, f"{error}; try again shortly, or ask another replica")


def outcome_unknown(detail: str) -> ProblemError:
    """Return the problem that tells a client how to learn the outcome safely."""
    return ProblemError(
        OUTCOME_UNKNOWN,
        f"{detail}; send the request again with the same Idempotency-Key; it is carried out at most once",
    )
