"""The exchange of one incarnation as a pure core: an event goes in, instructions come out.

No I/O, no clock, no event loop. The shell (`exchange`) says what time it is with every event, and carries out the
instructions in their order. So everything that an agent decides while it serves can be tested without an agent:

    core.handle(PollAnswered(request, response, sent_at_ns), now_ns) -> [RenewLease(...), StartAttempt(...), Wake()]

**Polls.** At most two are in flight. One is held by the leader until it has something to say. The other one has news:
ends, logs, a change of mind. News travel one poll at a time, so ends arrive in the order in which they happened. What
ends meanwhile goes with the next poll. An end is kept, and sent again, until an answer has a verdict for it. A poll
accounts for every fence that the agent was sent: the leader takes what it does not mention as lost.

Each poll with ends is an entry of the log and a disk write on every replica. So while the agent has enough to do,
polls keep a distance, and ends are gathered: see `Outbox.distance_s`.

A poll that the coordinator refuses for what it carries is sent in parts until the refused item is alone
(`poll_items`). A refused end becomes a failed attempt that says so (`refusals`).

**A stale incarnation** is over when nothing of it runs and the coordinator has heard every end. Its attempts are
stopped, and its queue is given back. The last polls report these ends, one poll after the other, each until an answer
comes. The coordinator refuses them, so they are in the audit. Answers and ends may come in any order.

**The lease** is checked before every event. A process that was stopped for a while first finds out that it must end
its attempts, and only then looks at what else has come in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from raftflow.agent.clock import Lease
from raftflow.agent.exchange.attempt_table import AttemptTable
from raftflow.agent.exchange.backoff import BACKOFF_MIN_S, Backoff
from raftflow.agent.exchange.instructions import (
    AttemptEnded,
    CancelPolls,
    EndLeaseAfter,
    Event,
    Finish,
    FitnessChanged,
    Gather,
    Gathered,
    GiveUpAsked,
    Instruction,
    KillOverdue,
    LeaseChecked,
    LeaseEnded,
    LeaveAsked,
    LogRead,
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
from raftflow.agent.exchange.outbox import LEASE_PART, Outbox
from raftflow.agent.exchange.poll_items import items_of
from raftflow.agent.exchange.refusals import Refusals
from raftflow.domain.contract.reportable import reportable_text
from raftflow.domain.contract.views import Assignment, RegisterResponse, ReportedEnd

_REFUSED_WAIT_S = 2.0
"""Pause after a poll that carries nothing was refused: the agent cannot repair that."""
_NS = 1_000_000_000
_STALE_GRACE_S = 0.5
"""Of attempts that another agent may be running already."""
_WAKE = Wake()


class ExchangeCore:
    """What one incarnation knows and decides.

    Args:
        capacity: what the agent's attempts may hold, in integer units.
        attempts_max: attempts that run at the same time, whatever they hold.
        poll_timeout_s: longest wait for an answer, beside the time that the poll may be held.
        usage_every_s: how often the leader is told what running attempts use.
        trouble: why the agent is unfit, empty if it is fit.
    """

    def __init__(
        self,
        registration: RegisterResponse,
        capacity: Mapping[str, int],
        *,
        sent_at_ns: int,
        attempts_max: int,
        poll_timeout_s: float,
        usage_every_s: float,
        backoff: Backoff,
        trouble: str = "",
        leaving: bool = False,
    ) -> None:
        self.table = AttemptTable(capacity)
        self.lease = Lease()
        self.lease.start(sent_at_ns, registration.lease_ms)
        self.lapsed = False
        """The lease ran out, and no answer has renewed it since."""
        self.stale = False
        """The coordinator does not know the incarnation any more. Its attempts end, and their ends are reported."""
        self.over = False
        """The incarnation is over: nothing is sent or started any more."""
        self._registration = registration
        self._capacity = dict(capacity)
        self._attempts_max = attempts_max
        self._poll_timeout_s = poll_timeout_s
        self._backoff = backoff
        self._outbox = outbox = Outbox(
            self.table,
            registration,
            sent_at_ns=sent_at_ns,
            usage_every_s=usage_every_s,
            trouble=trouble,
            leaving=leaving,
        )
        self._polls: dict[int, bool] = {}
        """Polls in flight by their number, and whether each carries news."""
        self._wait_until_ns = sent_at_ns
        self._waking = False
        """`Wake` was asked for."""
        self._gathering = False
        """`Gather` was asked for."""
        self._now_ns = sent_at_ns
        self._out: list[Instruction] = []
        self._refusals = Refusals(self.table, outbox.add_piece, self._emit)
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            Woken: self._on_woken,
            Gathered: self._on_gathered,
            LeaseChecked: self._on_lease_checked,
            LeaseEnded: self._on_lease_ended,
            PollAnswered: self._on_answered,
            PollFailed: self._on_failed,
            PollRefused: self._on_refused,
            PollStale: self._on_stale,
            PollCancelled: self._on_cancelled,
            AttemptEnded: self._on_attempt_ended,
            LogRead: self._on_log_read,
            FitnessChanged: self._on_fitness_changed,
            LeaveAsked: self._on_leave_asked,
            GiveUpAsked: self._on_give_up_asked,
        }

    def begin(self) -> list[Instruction]:
        """Return the first instructions of the incarnation."""
        self._out = [RenewLease(self.lease.until_ns)]
        self._schedule()
        return self._out

    def handle(self, event: Event, now_ns: int) -> list[Instruction]:
        """Take an event in, at a time of the boot clock, and return what is to be done, in order."""
        self._now_ns = now_ns
        out: list[Instruction] = []
        self._out = out
        if now_ns >= self.lease.stop_at_ns and not self.over:
            self._check_lease()
        self._handlers[type(event)](event)
        return out

    # --- the lease

    def is_lease_over(self, now_ns: int) -> bool:
        """Tell whether the attempts must be ended now, and have not been told so."""
        return self.lease.is_over(now_ns) and not self.lapsed and not self.over

    def _check_lease(self) -> None:
        """End the attempts if no leader has confirmed them for as long as the lease is."""
        if self.lapsed:
            return
        self.lapsed = True
        running = len(self.table.running)
        if running:
            self._note(logging.WARNING, f"no leader for the lease time: stopping {running} attempts")
            left_s = self.lease.left_s(self._now_ns)
            self._out += (
                StopAll("no leader confirmed the agent's lease in time", left_s),
                EndLeaseAfter(left_s),
            )

    def _on_lease_checked(self, _event: LeaseChecked) -> None:
        """Do nothing more: the lease is checked before every event."""

    def _on_lease_ended(self, _event: LeaseEnded) -> None:
        """The lease is over, and so is everything that ran: the launcher sees to that, but it may be stopped."""
        if self.lapsed and self.table.running:
            self._out.append(KillOverdue())

    # --- attempts

    def _on_attempt_ended(self, event: AttemptEnded) -> None:
        end = event.end
        self.table.end(end)
        if end.outcome == "agent_fault":
            self._out.append(ReportAgentFault(end.error))  # `FitnessChanged` follows, and nothing starts before that
        else:
            self._admit()
        if self.stale:
            self._report_last()
        else:
            self._schedule()

    def _admit(self) -> None:
        """Start what fits, in order."""
        table = self.table
        if self.over or self.stale or self.lapsed or self._outbox.leaving or self._outbox.trouble:
            return
        while True:
            while len(table.running) < self._attempts_max and (assignment := table.start_next()) is not None:
                self._out.append(StartAttempt(assignment))
            misfit = table.take_misfit()
            if misfit is None:
                return
            what = f"attempt {misfit.fence} demands {misfit.resources}: more than this agent has"
            self._note(logging.ERROR, what)
            self._end_unstarted((misfit,), "failed", f"the agent has only {self._capacity}")

    def _release(self, assignments: Iterable[Assignment]) -> None:
        self._end_unstarted(assignments, "released", "")

    def _end_unstarted(
        self, assignments: Iterable[Assignment], outcome: Literal["released", "failed"], error: str
    ) -> None:
        """End attempts that never ran."""
        for assignment in assignments:
            self.table.end(
                ReportedEnd(
                    fence=assignment.fence,
                    workflow_id=assignment.workflow_id,
                    task_id=assignment.task_id,
                    outcome=outcome,
                    error=reportable_text(error),
                )
            )

    def _on_fitness_changed(self, event: FitnessChanged) -> None:
        """Give the queue back when the agent becomes unfit, tell the leader, and go on when it is fit again."""
        self._outbox.trouble = event.trouble
        if self.over:
            return
        if event.trouble:
            self._release(self.table.give_back())
        self._outbox.urgent = True
        self._admit()
        self._schedule()

    def _on_leave_asked(self, _event: LeaveAsked) -> None:
        """Give the queue back, say that the agent is leaving, and goodbye when it is empty."""
        self._outbox.leaving = self._outbox.urgent = True
        self._release(self.table.give_back())
        self._schedule()

    def _on_give_up_asked(self, _event: GiveUpAsked) -> None:
        self._finish("given up")

    def _finish(self, outcome: Outcome) -> None:
        if not self.over:
            self.over = True
            self._out.append(Finish(outcome))

    def _on_log_read(self, event: LogRead) -> None:
        self._outbox.add_piece(event.piece)
        self._schedule()

    # --- when a poll is sent

    def _schedule(self) -> None:
        """Send soon what is due: what happens in one turn of the event loop travels together."""
        if not self._waking and not self.over:
            self._waking = True
            self._out.append(_WAKE)

    def _on_gathered(self, _event: Gathered) -> None:
        self._gathering = False
        self._schedule()

    def _on_woken(self, _event: Woken) -> None:
        """Send the poll that is due, if any."""
        self._waking = False
        if self.over:
            return
        if self._wait_until_ns > self._now_ns:
            self._waking = True
            self._out.append(Wake((self._wait_until_ns - self._now_ns) / _NS))
            return
        outbox, failing = self._outbox, self._backoff.failing
        if (failing and self._polls) or (self.stale and (self.table.running or not self.table.ends)):
            return
        goodbye = outbox.leaving and self.table.empty
        news = goodbye or outbox.has_news
        if (not news or True in self._polls.values()) and self._polls:
            return
        distance_s = 0.0 if goodbye or failing or self.stale else outbox.distance_s(self._now_ns)
        if distance_s > 0:
            if not self._gathering:
                self._gathering = True
                self._out.append(Gather(distance_s))
            return
        measured = not outbox.search.going_on
        request = outbox.compose(self._now_ns, news=news, goodbye=goodbye, failing=failing)
        self._polls[request.seq] = news
        # An answer to news is not held. Two silent answers in a row must not cost the lease.
        held_s = 0 if request.ends or request.logs else request.wait_ms / 1000
        timeout_s = self._poll_timeout_s
        if not self.stale:  # else there is no lease to keep
            timeout_s = min(timeout_s, self._registration.lease_ms / 1000 / LEASE_PART) + held_s
        self._out.append(SendPoll(request, timeout_s, measured))

    # --- what became of a poll

    def _on_answered(self, event: PollAnswered) -> None:
        request, response = event.request, event.response
        self._polls.pop(request.seq, None)
        if self.over:
            return
        if self._backoff.failing:
            self._note(logging.INFO, "the leader answers again")
        self._backoff.note_success()
        self._wait_until_ns = self._outbox.answered_at_ns = self._now_ns
        table = self.table
        table.answered(response.verdicts)
        if request.ends and all(end.fence in table.ends for end in request.ends):
            # The leader did not get to them: leave it a moment before they are sent again.
            self._wait_until_ns = self._now_ns + int(BACKOFF_MIN_S * _NS)
        if self.stale:  # the answer was under way before; what it brings is given back
            table.receive(response.assign)
            self._release(table.give_back())
            self._report_last()
            return
        search = self._outbox.search
        if search.active and (found := search.answered(items_of(request))) is not None:
            self._refusals.drop(*found)
        self._renew_lease(event.sent_at_ns, response.lease_ms)
        table.receive(response.assign)
        if self._outbox.leaving or self._outbox.trouble:
            self._release(table.give_back())
        if response.release or response.stop:
            self._release(table.give_back({*response.release, *response.stop}))
            self._out += [StopAttempt(fence) for fence in response.stop]
        self._out += [ReadLog(wanted) for wanted in response.logs]
        self._admit()
        if request.goodbye:
            self._finish("goodbye")
        self._schedule()

    def _renew_lease(self, sent_at_ns: int, lease_ms: int) -> None:
        self.lease.confirm(sent_at_ns, lease_ms)
        if not self.lease.is_over(self._now_ns):
            self.lapsed = False
            self._out.append(RenewLease(self.lease.until_ns))

    def _on_stale(self, event: PollStale) -> None:
        self._polls.pop(event.request.seq, None)
        self.table.refuse(event.request.ends)  # and the refusal is on record
        if self.over:
            return
        if not self.stale:
            self._stop_stale(event.why)
        self._report_last()

    def _stop_stale(self, why: str) -> None:
        """End every attempt of a stale incarnation.

        The next incarnation begins only when nothing of this one runs: its capacity is the machine's.
        """
        self.stale = True
        table = self.table
        self._note(logging.WARNING, f"incarnation {self._registration.incarnation} is stale: {why}")
        counts = f"{len(table.running)} run, {len(table.queue)} wait, {len(table.ends)} have ended"
        self._note(logging.WARNING, f"all its attempts end: {counts}")
        self._outbox.search.clear()
        self._wait_until_ns = self._now_ns
        self._release(table.give_back())
        if table.running:
            self._out.append(StopAll("the agent was declared lost", _STALE_GRACE_S))

    def _report_last(self) -> None:
        """Report the ends of a stale incarnation when nothing runs any more. The incarnation is over after that."""
        if self.table.running:
            return
        if self.table.ends:
            self._schedule()
        else:
            self._finish("stale")

    def _on_refused(self, event: PollRefused) -> None:
        """Go on without sending the same poll again."""
        self._polls.pop(event.request.seq, None)
        if self.over:
            return
        if self.stale:  # the registration that follows says whether the agent itself is refused
            if ends := event.request.ends:
                self._note(logging.WARNING, f"{len(ends)} ends of a stale incarnation are not recorded: {event.why}")
            self.table.refuse(ends)
            self._report_last()
            return
        portion = items_of(event.request)
        count = len(portion.items())
        if not event.about_content:
            self._outbox.return_pieces(portion.logs)
            self._back_off(f"the coordinator refuses the poll: {event.why}")
        elif (found := self._outbox.search.refused(portion, event.why)) is not None:
            self._refusals.drop(*found)
        elif not count:
            why = f"the coordinator refuses a poll without items; this agent cannot repair that: {event.why}"
            self._back_off(why, _REFUSED_WAIT_S)
        else:
            why = f"the coordinator refuses a poll with {count} items; they go in parts: {event.why}"
            self._note(logging.INFO, why)
        self._schedule()

    def _on_failed(self, event: PollFailed) -> None:
        self._polls.pop(event.request.seq, None)
        self._outbox.return_pieces(event.request.logs)
        self._back_off(event.why, event.retry_after_s)
        self._schedule()

    def _on_cancelled(self, event: PollCancelled) -> None:
        self._polls.pop(event.request.seq, None)
        self._outbox.return_pieces(event.request.logs)
        self._schedule()

    def _back_off(self, why: str, retry_after_s: float | None = None) -> None:
        self._note(logging.DEBUG if self._backoff.failing else logging.WARNING, why)
        self._wait_until_ns = self._now_ns + int(self._backoff.note_failure(retry_after_s) * _NS)
        if self._polls:
            # Whatever else is in flight goes to a leader that is probably gone; nothing is lost with its answer.
            self._out.append(CancelPolls())

    def _emit(self, instruction: Instruction) -> None:
        self._out.append(instruction)

    def _note(self, level: int, text: str) -> None:
        self._out.append(Note(level, text))
