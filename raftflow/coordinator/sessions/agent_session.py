"""What the leader remembers of agents, polls that are held for them, and what is said in answer to one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from raftflow.domain.contract.views import Assignment, PollResponse
from raftflow.domain.rejections import Rejection
from raftflow.domain.tasks.states import AgentState
from raftflow.machine.read import queries

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from raftflow.domain.contract.views import AgentLoad, PollRequest, ReportVerdict
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.state import Agent

Outcome = PollResponse | Rejection | Exception
"""What becomes of a poll: the answer, the refusal of an agent that must register first, or what kept it from both."""

ANSWER_BYTES = 1024 * 1024
"""About how much of what tasks run and of their inputs goes into one answer; one task always does."""


DELIVERIES_MAX = 16
DELIVERIES_APART_S = 0.1
"""Answers that follow each other faster than this count as one delivery."""


class AgentSession:
    """What the leader remembers of one agent."""

    __slots__ = (
        "_told_before",
        "deliveries",
        "draining_told",
        "incarnation",
        "load",
        "name",
        "orders_told",
        "pid",
        "polls",
        "seen",
        "seq",
        "told_s",
        "version",
    )

    def __init__(self, name: str, incarnation: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.seq = -1
        self.seen = -1
        """The largest fence that the agent has said it was sent."""
        self.deliveries: list[tuple[int, float]] = []
        """The last answers that brought attempts: the largest fence, and when that was, in seconds of the loop."""
        self._told_before = -1
        """Fences up to this one were sent earlier than what `deliveries` knows."""
        self.polls: dict[int, LongPoll] = {}
        """Those that have no answer yet, by their seq."""
        self.orders_told: frozenset[int] = frozenset()
        self.draining_told = False
        self.told_s = 0.0
        self.pid: int | None = None
        self.version = ""
        self.load: AgentLoad | None = None

    def tell(self, news: News, now_s: float) -> None:
        """Remember what the agent is told now."""
        self.orders_told = frozenset((*news.stop, *news.release)) if news.stop or news.release else _NOTHING
        self.draining_told = news.draining
        self.told_s = now_s
        if news.assign:
            self._deliver(news.assign[-1].fence, now_s)

    def heard(self, seen: int) -> None:
        """Note what a poll says to have been sent. What the first one says was sent before that."""
        if self.seen < 0:
            self._told_before = seen
        self.seen = max(self.seen, seen)

    def delivered_s(self, fence: int) -> float | None:
        """Return when the agent was sent an attempt: -inf if that was long ago, None if it was not sent yet."""
        if fence <= self._told_before:
            return -math.inf
        for last, at_s in self.deliveries:
            if fence <= last:
                return at_s
        return -math.inf if fence <= self.seen else None

    def _deliver(self, fence: int, now_s: float) -> None:
        deliveries = self.deliveries
        if deliveries and now_s - deliveries[-1][1] < DELIVERIES_APART_S:
            deliveries[-1] = (fence, deliveries[-1][1])
            return
        deliveries.append((fence, now_s))
        if len(deliveries) > DELIVERIES_MAX:
            self._told_before = deliveries.pop(0)[0]


_NOTHING: frozenset[int] = frozenset()


class LongPoll:
    """A poll that has been taken in and has no answer yet."""

    __slots__ = ("answered", "due_s", "held", "name", "placing", "request", "session", "timer", "until_s", "verdicts")

    def __init__(
        self,
        session: AgentSession,
        request: PollRequest,
        verdicts: list[ReportVerdict],
        until_s: float,
        answered: Callable[[Outcome], None],
    ) -> None:
        self.name = session.name
        self.session = session
        self.request = request
        self.verdicts = verdicts
        self.until_s = until_s
        """When it is answered at the latest, on the event loop's clock."""
        self.answered: Callable[[Outcome], None] | None = answered
        """Takes the answer; None once it has it."""
        self.placing = False
        """A placement that its report made possible is still to come."""
        self.held = False
        """It counts as held."""
        self.timer: asyncio.TimerHandle | None = None
        self.due_s = 0.0
        """When the timer goes off."""


class News(NamedTuple):
    """What there is to tell an agent in answer to a poll, as of now."""

    assign: list[Assignment]
    stop: list[int]
    release: list[int]
    draining: bool


def news_for(machine: Machine, agent: Agent, request: PollRequest) -> News:
    """Find out what an agent that holds what its poll says should know."""
    draining = agent.state is AgentState.DRAINING
    if not (agent.live or agent.void or request.running or request.queued):
        return News([], [], [], draining)
    stop, release = queries.orders(machine, agent.name)
    ended = {end.fence for end in request.ends}
    held = [fence for fence in (*request.running, *request.queued) if fence not in ended]
    if held or stop or release:
        unknown = [fence for fence in held if fence not in agent.live and fence <= machine.state.fence]
        present = set(held)
        stop = sorted({fence for fence in stop if fence in present or fence > request.seen} | set(unknown))
        release = [fence for fence in release if fence in present]
    # What does not go into this answer comes with the next one.
    assign = queries.assignments(machine, agent.name, request.seen, apart=request.fetches, bytes_max=ANSWER_BYTES)
    return News(assign, stop, release, draining)


def missing_of(agent: Agent, request: PollRequest) -> tuple[int, ...]:
    """Return the live fences that the agent was sent and does not account for. `polls` says why they are lost."""
    if not agent.live:
        return ()
    known = {*request.running, *request.queued, *(end.fence for end in request.ends)}
    return tuple([fence for fence in agent.live if fence <= request.seen and fence not in known])


def unknown_of(agent: Agent, request: PollRequest) -> bool:
    """Tell whether the agent holds something that is not live here."""
    live = agent.live
    for fences in (request.running, request.queued):
        for fence in fences:
            if fence not in live:
                return True
    return False
