"""The table of remembered replies: what makes a retried write harmless."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from hashlib import blake2b

import msgspec

from raftflow.domain.commands import AnyCommand, FinishWorkflow, SendSignal, SubmitWorkflow
from raftflow.domain.replies import AnyReply

FINGERPRINT_BYTES = 16

_encoder = msgspec.msgpack.Encoder()


def fingerprint_of(command: AnyCommand) -> bytes:
    """Return a hash of what the command means: all of it except its time, its actor, and the id made for it.

    A client that retries through another replica gets another time and another workflow id, and means the same. So
    does one whose workflow comes in pieces, the last of which brings that hash with it.
    """
    if isinstance(command, FinishWorkflow):
        return command.fingerprint
    if isinstance(command, SubmitWorkflow):
        command = msgspec.structs.replace(command, at_ms=0, actor="", workflow_id="")
    elif isinstance(command, SendSignal):
        command = msgspec.structs.replace(command, at_ms=0, actor="", checked=0)
    else:
        command = msgspec.structs.replace(command, at_ms=0, actor="")
    return blake2b(_encoder.encode(command), digest_size=FINGERPRINT_BYTES).digest()


class Remembered(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One answered request."""

    request_id: str
    fingerprint: bytes
    reply: AnyReply


class RequestTable:
    """Replies by request id; the oldest is forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.replies: dict[str, Remembered] = {}
        """By request id."""
        self._order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self.replies)

    def __iter__(self) -> Iterator[Remembered]:
        """Oldest first."""
        return (self.replies[request_id] for request_id in self._order)

    def get(self, request_id: str) -> Remembered | None:
        """Return what was answered, None if it is unknown or forgotten."""
        return self.replies.get(request_id)

    def remember(self, entry: Remembered) -> None:
        """Add an answer under an id that is not there yet."""
        if len(self._order) >= self._limit:
            del self.replies[self._order.popleft()]
        self.replies[entry.request_id] = entry
        self._order.append(entry.request_id)
