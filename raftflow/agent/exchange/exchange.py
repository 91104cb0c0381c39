"""The shell of the exchange: tells the core what happens, and carries out its instructions.

Everything happens in the event loop's thread. An event that happens while instructions are carried out waits until
they are done, so the instructions of two events never mix.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from raftflow.agent.attempts.runner import AttemptRunner
from raftflow.agent.clock import now_ns
from raftflow.agent.exchange.core import ExchangeCore
from raftflow.agent.exchange.instructions import (
    CancelPolls,
    EndLeaseAfter,
    Event,
    Finish,
    Gather,
    Gathered,
    GiveUpAsked,
    Instruction,
    KillOverdue,
    LeaseChecked,
    LeaseEnded,
    LogRead,
    MuteLoad,
    MuteUsage,
    Note,
    Outcome,
    PollAnswered,
    PollCancelled,
    PollFailed,
    PollRefused,
    PollStale,
    ReadLog,
    RenewLease,
    ReportAgentFault,
    SendPoll,
    StartAttempt,
    StopAll,
    StopAttempt,
    Wake,
    Woken,
)
from raftflow.agent.exchange.leader import LeaderClient, LeaderNotFoundError, RefusedError, StaleIncarnationError
from raftflow.agent.load import LoadSampler
from raftflow.domain.contract.views import LogPiece, LogWanted, PollRequest

_log = logging.getLogger("raftflow.agent.exchange")

_encode = msgspec.json.Encoder().encode


def _encoded(request: PollRequest) -> bytes:
    """Encode a poll. What cannot be encoded is refused as the coordinator would refuse it. Raises `RefusedError`."""
    try:
        return _encode(request)
    except (ValueError, TypeError, OverflowError, msgspec.EncodeError) as error:
        raise RefusedError(400, f"the poll cannot be encoded: {error}") from error


class Exchange:
    """Serves one incarnation until it is over.

    Args:
        on_lease: tells the launcher until when programs may run, in ns of the boot clock.
        kill_overdue: kills what still runs after the end of the lease.
        read_log: reads a piece of output.
        on_agent_fault: notes that an attempt could not run by the agent's own fault.
    """

    def __init__(
        self,
        agent_id: str,
        core: ExchangeCore,
        *,
        leader: LeaderClient,
        attempts: AttemptRunner,
        load: LoadSampler,
        on_lease: Callable[[int], None],
        kill_overdue: Callable[[], None],
        read_log: Callable[[LogWanted], LogPiece],
        on_agent_fault: Callable[[str], None],
    ) -> None:
        self.core = core
        self._agent_id = agent_id
        self._leader = leader
        self._attempts = attempts
        self._load = load
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[Outcome] = self._loop.create_future()
        """How the incarnation ended."""
        self._events: deque[Event] = deque()
        self._carrying_out = False
        self._polls: dict[asyncio.Task[None], PollRequest] = {}
        """Polls in flight."""
        self._timers: dict[type[Any], asyncio.Handle] = {}
        """For each event that was asked for, when it comes."""
        self._muted: set[int] = set()
        """Fences of attempts whose usage is not reported."""
        self._load_muted = False
        self._actions: dict[type[Any], Callable[[Any], None]] = {
            SendPoll: self._send_poll,
            CancelPolls: self._cancel_polls,
            Wake: lambda wake: self._set_timer(wake.after_s, Woken()),
            Gather: lambda gather: self._set_timer(gather.for_s, Gathered()),
            EndLeaseAfter: lambda end: self._set_timer(end.after_s, LeaseEnded()),
            StartAttempt: lambda start: attempts.start(start.assignment),
            StopAttempt: lambda stop: attempts.stop(stop.fence, "cancelled", "cancelled by the coordinator"),
            StopAll: lambda stop: attempts.stop_all("abandoned", stop.why, stop.grace_max_s),
            RenewLease: lambda renew: on_lease(renew.until_ns),
            KillOverdue: lambda _: kill_overdue(),
            ReadLog: lambda read: self.handle(LogRead(read_log(read.wanted))),
            ReportAgentFault: lambda fault: on_agent_fault(fault.why),
            MuteUsage: lambda mute: self._muted.add(mute.fence),
            MuteLoad: self._mute_load,
            Note: lambda note: _log.log(note.level, "%s", note.text),
            Finish: self._finish,
        }

    def begin(self) -> None:
        """Begin to poll."""
        self._carry_out(self.core.begin())

    def handle(self, event: Event) -> None:
        """Tell the core of an event, and carry out what it wants."""
        if self._carrying_out:
            self._events.append(event)
            return
        self._carrying_out = True
        try:
            self._carry_out(self.core.handle(event, now_ns()))
            while self._events:
                self._carry_out(self.core.handle(self._events.popleft(), now_ns()))
        finally:
            self._carrying_out = False

    def check_lease(self) -> None:
        """End the attempts if the lease is over."""
        if self.core.is_lease_over(now_ns()):
            self.handle(LeaseChecked())

    def close(self) -> None:
        """End the incarnation, and cancel what is in flight."""
        self.handle(GiveUpAsked())
        for task in list(self._polls):
            task.cancel()
        for timer in self._timers.values():
            timer.cancel()

    # --- instructions

    def _carry_out(self, instructions: list[Instruction]) -> None:
        actions = self._actions
        for instruction in instructions:
            actions[type(instruction)](instruction)

    def _set_timer(self, after_s: float, event: Event) -> None:
        if after_s <= 0:
            handle: asyncio.Handle = self._loop.call_soon(self.handle, event)
        else:
            handle = self._loop.call_later(after_s, self.handle, event)
        self._timers[type(event)] = handle

    def _send_poll(self, send: SendPoll) -> None:
        request = send.request
        if send.measured:
            usage = self._attempts.usage.report()
            request.usage = [told for told in usage if told.fence not in self._muted] if self._muted else usage
            request.load = None if self._load_muted else self._load.sample()
        task = self._loop.create_task(self._exchange(request, send.timeout_s))
        self._polls[task] = request
        task.add_done_callback(self._poll_done)

    def _cancel_polls(self, _cancel: CancelPolls) -> None:
        for task in list(self._polls):
            if task is not asyncio.current_task():
                task.cancel()

    def _mute_load(self, _mute: MuteLoad) -> None:
        self._load_muted = True

    def _finish(self, finish: Finish) -> None:
        if not self.over.done():
            self.over.set_result(finish.outcome)

    # --- polls

    async def _exchange(self, request: PollRequest, timeout_s: float) -> None:
        """Send one poll, and tell the core what became of it."""
        sent_at_ns = now_ns()
        event: Event
        try:
            response = await self._leader.poll(self._agent_id, _encoded(request), timeout_s)
        except StaleIncarnationError as error:
            event = PollStale(request, str(error))
        except RefusedError as error:
            event = PollRefused(request, str(error), error.about_content)
        except LeaderNotFoundError as error:
            event = PollFailed(request, str(error), error.retry_after_s)
        else:
            event = PollAnswered(request, response, sent_at_ns)
        self.handle(event)

    def _poll_done(self, task: asyncio.Task[None]) -> None:
        request = self._polls.pop(task)
        if task.cancelled():
            self.handle(PollCancelled(request))
        elif (error := task.exception()) is not None and not self.over.done():
            self.over.set_exception(error)
