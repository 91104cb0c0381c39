"""How a replica ends: every exception becomes a `LogFailedError` that says what to do."""

from __future__ import annotations

import logging
from typing import Final

from raftflow.replication.errors import LogFailedError, RemovedError
from raftflow.replication.members.birth_file import OrderRefusedError
from raftflow.replication.members.births import EmptiedError

_log = logging.getLogger(__name__)

_EXPECTED_ENDS: Final = (RemovedError, EmptiedError, OrderRefusedError)
"""Ends that are the operator's business, not a bug: they are logged without a traceback."""


def as_log_failure(error: Exception, replica: str) -> LogFailedError:
    """Return `error` itself if it says what to do, else one that does."""
    if isinstance(error, LogFailedError):
        return error
    if isinstance(error, OSError):
        failure = LogFailedError(
            f"the disk of replica {replica} fails: {error}. Free space or repair it, then start again."
        )
    else:
        failure = LogFailedError(
            f"replica {replica} stopped to keep what it promised: {type(error).__name__}: {error}. Its data is kept. "
            f"Report this with the log, then start it again."
        )
    failure.__cause__ = error
    return failure


def log_failure(failure: LogFailedError, error: Exception) -> None:
    """Log why a running replica ends; `error` is what was raised first."""
    if isinstance(failure, _EXPECTED_ENDS):
        _log.warning("%s", failure)
    else:
        _log.critical("%s", failure, exc_info=error)
