"""The polls of one incarnation: one exchange that reports, renews and fetches.

At most two polls are in flight: one that the leader holds until it has something to say, and one with news (ends,
logs, a change of mind). News travel one poll at a time, so that ends arrive in the order in which they happened;
what ends meanwhile goes with the next one. An end is kept, and sent again, until some answer has a verdict for it.

Each poll with ends is an entry of the log and a disk write on every replica. So while the agent has enough to do,
polls keep a distance, and ends are gathered: see `Exchange._distance_s`.

A poll accounts for every fence that the agent was sent: the leader takes what it does not mention as lost.

A poll that the coordinator refuses for what it carries is sent in parts until the item that is at fault is alone
(`portions`). An end that is at fault becomes a failed attempt that says so; of other items the log tells.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from typing import Literal

import msgspec

from raftflow.agent.attempts.usage import TELL_EVERY_S, UsageWatch
from raftflow.agent.clock import now_ns
from raftflow.agent.config import AgentConfig
from raftflow.agent.exchange.attempt_table import AttemptTable
from raftflow.agent.exchange.leader import LeaderClient, LeaderNotFoundError, RefusedError, StaleIncarnationError
from raftflow.agent.exchange.portions import Portion, Search, first_of
from raftflow.agent.exchange.refusals import Refusals
from raftflow.agent.load import LoadSampler
from raftflow.domain.contract.views import (
    LogPiece,
    PollRequest,
    PollResponse,
    RegisterResponse,
    ReportedEnd,
)
from raftflow.domain.limits import LOGS_PER_POLL_MAX

_log = logging.getLogger("raftflow.agent.exchange")

_BACKOFF_MIN_S = 0.05
_BACKOFF_MAX_S = 0.5
_RETRY_AFTER_MAX_S = 5.0
_ENDS_MAX = 1_000
"""Ends in one poll."""
LOG_BYTES_MAX = 128 << 10
"""Of one log piece, and about of all in one poll. In JSON they take a third more."""
LAST_WORDS_S = 2.0
"""Longest wait for the refusal of ends that come too late."""
_LOGS_MAX = LOGS_PER_POLL_MAX
"""Log pieces that wait to be sent."""
_LEASE_PART = 3
"""An idle poll is held for at most this part of the lease, and a silent leader is left after it."""
_DISTANCE_S = 0.02
"""Distance that polls keep from the last one with ends while enough is waiting here."""
_QUEUE_PART = 4
"""Ends are reported at once when there are this part as many of them as attempts that wait here."""
_FAILOVER_MS = 2_000
"""What should be left of the lease when a leader dies, so that its successor is found in time."""

_REFUSED_WAIT_S = 2.0
"""Pause after a poll that carries nothing was refused: the agent cannot mend that."""
_SILENCE_PART = 4
"""While parts of refused polls are sent, one without items goes when no answer came for this part of the lease."""

_encode = msgspec.json.Encoder().encode

Outcome = Literal["stale", "goodbye", "given up"]


class PollTimeouts:
    """How long to wait after a failure: short, so that a new leader is found soon, with jitter."""

    def __init__(self) -> None:
        self.trouble = False
        """The last exchange with the coordinators failed."""
        self._next_s = _BACKOFF_MIN_S

    def failed(self, why: str, retry_after_s: float | None = None) -> float:
        """Note a failure. Returns how long to wait before the next try."""
        _log.log(logging.DEBUG if self.trouble else logging.WARNING, "%s", why)
        self.trouble = True
        if retry_after_s is not None:
            return min(retry_after_s, _RETRY_AFTER_MAX_S)
        wait_s = self._next_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        self._next_s = min(self._next_s * 2, _BACKOFF_MAX_S)
        return wait_s

    def succeeded(self) -> None:
        """Note an answer."""
        if self.trouble:
            _log.info("the leader answers again")
        self.trouble = False
        self._next_s = _BACKOFF_MIN_S


def hold_ms(registration: RegisterResponse) -> int:
    """Return how long an idle poll may be held.

    A leader may die just before it answers the second of two held polls. The lease is then counted from when the
    first was sent, and what is left must do for the failover.
    """
    lease_ms = registration.lease_ms
    spare_ms = (lease_ms * 9 // 10 - _FAILOVER_MS) // 2
    return min(registration.poll_wait_ms, lease_ms // _LEASE_PART, max(spare_ms, lease_ms // 10))


def _encoded(request: PollRequest) -> bytes:
    """Encode a poll. What cannot be encoded is refused as the coordinator would refuse it. Raises `RefusedError`."""
    try:
        return _encode(request)
    except (ValueError, TypeError, OverflowError, msgspec.EncodeError) as error:
        raise RefusedError(400, f"the poll cannot be encoded: {error}") from error


def _portion_of(request: PollRequest) -> Portion:
    return Portion(request.ends, request.logs, request.usage, request.load)


class Exchange:
    """Polls until the incarnation is over. Everything happens in the event loop's thread.

    `before` is called before anything that came in is acted upon; `answered(response, sent_at_ns)` for each answer.
    """

    def __init__(
        self,
        registration: RegisterResponse,
        attempt_table: AttemptTable,
        *,
        config: AgentConfig,
        leader: LeaderClient,
        load: LoadSampler,
        usage: UsageWatch,
        patience: PollTimeouts,
        before: Callable[[], None],
        answered: Callable[[PollResponse, int], None],
    ) -> None:
        self._registration = registration
        self._attempt_table = attempt_table
        self._config = config
        self._leader = leader
        self._load = load
        self._usage = usage
        self._trouble = ""
        self._patience = patience
        self._before = before
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self.over: asyncio.Future[Outcome] = self._loop.create_future()
        """`stale`: the agent must forget everything and register again. `goodbye`: it was let go."""
        self._seq = 0
        self._polls: dict[asyncio.Task[None], bool] = {}
        """Polls in flight, and whether each carries news."""
        self._pieces: list[LogPiece] = []
        self._leaving = False
        self._urgent = False
        """The leader should hear of a change at once."""
        self._wait_until_s = 0.0
        self._reported_at_s = -math.inf
        """When the last poll with ends was sent."""
        self._search = Search()
        """For what is at fault in polls that were refused."""
        self._answered_at_s = self._loop.time()
        self._refusals = Refusals(attempt_table, self.add_piece)
        self._handle: asyncio.Handle | None = None
        self._gathered: asyncio.TimerHandle | None = None
        """Set while the next poll keeps its distance."""

    def schedule(self) -> None:
        """Send soon what is due: what happens in one turn of the event loop travels together."""
        if self._handle is None and not self.over.done():
            self._handle = self._loop.call_soon(self._pump)

    def leave(self) -> None:
        """Say from now on that the agent is leaving, and goodbye when it is empty."""
        self._leaving = self._urgent = True
        self.schedule()

    def tell_trouble(self, trouble: str) -> None:
        """Say from now on why the agent is unfit, or with an empty text that it is fit."""
        self._trouble = trouble
        self._urgent = True
        self.schedule()

    def add_piece(self, piece: LogPiece) -> None:
        """Send a log piece with the next poll. Beyond the bound it is dropped: the coordinator asks again."""
        if len(self._pieces) < _LOGS_MAX:
            self._pieces.append(piece)
            self.schedule()

    def give_up(self) -> None:
        """End the exchange though not everything is said."""
        self._finish("given up")

    def close(self) -> None:
        """Cancel what is in flight."""
        self._finish("given up")
        for task in list(self._polls):
            task.cancel()
        for handle in (self._handle, self._gathered):
            if handle is not None:
                handle.cancel()

    async def last_words(self) -> None:
        """Send once what nobody has heard of an incarnation that is over: it is refused, and the audit has it."""
        if not self._attempt_table.ends:
            return
        self._search.clear()
        request = self._compose(news=True, goodbye=False)
        try:
            await self._leader.poll(self._registration.id, _encode(request), LAST_WORDS_S)
        except (StaleIncarnationError, RefusedError, LeaderNotFoundError) as error:
            _log.info("%d ends of a lost incarnation were not taken: %s", len(request.ends), error)

    def _finish(self, outcome: Outcome) -> None:
        if not self.over.done():
            self.over.set_result(outcome)

    def _pump(self) -> None:
        """Send the poll that is due, if any."""
        self._handle = None
        self._before()
        if self.over.done():
            return
        wait_s = self._wait_until_s - self._loop.time()
        if wait_s > 0:
            self._handle = self._loop.call_later(wait_s, self._pump)
            return
        if self._patience.trouble and self._polls:
            return
        goodbye = self._leaving and self._attempt_table.empty
        news = bool(self._attempt_table.ends or self._pieces or self._urgent or goodbye or self._search.going_on)
        if (not news or True in self._polls.values()) and self._polls:
            return
        distance_s = self._distance_s(goodbye=goodbye)
        if distance_s > 0:
            if self._gathered is None:
                self._gathered = self._loop.call_later(distance_s, self._end_gathering)
            return
        if self._gathered is not None:
            self._gathered.cancel()
            self._gathered = None
        task = self._loop.create_task(self._exchange(self._compose(news=news, goodbye=goodbye)))
        self._polls[task] = news
        task.add_done_callback(self._poll_done)

    def _end_gathering(self) -> None:
        self._gathered = None
        self.schedule()

    def _distance_s(self, *, goodbye: bool) -> float:
        """Return how long the next poll should still wait for more to say; 0 or less if it is due.

        Nobody needs an early report while what waits here keeps the agent busy for much longer. That is so if less
        than a quarter as many attempts have ended since the last report as still wait: then these last for four
        times as long as that is ago, which is not less than an exchange takes. So new work comes before the queue is
        empty, and whoever needs a result that is gathered here waits for a fraction of what the queue takes.

        Attempts that end more rarely than once in `_DISTANCE_S` are reported at once. So is all that is no success:
        there may be something to stop, or to do again.
        """
        attempt_table = self._attempt_table
        if (
            self._pieces
            or self._urgent
            or goodbye
            or self._leaving
            or self._patience.trouble
            or attempt_table.pressing
        ):
            return 0.0
        if self._search.going_on:
            return 0.0
        if len(attempt_table.ends) >= len(attempt_table.queue) // _QUEUE_PART:
            return 0.0
        return self._reported_at_s + _DISTANCE_S - self._loop.time()

    def _poll_done(self, task: asyncio.Task[None]) -> None:
        del self._polls[task]
        if not task.cancelled() and (error := task.exception()) is not None and not self.over.done():
            self.over.set_exception(error)
        self.schedule()

    def _compose(self, *, news: bool, goodbye: bool) -> PollRequest:
        """Return a poll that says all there is to say now, or a part of what was refused together."""
        self._seq += 1
        self._urgent = self._attempt_table.pressing = False
        portion = self._next_part() if self._search.going_on else self._next_portion()
        ends = portion.ends
        if ends:
            self._reported_at_s = self._loop.time()
        registration = self._registration
        wait_ms = hold_ms(registration)
        if self._leaving or self._patience.trouble or (news and not ends):
            # Ends get verdicts; other news might be held, and keep the next ends waiting behind them. After a failure
            # the answer itself is wanted: it confirms the lease, which a held poll would leave to run out if leaders
            # went on dying.
            wait_ms = 0
        elif self._attempt_table.running:
            wait_ms = min(wait_ms, int(TELL_EVERY_S * 1000))
        return PollRequest(
            incarnation=registration.incarnation,
            seq=self._seq,
            seen=self._attempt_table.seen,
            # Ends that do not fit in are still "running": what is not mentioned is lost.
            running=[*self._attempt_table.running, *self._later(ends)],
            queued=[assignment.fence for assignment in self._attempt_table.queue],
            ends=ends,
            logs=portion.logs,
            usage=portion.usage,
            load=portion.load,
            wait_ms=wait_ms,
            leaving=self._leaving,
            goodbye=goodbye,
            fetches=True,
            trouble=self._trouble,
        )

    def _next_portion(self) -> Portion:
        ends = first_of(self._attempt_table.ends.values(), _ENDS_MAX)
        load = self._load.sample()
        usage = self._refusals.told(self._usage.report())
        return Portion(ends, self._next_pieces(), usage, load if self._refusals.tells_load else None)

    def _next_part(self) -> Portion:
        """Return a part of what was refused, without ends that have got their verdict meanwhile."""
        silent_s = self._loop.time() - self._answered_at_s
        part = self._search.next(bare=silent_s > self._registration.lease_ms / 1000 / _SILENCE_PART)
        return part._replace(ends=[end for end in part.ends if end.fence in self._attempt_table.ends])

    def _later(self, ends: list[ReportedEnd]) -> list[int]:
        """Return the fences of ends that a poll with these does not tell of."""
        if len(ends) == len(self._attempt_table.ends):
            return []
        told = {end.fence for end in ends}
        return [fence for fence in self._attempt_table.ends if fence not in told]

    def _next_pieces(self) -> list[LogPiece]:
        """Take as many log pieces as one poll should carry."""
        count, size = 0, 0
        for piece in self._pieces:
            size += len(piece.data)
            if count and size > LOG_BYTES_MAX:
                break
            count += 1
        pieces, self._pieces = self._pieces[:count], self._pieces[count:]
        return pieces

    async def _exchange(self, request: PollRequest) -> None:
        """Send one poll and act on the answer."""
        registration = self._registration
        # An answer to news is not held. Two silent answers in a row must not cost the lease.
        held_s = 0 if request.ends or request.logs else request.wait_ms / 1000
        timeout_s = min(self._config.poll_timeout_s, registration.lease_ms / 1000 / _LEASE_PART) + held_s
        sent_at_ns = now_ns()
        try:
            response = await self._leader.poll(registration.id, _encoded(request), timeout_s)
        except StaleIncarnationError as error:
            self._attempt_table.refuse(request.ends)  # and the refusal is on record
            if not self.over.done():
                _log.warning("incarnation %d is stale: %s", registration.incarnation, error)
                self._finish("stale")
        except RefusedError as error:
            self._refused(error, request)
        except LeaderNotFoundError as error:
            self._pieces[:0] = request.logs
            self._failed(str(error), error.retry_after_s)
        except asyncio.CancelledError:
            self._pieces[:0] = request.logs
            raise
        else:
            if not self.over.done():
                self._take(request, response, sent_at_ns)

    def _take(self, request: PollRequest, response: PollResponse, sent_at_ns: int) -> None:
        self._before()
        self._patience.succeeded()
        self._wait_until_s = 0.0
        self._answered_at_s = self._loop.time()
        self._attempt_table.answered(response.verdicts)
        if request.ends and all(end.fence in self._attempt_table.ends for end in request.ends):
            # The leader did not get to them: leave it a moment before they are sent again.
            self._wait_until_s = self._loop.time() + _BACKOFF_MIN_S
        if self._search.active and (guilty := self._search.answered(_portion_of(request))) is not None:
            self._refusals.condemn(*guilty)
        self._answered(response, sent_at_ns)
        if request.goodbye:
            self._finish("goodbye")

    def _refused(self, error: RefusedError, request: PollRequest) -> None:
        """Go on without sending the same poll again."""
        portion = _portion_of(request)
        if not error.about_content:
            self._pieces[:0] = portion.logs
            self._failed(f"the coordinator refuses the poll: {error}")
            return
        guilty = self._search.refused(portion, str(error))
        if guilty is not None:
            self._refusals.condemn(*guilty)
        elif not portion.items():
            why = f"the coordinator refuses a poll without items; this agent cannot repair that: {error}"
            self._failed(why, _REFUSED_WAIT_S)
        else:
            _log.info(
                "the coordinator refuses a poll with %d items; they go in parts: %s", len(portion.items()), error
            )

    def _failed(self, why: str, retry_after_s: float | None = None) -> None:
        self._wait_until_s = self._loop.time() + self._patience.failed(why, retry_after_s)
        # Whatever else is in flight goes to a leader that is probably gone; nothing is lost with its answer.
        for task in list(self._polls):
            if task is not asyncio.current_task():
                task.cancel()
