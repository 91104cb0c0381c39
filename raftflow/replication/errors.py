"""What a log can fail with."""

from __future__ import annotations

from typing import Final


class LogFailedError(Exception):
    """The log stopped for good: a disk that fails, a corrupt file, an `apply` that raised. Says what to do."""


REMOVED_ADVICE: Final = (
    "It stops, and its data can be wiped; its name is never used again. A new replica joins under a new name, with "
    "an empty directory and `join = true`."
)


class RemovedError(LogFailedError):
    """This replica is no member any more: it stops, and nothing is wrong with it."""


class NoQuorumError(Exception):
    """A linearizable read could not be confirmed: not the leader, or no majority answered in time."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
