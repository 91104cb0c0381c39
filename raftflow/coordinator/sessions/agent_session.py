"""An agent's session with the leader, and the polls in it. A new leader begins without sessions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from raftflow.domain.contract.views import PollResponse
from raftflow.domain.rejections import Rejection

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from raftflow.coordinator.sessions.instructions import Instructions
    from raftflow.domain.contract.views import AgentLoad, PollRequest, ReportVerdict
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.rows import AgentRow

DELIVERIES_MAX = 16
DELIVERIES_APART_S = 0.1
"""Answers that follow each other faster than this count as one delivery."""

_NO_FENCES: frozenset[int] = frozenset()


class AgentSession:
    """What the leader remembers of one agent."""

    __slots__ = (
        "_delivered_before",
        "answered_s",
        "clock_skew_ms",
        "deliveries",
        "draining_sent",
        "incarnation",
        "load",
        "name",
        "orders_sent",
        "pid",
        "polls",
        "seen",
        "seq",
        "version",
    )

    def __init__(self, name: str, incarnation: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.seq = -1
        """The largest sequence number of a poll."""
        self.seen = -1
        """The largest fence that the agent has said it was sent."""
        self.deliveries: list[tuple[int, float]] = []
        """The last answers that brought attempts: the largest fence, and when that was, in seconds of the loop."""
        self._delivered_before = -1
        """Fences up to this one were sent before the first of `deliveries`."""
        self.polls: dict[int, Poll] = {}
        """Polls that wait for news, by their sequence numbers."""
        self.orders_sent: frozenset[int] = frozenset()
        self.draining_sent = False
        self.answered_s = 0.0
        """When the last answer was made, on the loop's clock."""
        self.pid: int | None = None
        self.version = ""
        self.clock_skew_ms: int | None = None
        """How far its clock was ahead at its registration."""
        self.load: AgentLoad | None = None

    def note_answer(self, told: Instructions, now_s: float) -> None:
        """Remember what an answer tells the agent."""
        self.orders_sent = frozenset((*told.stop, *told.release)) if told.stop or told.release else _NO_FENCES
        self.draining_sent = told.draining
        self.answered_s = now_s
        if told.assign:
            self._note_delivery(told.assign[-1].fence, now_s)

    def note_seen(self, seen: int) -> None:
        """Note the largest fence that a poll says the agent was sent.

        The first poll of a session tells what the agent was sent before the session began.
        """
        if self.seen < 0:
            self._delivered_before = seen
        self.seen = max(self.seen, seen)

    def delivered_s(self, fence: int) -> float | None:
        """Return when the agent was sent an attempt: -inf if that was long ago, None if it was not sent yet."""
        if fence <= self._delivered_before:
            return -math.inf
        for last, at_s in self.deliveries:
            if fence <= last:
                return at_s
        return -math.inf if fence <= self.seen else None

    def _note_delivery(self, fence: int, now_s: float) -> None:
        deliveries = self.deliveries
        if deliveries and now_s - deliveries[-1][1] < DELIVERIES_APART_S:
            deliveries[-1] = (fence, deliveries[-1][1])
            return
        deliveries.append((fence, now_s))
        if len(deliveries) > DELIVERIES_MAX:
            self._delivered_before = deliveries.pop(0)[0]


PollOutcome = PollResponse | Rejection | Exception
"""How a poll ends: with an answer, with the refusal of an agent that must register first, or with an error."""


PollStep = Literal["admit", "report", "read verdicts", "begin to hold", "answer", "refuse", "done"]
"""What has to be done next with a poll:

admit          find out whether its agent is registered
report         note what the poll says, and propose its report to the log
read verdicts  read the log's reply to the report; then do what else the poll asks for: a goodbye, a drain, a check
begin to hold  decide for how long the poll may be held
answer         answer as soon as there is a reason to; until then the poll is held
refuse         its agent was removed while it was held: say so
done           nothing, the poll has its answer
"""


class Poll:
    """A poll and how far it has come.

    Args:
        on_answer: takes the outcome. It is called once.
    """

    __slots__ = (
        "agent",
        "due_s",
        "held",
        "name",
        "on_answer",
        "placing",
        "reply",
        "request",
        "session",
        "step",
        "timer",
        "until_s",
        "verdicts",
    )

    agent: AgentRow
    """Set from the step `report` on."""
    session: AgentSession
    """Set from the step `read verdicts` on."""

    def __init__(self, name: str, request: PollRequest, on_answer: Callable[[PollOutcome], None]) -> None:
        self.name = name
        """The agent's."""
        self.request = request
        self.on_answer: Callable[[PollOutcome], None] | None = on_answer
        """None if nobody waits for the answer any more."""
        self.step: PollStep = "admit"
        self.reply: asyncio.Future[AnyReply] | None = None
        """The log's reply to the report; None if the poll has no report."""
        self.verdicts: list[ReportVerdict] = []
        self.placing = False
        """A placement that the report made possible has not been committed yet."""
        self.until_s = 0.0
        """When the poll is answered at the latest, on the event loop's clock."""
        self.held = False
        """It counts as held."""
        self.timer: asyncio.TimerHandle | None = None
        self.due_s = 0.0
        """When the timer goes off."""
