"""The errors of a log."""

from __future__ import annotations

from typing import Final


class LogFailedError(Exception):
    """The log stopped for ever: a bad disk, a corrupt file, an `apply` that raised. The message says what to do."""


REMOVED_ADVICE: Final = (
    "It stops. Its data can be deleted; its name is never used again. A new replica joins under a new name, with "
    "an empty directory and `join = true`."
)


class RemovedError(LogFailedError):
    """This replica was removed from the cluster: it stops. This is not an error."""


class NoQuorumError(Exception):
    """A linearizable read could not be confirmed: not the leader, or no majority answered in time."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
