"""What polls say, and when there is enough to say: the part of the core that composes polls. No I/O, no clock."""

from __future__ import annotations

from raftflow.agent.exchange.attempt_table import AttemptTable
from raftflow.agent.exchange.poll_items import PollItems, RefusalSearch, first_of
from raftflow.domain.contract.views import LogPiece, PollRequest, RegisterResponse, ReportedEnd
from raftflow.domain.limits import LOGS_PER_POLL_MAX

LOG_BYTES_MAX = 128 << 10
"""Of one log piece, and about of all in one poll. In JSON they take a third more."""
_ENDS_MAX = 1_000
"""Ends in one poll."""
LEASE_PART = 3
"""An idle poll is held for at most this part of the lease, and a silent leader is left after it."""
_DISTANCE_S = 0.02
"""Distance that polls keep from the last one with ends while enough is waiting here."""
_QUEUE_PART = 4
"""Ends are reported at once when there are this part as many of them as attempts that wait here."""
_FAILOVER_MS = 2_000
"""What should be left of the lease when a leader dies, so that its successor is found in time."""
_SILENCE_PART = 4
"""While parts of refused polls are sent, one without items goes when no answer came for this part of the lease."""
_NS = 1_000_000_000
_LONG_AGO_NS = -(2**62)


def hold_ms(registration: RegisterResponse) -> int:
    """Return how long an idle poll may be held.

    A leader may die just before it answers the second of two held polls. The lease is then counted from when the
    first was sent, and what is left must do for the failover.
    """
    lease_ms = registration.lease_ms
    spare_ms = (lease_ms * 9 // 10 - _FAILOVER_MS) // 2
    return min(registration.poll_wait_ms, lease_ms // LEASE_PART, max(spare_ms, lease_ms // 10))


class Outbox:
    """What one incarnation has to say.

    Args:
        usage_every_s: how often the leader is told what running attempts use.
        trouble: why the agent is unfit, empty if it is fit.
    """

    def __init__(
        self,
        table: AttemptTable,
        registration: RegisterResponse,
        *,
        sent_at_ns: int,
        usage_every_s: float,
        trouble: str,
        leaving: bool,
    ) -> None:
        self.trouble = trouble
        self.leaving = leaving
        self.urgent = bool(trouble) or leaving
        """The leader should hear of a change at once."""
        self.answered_at_ns = sent_at_ns
        """When the last answer came."""
        self.search = RefusalSearch()
        """For the items for which polls were refused."""
        self._table = table
        self._registration = registration
        self._usage_every_ms = int(usage_every_s * 1000)
        self._seq = 0
        self._pieces: list[LogPiece] = []
        self._reported_at_ns = _LONG_AGO_NS
        """When the last poll with ends was sent."""

    @property
    def has_news(self) -> bool:
        """Whether there is something to say that the leader does not know."""
        return bool(self._table.ends or self._pieces or self.urgent or self.search.going_on)

    def add_piece(self, piece: LogPiece) -> None:
        """Send a log piece with the next poll. Beyond the bound it is dropped: the coordinator asks again."""
        if len(self._pieces) < LOGS_PER_POLL_MAX:
            self._pieces.append(piece)

    def return_pieces(self, pieces: list[LogPiece]) -> None:
        """Send log pieces again whose poll was not answered."""
        self._pieces[:0] = pieces

    def distance_s(self, now_ns: int) -> float:
        """Return how long the next poll should still wait for more to say; 0 or less if it is due.

        Nobody needs an early report while what waits here keeps the agent busy for much longer. That is so if less
        than a quarter as many attempts have ended since the last report as still wait: then these last for four
        times as long as that is ago, which is not less than an exchange takes. So new work comes before the queue is
        empty, and a task that needs a gathered result waits for a fraction of what the queue takes.

        Attempts that end more rarely than once in `_DISTANCE_S` are reported at once. So is every end that is not a
        success: there may be something to stop, or to do again.
        """
        table = self._table
        if (
            self._pieces
            or self.urgent
            or self.leaving
            or table.pressing
            or self.search.going_on
            or len(table.ends) >= len(table.queue) // _QUEUE_PART
        ):
            return 0.0
        return _DISTANCE_S - (now_ns - self._reported_at_ns) / _NS

    def compose(self, now_ns: int, *, news: bool, goodbye: bool, failing: bool) -> PollRequest:
        """Return a poll that says all there is to say now, or a part of what was refused together."""
        table, registration = self._table, self._registration
        self._seq += 1
        self.urgent = table.pressing = False
        portion = self._next_part(now_ns) if self.search.going_on else self._next_portion()
        ends = portion.ends
        if ends:
            self._reported_at_ns = now_ns
        wait_ms = hold_ms(registration)
        if self.leaving or failing or (news and not ends):
            # Ends get verdicts; other news might be held, and keep the next ends waiting behind them. After a failure
            # the answer itself matters: it confirms the lease. A held poll would let the lease run out if further
            # leaders died.
            wait_ms = 0
        elif table.running:
            wait_ms = min(wait_ms, self._usage_every_ms)
        return PollRequest(
            incarnation=registration.incarnation,
            seq=self._seq,
            seen=table.seen,
            # Ends that do not fit in are still "running": what is not mentioned is lost.
            running=[*table.running, *self._later(ends)],
            queued=[assignment.fence for assignment in table.queue],
            ends=ends,
            logs=portion.logs,
            usage=portion.usage,
            load=portion.load,
            wait_ms=wait_ms,
            leaving=self.leaving,
            goodbye=goodbye,
            fetches=True,
            trouble=self.trouble,
        )

    def _next_portion(self) -> PollItems:
        return PollItems(first_of(self._table.ends.values(), _ENDS_MAX), self._next_pieces(), [], None)

    def _next_part(self, now_ns: int) -> PollItems:
        """Return a part of what was refused, without ends that have got their verdict meanwhile."""
        silent_ns = now_ns - self.answered_at_ns
        part = self.search.next(bare=silent_ns > self._registration.lease_ms * 1_000_000 // _SILENCE_PART)
        return part._replace(ends=[end for end in part.ends if end.fence in self._table.ends])

    def _later(self, ends: list[ReportedEnd]) -> list[int]:
        """Return the fences of the ends that are not among these."""
        if len(ends) == len(self._table.ends):
            return []
        told = {end.fence for end in ends}
        return [fence for fence in self._table.ends if fence not in told]

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
