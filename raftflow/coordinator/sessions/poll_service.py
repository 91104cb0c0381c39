"""The poll desk: where agents report, renew their leases and fetch work, in one long-polled exchange.

Only the leader keeps one, and all of it is memory: what an agent must not lose is in the agent's next poll again.
Polls are taken in here, their reports go into the log (`reports`), and they are held until there is news (`holding`).

**Why a live attempt that a poll does not mention is truly missing.** An agent writes a poll in one step from all it
holds: every fence up to `seen` that it was ever sent is in `running`, in `queued`, in `ends`, or has had its end
answered with a verdict. A verdict is given only after the report is committed, and from then on the attempt is not
live; a fence never becomes live again. Fences are given in log order and answers list those above `seen` in order,
from the first on, so none below `seen` can be still on its way. Hence a fence that is live, at most `seen`, and not
mentioned was dropped by the agent, whichever poll says so and however late it arrives. A leader that was replaced
without knowing may have an old idea of what is live, but its proposal does not commit, and `apply` looks again
whether the fence is live.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from itertools import islice
from typing import Any

from raftflow.coordinator.clock import WallClock
from raftflow.coordinator.commit.submitter import BusyError, OutcomeUnknownError, Submitter
from raftflow.coordinator.leader.leader_loop import LeaderLoop
from raftflow.coordinator.placement.agent_stats import AgentStats
from raftflow.coordinator.placement.usage import UsageStore
from raftflow.coordinator.sessions.agent_session import AgentSession, Outcome, missing_of, unknown_of
from raftflow.coordinator.sessions.log_relay import LogRelay
from raftflow.coordinator.sessions.long_polls import LongPolls
from raftflow.coordinator.sessions.reports import Reports
from raftflow.domain import limits
from raftflow.domain.commands import ControlAgent, RemoveAgent
from raftflow.domain.contract.views import AgentLoad, PollRequest, PollResponse, RegisterRequest, ReportVerdict
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import AnyReply
from raftflow.domain.tasks.states import AgentState
from raftflow.machine.machine import Machine
from raftflow.machine.tables.state import Agent

_log = logging.getLogger(__name__)

SEATS_MAX = 2 * limits.AGENTS_MAX
WAKES_PER_TURN = 128
"""Agents whose held polls are looked at in one turn of the loop. An answer takes some 0.05 ms: thousands of them in
one turn would hold back the replica's heartbeats for so long that it lost its term."""
POLLS_PER_TURN = 128
"""Polls that are taken in within one turn of the loop, for the same reason; of those with ends as many again."""
REPORTS_MIN = 8
"""Polls with ends that are taken in within one turn while agents wait to be told of work, or work to be placed. What
is placed goes out before what is done comes in: a fleet that is woken at once may report at once."""


class PollService:
    """Answers the polls of all agents.

    Args:
        barrier: confirms that this replica leads and has applied all that is committed; raises if it does not.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        submitter: Submitter,
        leader: LeaderLoop,
        clock: WallClock,
        barrier: Callable[[], Awaitable[int]],
        lease_ms: int,
        poll_wait_ms: int,
        held_max: int,
        relay: LogRelay | None = None,
        agent_stats: AgentStats | None = None,
    ) -> None:
        self.relay = relay or LogRelay(self.wake)
        self.agent_stats = agent_stats or AgentStats()
        self.usage = UsageStore()
        """What running attempts use, as their agents told."""
        self._machine = machine
        self._submitter = submitter
        self._leader = leader
        self._clock = clock
        self._barrier = barrier
        self._lease_ms = lease_ms
        self._holding = LongPolls(
            machine=machine,
            leader=leader,
            relay=self.relay,
            no_leader=submitter.no_leader_error,
            gone=self._removed,
            wake=self.wake,
            lease_ms=lease_ms,
            poll_wait_ms=poll_wait_ms,
            held_max=held_max,
        )
        self._reports = Reports(
            machine=machine, submitter=submitter, leader=leader, clock=clock, agent_stats=self.agent_stats
        )
        self._sessions: dict[str, AgentSession] = {}
        self._to_wake: dict[str, None] = {}
        """Agents whose held polls are looked at in one of the next turns, in order."""
        self._arrived: deque[tuple[str, PollRequest, Callable[[Outcome], None]]] = deque()
        """Polls that are taken in in one of the next turns, in order."""
        self._reporting: deque[tuple[str, PollRequest, Callable[[Outcome], None]]] = deque()
        """The same of polls with ends. Others may overtake them: theirs may be the answers with work."""
        self._turning = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> int:
        """Polls that are waiting for news."""
        return self._holding.count

    def told_by(self, agent: str) -> tuple[int | None, str, AgentLoad | None]:
        """Return (pid, version, load) as the agent last told this leader."""
        session = self._sessions.get(agent)
        return (None, "", None) if session is None else (session.pid, session.version, session.load)

    def delivered_s(self, agent: str, fence: int) -> float | None:
        """Return when an agent was sent an attempt, on the loop's clock.

        It is -inf if that was long ago or before this replica led, None if it was not sent yet, or the agent has not
        been heard in this term.
        """
        session = self._sessions.get(agent)
        return None if session is None else session.delivered_s(fence)

    def registered(self, request: RegisterRequest, incarnation: int) -> None:
        """Note a registration that was accepted."""
        session = self._session(request.name, incarnation)
        session.pid, session.version = request.pid, request.version
        self._leader.contact(request.name)

    def wake(self, agent: str) -> None:
        """Look again, in one of the next turns of the loop, whether there is news for an agent."""
        known = self._machine.state.agents.get(agent)
        if known is None or not known.present:
            self.usage.forget(agent)
            self.agent_stats.forget(agent)
        if agent in self._sessions:
            self._to_wake[agent] = None
            self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Do one turn's share of what waits: tell agents their news, and take polls in."""
        self._turning = False
        try:
            for agent in list(islice(self._to_wake, WAKES_PER_TURN)):
                del self._to_wake[agent]
                session = self._sessions.get(agent)
                if session is not None:
                    for poll in tuple(session.polls.values()):
                        self._holding.look(poll)
            for _ in range(min(POLLS_PER_TURN, len(self._arrived))):
                self._take(*self._arrived.popleft())
            stop_now = self._to_wake or self._arrived or self._leader.placing
            for _ in range(min(REPORTS_MIN if stop_now else POLLS_PER_TURN, len(self._reporting))):
                self._take(*self._reporting.popleft())
        finally:
            if self._to_wake or self._arrived or self._reporting:
                self._turn_soon()

    def step_down(self) -> None:
        """Send every held poll away: this replica no longer leads."""
        self.relay.fail_all("the leader changed meanwhile; ask again")
        self.usage.clear()
        self.agent_stats.clear()
        for agent in self._sessions:
            self.wake(agent)
        self._sessions = {agent: session for agent, session in self._sessions.items() if session.polls}

    def close(self) -> None:
        """Answer every held poll now, and new ones at once, before a planned stop."""
        self._holding.closing = True
        for agent in self._sessions:
            self.wake(agent)

    # --- one poll

    async def poll(self, name: str, request: PollRequest) -> PollResponse | Rejection:
        """Take an agent's poll in and return the answer, perhaps after holding it.

        Returns a `Rejection` (`NOT_FOUND`, `STALE_INCARNATION`) if the agent must register first. Raises
        `ProposeError`s.
        """
        answer: asyncio.Future[PollResponse | Rejection] = asyncio.get_running_loop().create_future()
        answered = partial(_resolve, answer)
        self.take(name, request, answered)
        try:
            return await answer
        except asyncio.CancelledError:
            self._abandon(name, answered)
            raise

    def take(self, name: str, request: PollRequest, answered: Callable[[Outcome], None]) -> None:
        """Do as `poll` does. `answered` is called once, now or later, with what `poll` would return or raise.

        Nearly all polls come and go without a task: thousands are held at a time, and a task, a timeout and an event
        for each cost more than all that is said.
        """
        (self._reporting if request.ends else self._arrived).append((name, request, answered))
        self._turn_soon()

    def _take(self, name: str, request: PollRequest, answered: Callable[[Outcome], None]) -> None:
        agent = self._machine.state.agents.get(name)
        if (
            agent is None
            or agent.incarnation != request.incarnation
            or not agent.present
            or not self._leader.leading
            or (name, request.incarnation) in self._leader.removals
        ):
            self._spawn(self._admit(name, request, answered), answered)
            return
        try:
            session = self._heard(name, request)
            queued = self._reports.propose(name, request, missing_of(agent, request))
        except Exception as error:  # noqa: BLE001 - handed on, not swallowed
            answered(error)
            return
        if queued is None:
            self._go_on(agent, session, request, [], answered)
        elif isinstance(queued, Rejection):
            answered(queued)
        else:
            queued.add_done_callback(partial(self._reported, agent, session, request, answered))

    def _reported(
        self,
        agent: Agent,
        session: AgentSession,
        request: PollRequest,
        answered: Callable[[Outcome], None],
        reply: asyncio.Future[AnyReply],
    ) -> None:
        """Go on with a poll whose report has its reply."""
        try:
            verdicts = self._reports.verdicts(agent.name, request, reply.result())
        except asyncio.CancelledError:
            answered(OutcomeUnknownError("the replica is stopping"))
        except Exception as error:  # noqa: BLE001 - handed on, not swallowed
            answered(error)
        else:
            if isinstance(verdicts, Rejection):
                answered(verdicts)
            else:
                self._go_on(agent, session, request, verdicts, answered)

    def _go_on(
        self,
        agent: Agent,
        session: AgentSession,
        request: PollRequest,
        verdicts: list[ReportVerdict],
        answered: Callable[[Outcome], None],
    ) -> None:
        """Go on with a poll whose report, if it has one, is in the log."""
        if request.goodbye or request.leaving or unknown_of(agent, request):
            self._spawn(self._settle(agent, session, request, verdicts, answered), answered)
        else:
            self._holding.begin(session, request, verdicts, answered)

    def _spawn(self, work: Coroutine[Any, Any, None], answered: Callable[[Outcome], None]) -> None:
        """Go on with a poll in a task, for it may have to wait for other things than news."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._spawned, answered))

    def _spawned(self, answered: Callable[[Outcome], None], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            answered(OutcomeUnknownError("the replica is stopping"))
        elif (error := task.exception()) is not None:
            if not isinstance(error, Exception):
                raise error
            answered(error)

    async def _admit(self, name: str, request: PollRequest, answered: Callable[[Outcome], None]) -> None:
        """Take in a poll of an agent that is perhaps none, or is being given up."""
        self._require_leading()
        agent = await self._agent_of(name, request)
        if isinstance(agent, Rejection):
            # The ends go into the log all the same, so that the refusal is in the audit.
            refused = await self._reports.send(name, request, ()) if request.ends else []
            answered(refused if isinstance(refused, Rejection) else agent)
            return
        session = self._heard(name, request)
        verdicts = await self._reports.send(name, request, missing_of(agent, request))
        if isinstance(verdicts, Rejection):
            answered(verdicts)
        else:
            await self._settle(agent, session, request, verdicts, answered)

    async def _settle(
        self,
        agent: Agent,
        session: AgentSession,
        request: PollRequest,
        verdicts: list[ReportVerdict],
        answered: Callable[[Outcome], None],
    ) -> None:
        """Do what a poll wants done beside its report before it is answered."""
        if request.goodbye:
            answered(await self._goodbye(agent.name, request, verdicts))
            return
        if request.leaving and agent.state is not AgentState.DRAINING:
            await self._submitter.propose(
                ControlAgent(at_ms=self._clock.now_ms(), actor=f"agent:{agent.name}", name=agent.name, action="drain")
            )
        if unknown_of(agent, request):
            # Make sure that what the agent holds and we do not know is really over, before it is told to stop it.
            await self._barrier()
        self._holding.begin(session, request, verdicts, answered)

    def _abandon(self, name: str, answered: Callable[[Outcome], None]) -> None:
        """Forget a held poll for whose answer nobody waits any more."""
        session = self._sessions.get(name)
        for poll in () if session is None else tuple(session.polls.values()):
            if poll.answered is answered:
                self._holding.drop(poll)

    def _removed(self, name: str, request: PollRequest, answered: Callable[[Outcome], None]) -> None:
        self._spawn(self._gone(name, request, answered), answered)

    async def _gone(self, name: str, request: PollRequest, answered: Callable[[Outcome], None]) -> None:
        agent = await self._agent_of(name, request)
        if not isinstance(agent, Rejection):
            agent = Rejection(RejectionCode.STALE_INCARNATION, f"agent {name} was removed; register again")
        answered(agent)

    def _require_leading(self) -> None:
        if not self._leader.leading:
            raise self._submitter.no_leader_error()

    def _heard(self, name: str, request: PollRequest) -> AgentSession:
        """Take note of all that a poll says but its report. Raises `BusyError`."""
        session = self._session(name, request.incarnation)
        if request.load is not None:
            session.load = request.load
            self.agent_stats.told(name, request.load)
        self._leader.contact(name)
        session.heard(request.seen)
        if request.logs:
            self.relay.deliver(name, request.logs)
        if request.usage or self.usage.of_agent(name):
            self.usage.take(name, request.running, request.usage, asyncio.get_running_loop().time())
        if request.seq > session.seq:
            session.seq = request.seq
            self._leader.told_trouble(name, request.trouble)
            for poll in session.polls.values():
                self._holding.overtake(poll)
        return session

    def _session(self, name: str, incarnation: int) -> AgentSession:
        session = self._sessions.get(name)
        if session is None or session.incarnation < incarnation:
            if len(self._sessions) >= SEATS_MAX:
                raise BusyError(f"{SEATS_MAX} agents are remembered already")
            if session is not None:
                for poll in session.polls.values():
                    self._holding.overtake(poll)
            self.usage.forget(name)
            fresh = AgentSession(name, incarnation)
            if session is not None:
                fresh.pid, fresh.version = session.pid, session.version
            self._sessions[name] = session = fresh
        return session

    async def _agent_of(self, name: str, request: PollRequest) -> Agent | Rejection:
        agent = self._machine.state.agents.get(name)
        if agent is None or request.incarnation > agent.incarnation:
            # Perhaps this replica was replaced and has not heard of it, and the agent knows more than we do.
            await self._barrier()
            agent = self._machine.state.agents.get(name)
        if await self._leader.removals.settled(name, request.incarnation):
            self._require_leading()
            agent = self._machine.state.agents.get(name)
        if agent is None:
            return Rejection(RejectionCode.NOT_FOUND, f"there is no agent {name!r}; it must register first")
        if agent.incarnation != request.incarnation or not agent.present:
            return Rejection(
                RejectionCode.STALE_INCARNATION,
                f"incarnation {request.incarnation} of agent {name} is over (the present one is {agent.incarnation}, "
                f"{agent.state}); stop its attempts and register again",
            )
        return agent

    async def _goodbye(
        self, name: str, request: PollRequest, verdicts: list[ReportVerdict]
    ) -> PollResponse | Rejection:
        reply = await self._submitter.propose(
            RemoveAgent(
                at_ms=self._clock.now_ms(),
                actor=f"agent:{name}",
                name=name,
                incarnation=request.incarnation,
                reason="left",
            )
        )
        if isinstance(reply, Rejection):
            return reply
        self._sessions.pop(name, None)
        self.usage.forget(name)
        return PollResponse(lease_ms=self._lease_ms, verdicts=verdicts, draining=True)


def _resolve(answer: asyncio.Future[PollResponse | Rejection], outcome: Outcome) -> None:
    if answer.done():  # whoever asked has gone away
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
