"""Polls that are held: each is answered the moment there is a reason to, and not before.

A held poll is an object, a timer, and an entry in its agent's seat. It has no task of its own: what wakes it looks at
the state and answers in the same turn of the event loop.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from raftflow.coordinator.commit.submitter import BusyError
from raftflow.coordinator.sessions.agent_session import LongPoll, news_for
from raftflow.domain.contract.views import PollResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.leader.leader_loop import LeaderLoop
    from raftflow.coordinator.sessions.agent_session import AgentSession, Outcome
    from raftflow.coordinator.sessions.log_relay import LogRelay
    from raftflow.domain.contract.views import PollRequest, ReportVerdict
    from raftflow.machine.machine import Machine

PLACING_WAIT_S = 0.05
"""How long the answer to a report waits for the placement that follows it."""
REPEAT_S = 1.0
"""How often an order is repeated to an agent that has not carried it out yet."""


class LongPolls:
    """Answers polls whose reports are in the log, at once or when there is news.

    Args:
        no_leader: makes the error that says where the leader is.
        gone: takes over a poll whose agent was removed while it was held: name, request, and what takes the answer.
        wake: has an agent's polls looked at in one of the next turns.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        leader: LeaderLoop,
        relay: LogRelay,
        no_leader: Callable[[], Exception],
        gone: Callable[[str, PollRequest, Callable[[Outcome], None]], None],
        wake: Callable[[str], None],
        lease_ms: int,
        poll_wait_ms: int,
        held_max: int,
    ) -> None:
        self.count = 0
        """Polls that wait for news."""
        self.closing = False
        """Everything is answered at once, before a planned stop."""
        self._machine = machine
        self._leader = leader
        self._relay = relay
        self._no_leader = no_leader
        self._gone = gone
        self._wake = wake
        self._lease_ms = lease_ms
        self._poll_wait_s = poll_wait_ms / 1000
        self._held_max = held_max

    def begin(
        self,
        session: AgentSession,
        request: PollRequest,
        verdicts: list[ReportVerdict],
        answered: Callable[[Outcome], None],
    ) -> None:
        """Answer a poll, or hold it while there is nothing to say."""
        now_s = asyncio.get_running_loop().time()
        wait_s = PLACING_WAIT_S if verdicts else min(request.wait_ms / 1000, self._poll_wait_s)
        poll = LongPoll(session, request, verdicts, now_s + wait_s, answered)
        if verdicts:
            # A report freed room or made tasks ready: if a placement is on its way, it will be in this answer.
            poll.placing = self._leader.when_placed(partial(self._placed, poll))
        twin = session.polls.get(request.seq)
        if twin is not None:  # the same poll twice: the first copy is answered now
            self.overtake(twin)
        session.polls[request.seq] = poll
        self.look(poll)

    def _placed(self, poll: LongPoll) -> None:
        poll.placing = False
        self._wake(poll.name)

    def overtake(self, poll: LongPoll) -> None:
        """Have a poll answered that a newer one has overtaken: soon, so that the newer one is told of news first."""
        asyncio.get_running_loop().call_soon(self.look, poll)

    def look(self, poll: LongPoll) -> None:
        """Answer a poll if there is a reason to."""
        if poll.answered is None:
            return
        try:
            outcome = self._outcome(poll)
        except Exception as error:  # noqa: BLE001 - handed on, not swallowed
            outcome = error
        if outcome is not None:
            answered = self.drop(poll)
            answered(outcome)

    def _outcome(self, poll: LongPoll) -> Outcome | None:
        """Compose the answer to a poll; None if it goes on to be held."""
        if not self._leader.leading:
            raise self._no_leader()
        name, session, request, verdicts = poll.name, poll.session, poll.request, poll.verdicts
        agent = self._machine.state.agents.get(name)
        if agent is None or agent.incarnation != request.incarnation or not agent.present:
            self._gone(name, request, self.drop(poll))
            return None
        news = news_for(self._machine, agent, request)
        assign, stop, release, draining = news
        now_s = asyncio.get_running_loop().time()
        limit_s = min(poll.until_s, session.told_s + REPEAT_S) if stop or release else poll.until_s
        if not (
            assign
            or (verdicts and not poll.placing)
            or session.seq > request.seq
            or session.polls.get(request.seq) is not poll
            or self.closing
            or now_s >= limit_s
            or draining != session.draining_told
            or not session.orders_told.issuperset(stop)
            or not session.orders_told.issuperset(release)
            or self._relay.fresh(name)
        ):
            if poll.held or self.count < self._held_max:
                self._hold(poll, limit_s)
                return None
            if not verdicts:
                raise BusyError(f"{self.count} polls are held, the limit is {self._held_max}")
        session.tell(news, now_s)
        return PollResponse(
            lease_ms=self._lease_ms,
            verdicts=verdicts,
            assign=assign,
            stop=stop,
            release=release,
            logs=self._relay.wanted(name),
            draining=draining,
            feature_level=self._machine.state.feature_level,
        )

    def _hold(self, poll: LongPoll, limit_s: float) -> None:
        """Hold a poll until there is news for its agent, or until `limit_s`."""
        if not poll.held:
            poll.held = True
            self.count += 1
        if poll.timer is None or poll.due_s != limit_s:
            if poll.timer is not None:
                poll.timer.cancel()
            poll.due_s = limit_s
            poll.timer = asyncio.get_running_loop().call_at(limit_s, self._due, poll)

    def _due(self, poll: LongPoll) -> None:
        poll.timer = None
        self.look(poll)

    def drop(self, poll: LongPoll) -> Callable[[Outcome], None]:
        """Forget a poll that has no answer yet. Returns what takes the answer."""
        answered = poll.answered
        assert answered is not None  # noqa: S101 - the callers looked
        poll.answered = None
        if poll.timer is not None:
            poll.timer.cancel()
            poll.timer = None
        if poll.held:
            poll.held = False
            self.count -= 1
        polls = poll.session.polls
        if polls.get(poll.request.seq) is poll:
            del polls[poll.request.seq]
        return answered
