"""Events that the core of the exchange is told, and instructions that it returns (`core`).

Events are facts: what came in, what ended, which timer ran out. Instructions are orders to the shell (`exchange`),
which carries them out in the order of the list.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftflow.domain.contract.views import Assignment, LogPiece, LogWanted, PollRequest, PollResponse, ReportedEnd

Outcome = Literal["stale", "goodbye", "given up"]
"""How an incarnation ended. `stale`: the agent must forget everything and register again. `goodbye`: it may go."""

# --- events


class Woken(msgspec.Struct, frozen=True, gc=False):
    """The wake-up that `Wake` asked for."""


class Gathered(msgspec.Struct, frozen=True, gc=False):
    """The time that `Gather` asked for is over."""


class LeaseChecked(msgspec.Struct, frozen=True, gc=False):
    """Nothing but the time: the lease is checked before every event."""


class LeaseEnded(msgspec.Struct, frozen=True, gc=False):
    """The time that `EndLeaseAfter` asked for is over."""


class PollAnswered(msgspec.Struct, frozen=True, gc=False):
    """The leader answered a poll."""

    request: PollRequest
    response: PollResponse
    sent_at_ns: int


class PollFailed(msgspec.Struct, frozen=True, gc=False):
    """No replica answered a poll as the leader."""

    request: PollRequest
    why: str
    retry_after_s: float | None = None


class PollRefused(msgspec.Struct, frozen=True, gc=False):
    """The coordinator understood a poll and refuses it."""

    request: PollRequest
    why: str
    about_content: bool
    """What the poll carries is the reason, not who sends it, where to, or when."""


class PollStale(msgspec.Struct, frozen=True, gc=False):
    """The leader does not know this incarnation any more."""

    request: PollRequest
    why: str


class PollCancelled(msgspec.Struct, frozen=True, gc=False):
    """A poll was given up because of `CancelPolls`, or because a new leader was found."""

    request: PollRequest


class AttemptEnded(msgspec.Struct, frozen=True, gc=False):
    """An attempt came to its end."""

    end: ReportedEnd


class LogRead(msgspec.Struct, frozen=True, gc=False):
    """The piece of output that `ReadLog` asked for."""

    piece: LogPiece


class FitnessChanged(msgspec.Struct, frozen=True, gc=False):
    """The agent became unfit, or fit, or the reason changed."""

    trouble: str
    """Why the agent is unfit; empty if it is fit."""


class LeaveAsked(msgspec.Struct, frozen=True, gc=False):
    """The agent was told to leave."""


class GiveUpAsked(msgspec.Struct, frozen=True, gc=False):
    """The time to report what is left has run out."""


Event = (
    Woken
    | Gathered
    | LeaseChecked
    | LeaseEnded
    | PollAnswered
    | PollFailed
    | PollRefused
    | PollStale
    | PollCancelled
    | AttemptEnded
    | LogRead
    | FitnessChanged
    | LeaveAsked
    | GiveUpAsked
)

# --- instructions


class SendPoll(msgspec.Struct, frozen=True, gc=False):
    """Send a poll. Its answer or failure is an event with this request."""

    request: PollRequest
    timeout_s: float
    measured: bool
    """The shell adds usage and load: the poll is not a part of a refused one."""


class CancelPolls(msgspec.Struct, frozen=True, gc=False):
    """Give up all polls that are in flight."""


class Wake(msgspec.Struct, frozen=True, gc=False):
    """Send `Woken` after this time; 0: at the end of this turn of the event loop."""

    after_s: float = 0.0


class Gather(msgspec.Struct, frozen=True, gc=False):
    """Send `Gathered` after this time."""

    for_s: float


class StartAttempt(msgspec.Struct, frozen=True, gc=False):
    """Start an attempt."""

    assignment: Assignment


class StopAttempt(msgspec.Struct, frozen=True, gc=False):
    """Stop an attempt that was cancelled."""

    fence: int


class StopAll(msgspec.Struct, frozen=True, gc=False):
    """Stop all attempts: the lease is over."""

    why: str
    grace_max_s: float


class RenewLease(msgspec.Struct, frozen=True, gc=False):
    """Tell the launcher until when programs may run."""

    until_ns: int


class EndLeaseAfter(msgspec.Struct, frozen=True, gc=False):
    """Send `LeaseEnded` after this time."""

    after_s: float


class KillOverdue(msgspec.Struct, frozen=True, gc=False):
    """Kill what still runs after the end of the lease."""


class ReadLog(msgspec.Struct, frozen=True, gc=False):
    """Read a piece of output. It comes back as `LogRead`."""

    wanted: LogWanted


class ReportAgentFault(msgspec.Struct, frozen=True, gc=False):
    """An attempt could not run by the agent's own fault."""

    why: str


class MuteUsage(msgspec.Struct, frozen=True, gc=False):
    """Do not report the usage of an attempt any more: the coordinator refuses it."""

    fence: int


class MuteLoad(msgspec.Struct, frozen=True, gc=False):
    """Do not report the load of the machine any more: the coordinator refuses it."""


class Note(msgspec.Struct, frozen=True, gc=False):
    """Write a line into the log."""

    level: int
    text: str


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The incarnation is over."""

    outcome: Outcome


Instruction = (
    SendPoll
    | CancelPolls
    | Wake
    | Gather
    | StartAttempt
    | StopAttempt
    | StopAll
    | RenewLease
    | EndLeaseAfter
    | KillOverdue
    | ReadLog
    | ReportAgentFault
    | MuteUsage
    | MuteLoad
    | Note
    | Finish
)
