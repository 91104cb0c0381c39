"""The poll desk: where agents report, renew their leases and fetch work, in one long-polled exchange.

Only the leader keeps one, and all of it is memory: what an agent must not lose is in the agent's next poll again.

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
from collections.abc import Awaitable, Callable
from itertools import islice

from raftflow.coordinator.clock import WallClock
from raftflow.coordinator.ends import report, verdicts_of
from raftflow.coordinator.leader import LeaderLoop
from raftflow.coordinator.outlook import MEASURED_LEAST_MS, SAMPLES_LEAST, Outlook
from raftflow.coordinator.relay import LogRelay
from raftflow.coordinator.submitter import BusyError, Submitter
from raftflow.coordinator.usage import UsageStore
from raftflow.domain import limits
from raftflow.domain.commands import ControlAgent, RemoveAgent
from raftflow.domain.contract import (
    AgentLoad,
    Assignment,
    PollRequest,
    PollResponse,
    RegisterRequest,
    ReportedEnd,
    ReportVerdict,
)
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Reported
from raftflow.domain.task import AgentState
from raftflow.machine import queries
from raftflow.machine.machine import Machine
from raftflow.machine.state import Agent

_log = logging.getLogger(__name__)

PLACING_WAIT_S = 0.05
"""How long the answer to a report waits for the placement that follows it."""
REPEAT_S = 1.0
"""How often an order is repeated to an agent that has not carried it out yet."""
ANSWER_BYTES = 4 * 1024 * 1024
"""Inputs of tasks in one answer; a single task with more gets an answer of its own."""
SEATS_MAX = 2 * limits.AGENTS_MAX
WAKES_PER_TURN = 32
"""Held polls that are woken in one turn of the loop. An answer takes some 0.1 ms: thousands of them in one turn would
hold back the replica's heartbeats for so long that it lost its term."""


class _Seat:
    """What the leader remembers of one agent."""

    __slots__ = (
        "draining_told",
        "incarnation",
        "load",
        "name",
        "orders_told",
        "pid",
        "seq",
        "told_s",
        "version",
        "wakers",
    )

    def __init__(self, name: str, incarnation: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.seq = -1
        self.wakers: dict[int, asyncio.Event] = {}
        """Of the polls that are held, by their seq."""
        self.orders_told: frozenset[int] = frozenset()
        self.draining_told = False
        self.told_s = 0.0
        self.pid: int | None = None
        self.version = ""
        self.load: AgentLoad | None = None

    def look(self) -> None:
        """Let every held poll look for news."""
        for waker in self.wakers.values():
            waker.set()


class PollDesk:
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
        outlook: Outlook | None = None,
    ) -> None:
        self.relay = relay or LogRelay(self.wake)
        self.outlook = outlook or Outlook()
        self.usage = UsageStore()
        """What running attempts use, as their agents told."""
        self._machine = machine
        self._submitter = submitter
        self._leader = leader
        self._clock = clock
        self._barrier = barrier
        self._lease_ms = lease_ms
        self._poll_wait_s = poll_wait_ms / 1000
        self._held_max = held_max
        self._held = 0
        self._seats: dict[str, _Seat] = {}
        self._to_wake: dict[str, None] = {}
        """Agents whose polls look for news in one of the next turns, in order."""
        self._closing = False

    @property
    def held(self) -> int:
        """Polls that are waiting for news."""
        return self._held

    def told_by(self, agent: str) -> tuple[int | None, str, AgentLoad | None]:
        """Return (pid, version, load) as the agent last told this leader."""
        seat = self._seats.get(agent)
        return (None, "", None) if seat is None else (seat.pid, seat.version, seat.load)

    def registered(self, request: RegisterRequest, incarnation: int) -> None:
        """Note a registration that was accepted."""
        seat = self._seat(request.name, incarnation)
        seat.pid, seat.version = request.pid, request.version
        self._leader.contact(request.name)

    def wake(self, agent: str) -> None:
        """Look again, in one of the next turns of the loop, whether there is news for an agent."""
        known = self._machine.state.agents.get(agent)
        if known is None or not known.present:
            self.usage.forget(agent)
            self.outlook.forget(agent)
        if agent not in self._seats:
            return
        if not self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._to_wake[agent] = None

    def _wake_some(self) -> None:
        for agent in list(islice(self._to_wake, WAKES_PER_TURN)):
            del self._to_wake[agent]
            seat = self._seats.get(agent)
            if seat is not None:
                seat.look()
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def step_down(self) -> None:
        """Send every held poll away: this replica no longer leads."""
        self.relay.fail_all("the leader changed meanwhile; ask again")
        self.usage.clear()
        self.outlook.clear()
        for agent in self._seats:
            self.wake(agent)
        self._seats = {agent: seat for agent, seat in self._seats.items() if seat.wakers}

    def close(self) -> None:
        """Answer every held poll now, and new ones at once, before a planned stop."""
        self._closing = True
        for agent in self._seats:
            self.wake(agent)

    # --- one poll

    async def poll(self, name: str, request: PollRequest) -> PollResponse | Rejection:
        """Take an agent's poll in and return the answer, perhaps after holding it.

        Returns a `Rejection` (`NOT_FOUND`, `STALE_INCARNATION`) if the agent must register first. Raises
        `ProposeError`s.
        """
        self._require_leading()
        agent = await self._agent_of(name, request)
        if isinstance(agent, Rejection):
            # The ends go into the log all the same, so that the refusal is in the audit.
            refused = await self._report(name, request, ()) if request.ends else []
            return refused if isinstance(refused, Rejection) else agent
        seat = self._seat(name, request.incarnation)
        if request.load is not None:
            seat.load = request.load
            self.outlook.told(name, request.load)
        self._leader.contact(name)
        self.relay.deliver(name, request.logs)
        if request.usage or self.usage.of_agent(name):
            self.usage.take(name, request.running, request.usage, asyncio.get_running_loop().time())
        if request.seq > seat.seq:
            seat.seq = request.seq
            self._answer_older(seat)
        verdicts = await self._report(name, request, _missing(agent, request))
        if isinstance(verdicts, Rejection):
            return verdicts
        if request.goodbye:
            return await self._goodbye(name, request, verdicts)
        if request.leaving and agent.state is not AgentState.DRAINING:
            await self._submitter.propose(
                ControlAgent(at_ms=self._clock.now_ms(), actor=f"agent:{name}", name=name, action="drain")
            )
        await self._check_unknown(agent, request)
        return await self._answer(name, seat, request, verdicts)

    def _require_leading(self) -> None:
        if not self._leader.leading:
            raise self._submitter.no_leader_error()

    def _seat(self, name: str, incarnation: int) -> _Seat:
        seat = self._seats.get(name)
        if seat is None or seat.incarnation < incarnation:
            if len(self._seats) >= SEATS_MAX:
                raise BusyError(f"{SEATS_MAX} agents are remembered already")
            if seat is not None:
                seat.look()
            self.usage.forget(name)
            fresh = _Seat(name, incarnation)
            if seat is not None:
                fresh.pid, fresh.version = seat.pid, seat.version
            self._seats[name] = seat = fresh
        return seat

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

    @staticmethod
    def _answer_older(seat: _Seat) -> None:
        for seq, waker in seat.wakers.items():
            if seq < seat.seq:
                waker.set()

    # --- reports

    async def _report(
        self, name: str, request: PollRequest, missing: tuple[int, ...]
    ) -> list[ReportVerdict] | Rejection:
        """Put ends and missing attempts into the log, if there are any."""
        if not request.ends and not missing:
            return []
        if missing:
            _log.warning("agent %s does not hold attempts that it was sent: %s", name, missing[:20])
        level = self._machine.state.feature_level
        queued = self._submitter.enqueue(report(name, request, missing, at_ms=self._clock.now_ms(), level=level))
        if isinstance(queued, Rejection):
            return queued
        self._leader.place_after(name, request.ends)
        self._measure(name, request.ends)
        reply = await queued
        if isinstance(reply, Rejection):
            return reply
        assert isinstance(reply, Reported)  # noqa: S101 - the machine's contract
        if any(end.outcome == "succeeded" for end in request.ends):
            self._leader.standing.settled(name)
        return verdicts_of(reply.verdicts)

    def _measure(self, name: str, ends: list[ReportedEnd]) -> None:
        """Note how fast the agent was with what is known to take some time."""
        for end in ends:
            if end.duration_ms >= MEASURED_LEAST_MS and end.outcome == "succeeded":
                agent = self._machine.state.agents.get(name)
                found = None if agent is None else agent.live.get(end.fence)
                if found is None:
                    continue
                known = queries.kind_estimate(self._machine, found[0].id, found[1].position)
                if known is not None and known.count >= SAMPLES_LEAST:
                    self.outlook.ran(name, known.mean_ms, end.duration_ms)

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
        self._seats.pop(name, None)
        self.usage.forget(name)
        return PollResponse(lease_ms=self._lease_ms, verdicts=verdicts, draining=True)

    async def _check_unknown(self, agent: Agent, request: PollRequest) -> None:
        """Make sure that what the agent holds and we do not know is really over, before it is told to stop it."""
        if any(fence not in agent.live for fence in (*request.running, *request.queued)):
            await self._barrier()

    # --- answers

    async def _answer(
        self, name: str, seat: _Seat, request: PollRequest, verdicts: list[ReportVerdict]
    ) -> PollResponse | Rejection:
        """Compose the answer, and hold it while there is nothing to say."""
        loop = asyncio.get_running_loop()
        waker = asyncio.Event()
        placing = _Placing(waker)
        # A report freed room or made tasks ready: if a placement is on its way, it will be in this answer.
        placing.pending = bool(verdicts) and self._leader.when_placed(placing.done)
        until_s = loop.time() + (PLACING_WAIT_S if verdicts else min(request.wait_ms / 1000, self._poll_wait_s))
        if request.seq in seat.wakers:  # the same poll twice: the first copy is answered now
            seat.wakers[request.seq].set()
        seat.wakers[request.seq] = waker
        try:
            while True:
                self._require_leading()
                agent = self._machine.state.agents.get(name)
                if agent is None or agent.incarnation != request.incarnation or not agent.present:
                    return await self._gone(name, request)
                answer, news = self._compose(agent, seat, request, verdicts)
                overtaken = seat.seq > request.seq or seat.wakers.get(request.seq) is not waker
                now_s = loop.time()
                limit_s = until_s
                if answer.stop or answer.release:
                    limit_s = min(until_s, seat.told_s + REPEAT_S)
                reported = bool(verdicts) and not placing.pending
                if news or overtaken or reported or self._closing or now_s >= limit_s:
                    return self._tell(seat, answer, now_s)
                if self._held >= self._held_max:
                    if verdicts:
                        return self._tell(seat, answer, now_s)
                    raise BusyError(f"{self._held} polls are held, the limit is {self._held_max}")
                await self._hold(waker, limit_s - now_s)
                waker.clear()
        finally:
            if seat.wakers.get(request.seq) is waker:
                del seat.wakers[request.seq]

    async def _gone(self, name: str, request: PollRequest) -> Rejection:
        agent = await self._agent_of(name, request)
        if isinstance(agent, Rejection):
            return agent
        return Rejection(RejectionCode.STALE_INCARNATION, f"agent {name} was removed; register again")

    async def _hold(self, waker: asyncio.Event, wait_s: float) -> None:
        self._held += 1
        try:
            async with asyncio.timeout(wait_s):
                await waker.wait()
        except TimeoutError:
            pass
        finally:
            self._held -= 1

    def _compose(
        self, agent: Agent, seat: _Seat, request: PollRequest, verdicts: list[ReportVerdict]
    ) -> tuple[PollResponse, bool]:
        """Return the answer as of now, and whether it holds something that the agent was not told before."""
        stop, release = queries.orders(self._machine, agent.name)
        ended = {end.fence for end in request.ends}
        held = [fence for fence in (*request.running, *request.queued) if fence not in ended]
        unknown = [fence for fence in held if fence not in agent.live and fence <= self._machine.state.fence]
        present = set(held)
        stop = sorted({fence for fence in stop if fence in present or fence > request.seen} | set(unknown))
        release = [fence for fence in release if fence in present]
        assign = _bounded(queries.assignments(self._machine, agent.name, request.seen))
        draining = agent.state is AgentState.DRAINING
        answer = PollResponse(
            lease_ms=self._lease_ms,
            verdicts=verdicts,
            assign=assign,
            stop=stop,
            release=release,
            draining=draining,
            feature_level=self._machine.state.feature_level,
        )
        orders = {*stop, *release}
        news = bool(
            assign or not orders <= seat.orders_told or draining != seat.draining_told or self.relay.fresh(agent.name)
        )
        return answer, news

    def _tell(self, seat: _Seat, answer: PollResponse, now_s: float) -> PollResponse:
        """Remember what the agent is told with this answer."""
        seat.orders_told = frozenset((*answer.stop, *answer.release))
        seat.draining_told = answer.draining
        seat.told_s = now_s
        answer.logs = self.relay.wanted(seat.name)
        return answer


class _Placing:
    """Whether the placement that a report's answer waits for is still to come."""

    def __init__(self, waker: asyncio.Event) -> None:
        self.pending = False
        self._waker = waker

    def done(self) -> None:
        self.pending = False
        self._waker.set()


def _bounded(assignments: list[Assignment]) -> list[Assignment]:
    """Return as many from the head as an answer should carry; the rest comes with the next one."""
    size = 0
    for count, assignment in enumerate(assignments):
        size += len(assignment.args) + len(assignment.kwargs) + sum(map(len, assignment.inputs.values()))
        if size > ANSWER_BYTES and count:
            return assignments[:count]
    return assignments


def _missing(agent: Agent, request: PollRequest) -> tuple[int, ...]:
    """Return the live fences that the agent was sent and does not account for. See the top of the file."""
    if not agent.live:
        return ()
    known = {*request.running, *request.queued, *(end.fence for end in request.ends)}
    return tuple(fence for fence in agent.live if fence <= request.seen and fence not in known)
