"""The kinds of problems that the API answers with, as RFC 9457 describes them.

The words are stable. Clients decide by the word and the status, never by the texts.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class ProblemKind(NamedTuple):
    """A kind of problem."""

    word: str
    """Ends the problem's `type`."""
    status: int
    title: str


INVALID_DOCUMENT: Final = ProblemKind("invalid-document", 400, "The request cannot be understood")
UNAUTHORIZED: Final = ProblemKind("unauthorized", 401, "A valid bearer token is needed")
FORBIDDEN: Final = ProblemKind("forbidden", 403, "The sender may not do that")
NOT_FOUND: Final = ProblemKind("not-found", 404, "There is no such thing")
METHOD_NOT_ALLOWED: Final = ProblemKind("method-not-allowed", 405, "The method does not apply here")
CONFLICT: Final = ProblemKind("conflict", 409, "Its present state does not allow that")
NAME_IN_USE: Final = ProblemKind("name-in-use", 409, "Another live agent has this name")
STALE_INCARNATION: Final = ProblemKind("stale-incarnation", 409, "The agent was declared lost or registered again")
REQUEST_MISMATCH: Final = ProblemKind("request-mismatch", 409, "The idempotency key was used for another request")
GONE: Final = ProblemKind("gone", 410, "What was asked for is not kept any more")
TOO_LARGE: Final = ProblemKind("too-large", 413, "A limit would be exceeded")
URI_TOO_LONG: Final = ProblemKind("uri-too-long", 414, "The target of the request is too long")
UNSUPPORTED_MEDIA: Final = ProblemKind(
    "unsupported-media-type", 415, "The body must be JSON, and must not be compressed"
)
WRONG_HOST: Final = ProblemKind("wrong-host", 421, "The replica does not answer under this name")
QUEUE_FULL: Final = ProblemKind("queue-full", 429, "Too many requests wait")
HEADERS_TOO_LARGE: Final = ProblemKind("headers-too-large", 431, "The headers of the request are too large")
INTERNAL: Final = ProblemKind("internal", 500, "The replica failed")
LOG_UNAVAILABLE: Final = ProblemKind("log-unavailable", 503, "The agent did not deliver the output")
NO_LEADER: Final = ProblemKind("no-leader", 503, "There is no leader at the moment")
BEHIND: Final = ProblemKind("behind", 503, "This replica has not applied that part of the log yet")
OUTCOME_UNKNOWN: Final = ProblemKind("outcome-unknown", 503, "It is not known whether the request was carried out")

ALL_KINDS: Final = (
    INVALID_DOCUMENT,
    UNAUTHORIZED,
    FORBIDDEN,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    CONFLICT,
    NAME_IN_USE,
    STALE_INCARNATION,
    REQUEST_MISMATCH,
    GONE,
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
