"""Why a replica cannot continue, as errors that say what to do."""

from __future__ import annotations

import errno

from raftflow.replication.errors import RemovedError
from raftflow.replication.members.birth_file import OrderRefusedError


class ReplicaFailedError(Exception):
    """The replica cannot continue. Says what to do."""


class ReplicaRemovedError(ReplicaFailedError):
    """The replica is not a member of the cluster any more. It stops, and nothing is wrong with it."""


class ReplicaRefusedError(ReplicaFailedError):
    """The replica cannot be started in this way."""


class ReplicaDiskError(ReplicaFailedError):
    """The disk is full, read-only or broken. The replica was started correctly."""


_DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
_ERROR_OF_CAUSE = {RemovedError: ReplicaRemovedError, OrderRefusedError: ReplicaRefusedError}


def failure_for(cause: BaseException | None) -> ReplicaFailedError:
    """Return the error for a failure of a running replica."""
    kind = next((kind for of, kind in _ERROR_OF_CAUSE.items() if isinstance(cause, of)), ReplicaFailedError)
    error = kind(str(cause) or repr(cause))
    error.__cause__ = cause
    return error


def start_failure_for(cause: Exception) -> ReplicaFailedError:
    """Return the error for a replica that cannot start."""
    kind = ReplicaDiskError if _is_disk_trouble(cause) else ReplicaFailedError
    return kind(str(cause))


def _is_disk_trouble(error: BaseException | None) -> bool:
    """Return True if a failure was caused by a disk that is full, read-only or broken."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_TROUBLE:
            return True
        error = error.__cause__
    return False
