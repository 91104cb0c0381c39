"""Commands of waits and signals. `commands.py` offers these too."""

from __future__ import annotations

from raftflow.domain.command import Command
from raftflow.domain.tasks.waits import AskedKind


class BeginWait(Command, frozen=True, tag="waits.begin"):
    """Begin a wait of a running attempt. Replies `WaitBegun`.

    Name and occurrence are its key in its task, over all attempts, as that of a step: so a repeated command finds
    the wait, or its record. A signal that came before is taken at once. Refused if the attempt is over or is told to
    stop.
    """

    agent: str
    incarnation: int
    fence: int
    """Of the attempt that asks."""
    kind: AskedKind
    name: str
    occurrence: int
    timeout_ms: int = 0
    """How long it waits at most, from now; 0 for as long as it takes."""
    on_timeout: bytes = b""
    """JSON that counts then; empty for none."""
    request: bytes = b""
    """JSON: what an approval asks, or the schema of the payload of a signal; empty for none."""
    checked: int = 0
    """With a schema: the signal in the mailbox that the leader has compared with it, 0 if there was none."""
    fault: str = ""
    """Why that one does not fit the schema, empty if it does."""


class SendSignal(Command, frozen=True, tag="signals.send"):
    """Send a signal to a workflow. Replies `SignalTaken`.

    It goes to the open wait of that name that began first, else into the mailbox of the workflow. A signal is counted
    once for its key. Refused if the workflow has ended.
    """

    workflow_id: str
    name: str
    payload: bytes
    """JSON."""
    key: str = ""
    """Empty for none."""
    checked: int = 0
    """The wait that the leader expects to take it, if that one has a schema and the payload fits it."""


class DecideApproval(Command, frozen=True, tag="approvals.decide"):
    """Decide an approval. Replies `Done`.

    The first decision counts. One that comes after it, or after the timeout, is refused with who decided what, and
    when.
    """

    number: int
    """Of its wait."""
    choice: str
    comment: str = ""
    payload: bytes = b"null"
    """JSON."""
