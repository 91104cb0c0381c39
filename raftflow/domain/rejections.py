"""Why a command was refused. A refused command has changed nothing."""

from __future__ import annotations

import enum

import msgspec

from raftflow.domain.tasks.workflow import GraphProblem


class RejectionCode(enum.StrEnum):
    """Stable names; the API maps each to an HTTP status and a problem type."""

    INVALID = "invalid"
    """The command itself is wrong (a broken graph, a bad number); `problems` lists the faults."""
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    """The thing exists but is in a state that does not allow it."""
    LIMIT = "limit"
    """A limit of the system would be passed; may succeed later."""
    STALE_INCARNATION = "stale_incarnation"
    """The agent was declared lost, or another registration followed; it must register again."""
    STALE_FENCE = "stale_fence"
    """The attempt that asks is over, or is told to stop: what it asks for has no effect."""
    NAME_IN_USE = "name_in_use"
    """Another agent that is present has the name."""
    REQUEST_MISMATCH = "request_mismatch"
    """The request id was used before for something else."""
    PENDING = "pending"
    """An earlier command is not done with the thing yet; the same command succeeds in a moment."""
    FEATURE_LEVEL = "feature_level"
    """The command needs a feature level that the cluster is not on yet: not all replicas understand it."""


class Rejection(msgspec.Struct, frozen=True, omit_defaults=True, tag="rejected"):
    """A refusal: what, why, and what to do."""

    code: RejectionCode
    message: str
    problems: tuple[GraphProblem, ...] = ()
    limit: int | None = None
