"""Agents report, renew their leases and fetch work here, in one exchange: the poll.

`PollService.ingest_poll` is the only way in (`poll` is the same for a caller that can await), and `_continue_poll` is
the whole way of a poll, from top to bottom. Polls wait until a turn of the event loop takes them in (`poll_turns`).
Their reports go into the log (`reports`). Then they are held until there is news (`long_polls`).

Only the leader answers polls, and all that it keeps about them is memory: the agent's next poll says again what must
not be lost.

**Why a live attempt that a poll does not mention is truly missing.** An agent writes a poll in one step from all it
holds: every fence up to `seen` that it was ever sent is in `running`, in `queued`, in `ends`, or has had its end
answered with a verdict. A verdict is given only after the report is committed, and from then on the attempt is not
live; a fence never becomes live again. Fences are given in log order and answers list those above `seen` in order,
from the first on, so none below `seen` can be still on its way. Hence a fence that is live, at most `seen`, and not
mentioned was dropped by the agent, whichever poll says so and however late it arrives. A leader that was replaced
without knowing may have an old idea of what is live, but its proposal does not commit, and `apply` checks again
whether the fence is live.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from raftflow.coordinator.commit.submitter import BusyError, OutcomeUnknownError
from raftflow.coordinator.placement.agent_stats import AgentStats
from raftflow.coordinator.placement.usage import UsageStore
from raftflow.coordinator.sessions.agent_session import Poll, PollOutcome
from raftflow.coordinator.sessions.agent_sessions import AgentSessions
from raftflow.coordinator.sessions.confirmations import LeaderConfirmations
from raftflow.coordinator.sessions.instructions import holds_unknown, instructions_for, missing_fences
from raftflow.coordinator.sessions.log_relay import LogRelay
from raftflow.coordinator.sessions.long_polls import LongPolls
from raftflow.coordinator.sessions.poll_turns import PollTurns
from raftflow.coordinator.sessions.reports import Reports
from raftflow.domain.commands import DrainAgent, RemoveAgent
from raftflow.domain.contract.views import PollResponse
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.states import AgentState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from typing import Any

    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.coordinator.leader.leader_loop import LeaderLoop
    from raftflow.coordinator.sessions.agent_session import AgentSession
    from raftflow.domain.contract.views import AgentLoad, PollRequest, RegisterRequest
    from raftflow.machine.machine import Machine
    from raftflow.machine.rows import AgentRow

PLACING_WAIT_S = 0.05
"""How long the answer to a report waits for the placement that follows it."""
REPEAT_S = 1.0
"""How often an order is repeated to an agent that has not carried it out yet."""


class PollService:
    """Answers the polls of all agents.

    Args:
        barrier: confirms that this replica leads and has applied all that is committed; raises if it does not.
        held_max: how many polls may be held at one time.
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
        """What running attempts use, as their agents reported."""
        self._machine = machine
        self._submitter = submitter
        self._leader = leader
        self._liveness = leader.liveness
        self._clock = clock
        self._barrier = barrier
        self._lease_ms = lease_ms
        self._poll_wait_s = poll_wait_ms / 1000
        self._long_polls = LongPolls(held_max, self._continue_poll)
        self._reports = Reports(
            machine=machine, submitter=submitter, leader=leader, clock=clock, agent_stats=self.agent_stats
        )
        self._sessions = AgentSessions()
        self._turns = PollTurns(self._continue_poll, self._sessions.polls_of, lambda: leader.placing)
        self._tasks: set[asyncio.Task[None]] = set()
        self._confirmations = LeaderConfirmations(leader.liveness.pauses, barrier, self._look_again)
        self._closing = False
        """Every poll is answered at once, before a planned stop."""

    # --- what others ask

    @property
    def held(self) -> int:
        """Polls that are waiting for news."""
        return self._long_polls.count

    def process_info(self, agent: str) -> tuple[int | None, str, AgentLoad | None]:
        """Return (pid, version, load) as the agent last told this leader."""
        session = self._sessions.get(agent)
        return (None, "", None) if session is None else (session.pid, session.version, session.load)

    def clock_skew_ms(self, agent: str) -> int | None:
        """Return how far the clock of an agent was ahead when it registered with this leader, None if unknown."""
        session = self._sessions.get(agent)
        return None if session is None else session.clock_skew_ms

    def delivered_s(self, agent: str, fence: int) -> float | None:
        """Return when an agent was sent an attempt, on the loop's clock.

        It is -inf if that was long ago or before this replica led, None if it was not sent yet, or the agent has not
        been heard in this term.
        """
        session = self._sessions.get(agent)
        return None if session is None else session.delivered_s(fence)

    def note_registration(self, request: RegisterRequest, incarnation: int, clock_skew_ms: int | None = None) -> None:
        """Note a registration that was accepted."""
        session = self._session_of(request.name, incarnation)
        session.pid, session.version, session.clock_skew_ms = request.pid, request.version, clock_skew_ms
        self._liveness.note_contact(request.name)

    def step_down(self) -> None:
        """End every held poll with an error: this replica no longer leads."""
        self.relay.fail_all("the leader changed meanwhile; ask again")
        self.usage.clear()
        self.agent_stats.clear()
        for agent in self._sessions:
            self.wake(agent)
        self._sessions.forget_idle()

    def close(self) -> None:
        """Answer every held poll now and new polls at once, before a planned stop."""
        self._closing = True
        for agent in self._sessions:
            self.wake(agent)

    # --- the door

    async def poll(self, name: str, request: PollRequest) -> PollResponse | Rejection:
        """Take an agent's poll in and return the answer, perhaps after holding it.

        Returns a `Rejection` (`NOT_FOUND`, `STALE_INCARNATION`) if the agent must register first. Raises
        `ProposeError`s.
        """
        answer: asyncio.Future[PollResponse | Rejection] = asyncio.get_running_loop().create_future()
        poll = self.ingest_poll(name, request, partial(_resolve, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self._abandon(poll)
            raise

    def ingest_poll(self, name: str, request: PollRequest, on_answer: Callable[[PollOutcome], None]) -> Poll:
        """Take an agent's poll in. `on_answer` is called once, later, with what `poll` would return or raise.

        Nearly all polls need no task. Thousands are held at a time, and a task, a timeout and an event for each would
        cost more than the poll itself.
        """
        poll = Poll(name, request, on_answer)
        self._turns.add(poll)
        return poll

    def wake(self, agent: str) -> None:
        """Look again, in one of the next turns of the loop, whether there is news for an agent."""
        known = self._machine.tables.agents.get(agent)
        if known is None or not known.present:
            self.usage.forget(agent)
            self.agent_stats.forget(agent)
        if agent in self._sessions:
            self._turns.wake(agent)

    # --- the way of a poll

    def _continue_poll(self, poll: Poll) -> None:
        """Take a poll as far as it goes now. This is the way of every poll, from top to bottom.

        No line here awaits. A poll that has to wait stays at its step and this returns. It is called again by what
        the poll waits for: the log's reply to its report, an `async` function that ends (`_run`), and while the poll
        is held `wake` and the poll's timer. Each step returns False if the poll has to wait or has its answer.
        """
        try:
            if poll.step == "admit" and not self._admit_agent(poll):
                return
            if poll.step == "report" and not self._send_report(poll):
                return
            if poll.step == "read verdicts" and not self._read_verdicts(poll):
                return
            if poll.step == "begin to hold":
                self._begin_to_hold(poll)
            if poll.step == "answer":
                self._answer_or_hold(poll)
        except asyncio.CancelledError:  # the reply's: nobody else can cancel here
            self._answer(poll, OutcomeUnknownError("the replica is stopping"))
        except Exception as error:
            if poll.step == "done":  # it comes from `on_answer`
                raise
            self._answer(poll, error)

    def _run(self, poll: Poll, work: Coroutine[Any, Any, None]) -> None:
        """Do something for a poll that has to await, then continue the poll."""
        task = asyncio.get_running_loop().create_task(self._await_and_continue(poll, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _await_and_continue(self, poll: Poll, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            self._answer(poll, OutcomeUnknownError("the replica is stopping"))
            raise
        except Exception as error:  # noqa: BLE001 - handed on, not swallowed
            self._answer(poll, error)
        else:
            self._continue_poll(poll)

    def _answer(self, poll: Poll, outcome: PollOutcome) -> None:
        """Give a poll its outcome, once."""
        if poll.step == "done":
            return
        if poll.step == "answer":
            self._long_polls.release(poll)
        poll.step = "done"
        if poll.on_answer is not None:
            poll.on_answer(outcome)

    def _abandon(self, poll: Poll) -> None:
        """Note that nobody waits for the answer to a poll. Its report goes into the log even so."""
        poll.on_answer = None
        if poll.step == "answer":
            self._long_polls.release(poll)
            poll.step = "done"

    # --- admit

    def _admit_agent(self, poll: Poll) -> bool:
        """Admit a poll if its agent is certainly registered and is not being given up; else find out."""
        request = poll.request
        agent = self._machine.tables.agents.get(poll.name)
        if (
            agent is None
            or agent.incarnation != request.incarnation
            or not agent.present
            or not self._leader.leading
            or (poll.name, request.incarnation) in self._liveness.removals
        ):
            self._run(poll, self._confirm_agent(poll))
            return False
        poll.agent = agent
        poll.step = "report"
        return True

    async def _confirm_agent(self, poll: Poll) -> None:
        """Admit the poll of an agent that is registered after all; refuse that of another."""
        self._require_leading()
        agent = await self._find_agent(poll.name, poll.request)
        if isinstance(agent, Rejection):
            # The ends go into the log even so, for the refusal must be in the audit.
            refused = await self._reports.send_report(poll.name, poll.request, ()) if poll.request.ends else []
            self._answer(poll, refused if isinstance(refused, Rejection) else agent)
        else:
            poll.agent = agent
            poll.step = "report"

    async def _find_agent(self, name: str, request: PollRequest) -> AgentRow | Rejection:
        agent = self._machine.tables.agents.get(name)
        if agent is None or request.incarnation > agent.incarnation:
            # Perhaps another replica leads, and the agent knows it already.
            await self._barrier()
            agent = self._machine.tables.agents.get(name)
        if await self._liveness.removals.wait_settled(name, request.incarnation):
            self._require_leading()
            agent = self._machine.tables.agents.get(name)
        if agent is None:
            return Rejection(RejectionCode.NOT_FOUND, f"there is no agent {name!r}; it must register first")
        if agent.incarnation != request.incarnation or not agent.present:
            return Rejection(
                RejectionCode.STALE_INCARNATION,
                f"incarnation {request.incarnation} of agent {name} is over (the present one is {agent.incarnation}, "
                f"{agent.state}); stop its attempts and register again",
            )
        return agent

    def _require_leading(self) -> None:
        if not self._leader.leading:
            raise self._submitter.no_leader_error()

    # --- report

    def _send_report(self, poll: Poll) -> bool:
        """Note what a poll says and propose its report, if it has one. Raises `BusyError`."""
        poll.session = self._note_poll(poll)
        reply = self._reports.propose_report(poll.name, poll.request, missing_fences(poll.agent, poll.request))
        if isinstance(reply, Rejection):
            self._answer(poll, reply)
            return False
        poll.step = "read verdicts"
        if reply is None:
            return True
        poll.reply = reply
        reply.add_done_callback(lambda _: self._continue_poll(poll))
        return False

    def _note_poll(self, poll: Poll) -> AgentSession:
        """Take note of all that a poll says except its report. Raises `BusyError`."""
        name, request = poll.name, poll.request
        session = self._session_of(name, request.incarnation)
        if request.load is not None:
            session.load = request.load
            self.agent_stats.note_load(name, request.load)
        self._liveness.note_contact(name)
        session.note_seen(request.seen)
        if request.logs:
            self.relay.deliver(name, request.logs)
        if request.usage or self.usage.of_agent(name):
            self.usage.note_usage(name, request.running, request.usage, asyncio.get_running_loop().time())
        if request.seq > session.seq:
            session.seq = request.seq
            self._liveness.note_trouble(name, request.trouble)
            self._overtake_polls(session)
        return session

    def _session_of(self, name: str, incarnation: int) -> AgentSession:
        session = self._sessions.get(name)
        if session is None or session.incarnation < incarnation:
            if session is not None:
                self._overtake_polls(session)
            self.usage.forget(name)
            session = self._sessions.begin(name, incarnation)
        return session

    def _overtake_polls(self, session: AgentSession) -> None:
        """Have older polls answered soon. The newer one is told of news first."""
        for older in session.polls.values():
            asyncio.get_running_loop().call_soon(self._continue_poll, older)

    # --- read verdicts

    def _read_verdicts(self, poll: Poll) -> bool:
        """Read the log's reply to the report, then begin what else the poll asks for."""
        agent, request = poll.agent, poll.request
        if poll.reply is not None:
            verdicts = self._reports.read_verdicts(poll.name, request, poll.reply.result())
            if isinstance(verdicts, Rejection):
                self._answer(poll, verdicts)
                return False
            poll.verdicts = verdicts
        poll.step = "begin to hold"
        if request.goodbye or request.leaving or holds_unknown(agent, request):
            self._run(poll, self._do_requests(poll))
            return False
        return True

    async def _do_requests(self, poll: Poll) -> None:
        """Do what a poll asks for, before it is held."""
        agent, request = poll.agent, poll.request
        if request.goodbye:
            self._answer(poll, await self._say_goodbye(poll))
            return
        if request.leaving and agent.state is not AgentState.DRAINING:
            await self._submitter.propose(
                DrainAgent(at_ms=self._clock.now_ms(), actor=f"agent:{agent.name}", name=agent.name, leaving=True)
            )
        if holds_unknown(agent, request):
            # What the agent holds and this replica does not know must be over for certain before the agent is told
            # to stop it.
            await self._barrier()

    async def _say_goodbye(self, poll: Poll) -> PollResponse | Rejection:
        reply = await self._submitter.propose(
            RemoveAgent(
                at_ms=self._clock.now_ms(),
                actor=f"agent:{poll.name}",
                name=poll.name,
                incarnation=poll.request.incarnation,
                reason="left",
            )
        )
        if isinstance(reply, Rejection):
            return reply
        self._sessions.forget(poll.name)
        self.usage.forget(poll.name)
        return PollResponse(lease_ms=self._lease_ms, verdicts=poll.verdicts, draining=True)

    # --- hold and answer

    def _begin_to_hold(self, poll: Poll) -> None:
        """Decide for how long a poll may be held, and note it in its agent's session."""
        if poll.on_answer is None:  # nobody waits for the answer any more
            poll.step = "done"
            return
        request = poll.request
        wait_s = PLACING_WAIT_S if poll.verdicts else min(request.wait_ms / 1000, self._poll_wait_s)
        poll.until_s = asyncio.get_running_loop().time() + wait_s
        if poll.verdicts:
            # A report freed room or made tasks ready: if a placement is on its way, it will be in this answer.
            poll.placing = self._leader.when_placed(partial(self._end_placing, poll))
        twin = poll.session.polls.get(request.seq)
        if twin is not None:  # the same poll twice: the first copy is answered now
            asyncio.get_running_loop().call_soon(self._continue_poll, twin)
        poll.session.polls[request.seq] = poll
        poll.step = "answer"

    def _end_placing(self, poll: Poll) -> None:
        poll.placing = False
        self.wake(poll.name)

    def _answer_or_hold(self, poll: Poll) -> None:
        """Answer a poll if there is a reason to, else hold it. Raises `BusyError`."""
        if not self._leader.leading:
            raise self._submitter.no_leader_error()
        name, session, request = poll.name, poll.session, poll.request
        agent = self._machine.tables.agents.get(name)
        if agent is None or agent.incarnation != request.incarnation or not agent.present:
            self._long_polls.release(poll)
            poll.step = "refuse"
            self._run(poll, self._refuse_removed(poll))
            return
        told = instructions_for(self._machine, agent, request)
        assign, stop, release, draining = told
        now_s = asyncio.get_running_loop().time()
        until_s = min(poll.until_s, session.answered_s + REPEAT_S) if stop or release else poll.until_s
        if not (
            assign
            or (poll.verdicts and not poll.placing)
            or session.seq > request.seq
            or session.polls.get(request.seq) is not poll
            or self._closing
            or now_s >= until_s
            or draining != session.draining_sent
            or not session.orders_sent.issuperset(stop)
            or not session.orders_sent.issuperset(release)
            or self.relay.has_unsent(name)
        ):
            if self._long_polls.has_room(poll):
                self._long_polls.hold(poll, until_s)
                return
            if not poll.verdicts:
                held = self._long_polls.count
                raise BusyError(f"{held} polls are held already; that is the limit")
        if self._liveness.pauses.was_paused(now_s):
            self._confirmations.ask(poll)
            self._long_polls.hold(poll, now_s + REPEAT_S)
            return
        session.note_answer(told, now_s)
        self._answer(
            poll,
            PollResponse(
                lease_ms=self._lease_ms,
                verdicts=poll.verdicts,
                assign=assign,
                stop=stop,
                release=release,
                logs=self.relay.pending_requests(name),
                draining=draining,
                feature_level=self._machine.tables.feature_level,
            ),
        )

    def _look_again(self, poll: Poll) -> None:
        """Continue a poll, in one of the next turns if its agent has no newer copy of it."""
        if poll.session.polls.get(poll.request.seq) is poll:
            self.wake(poll.name)
        else:
            self._continue_poll(poll)

    async def _refuse_removed(self, poll: Poll) -> None:
        """Refuse the poll of an agent that was removed while its poll was held."""
        agent = await self._find_agent(poll.name, poll.request)
        if not isinstance(agent, Rejection):
            agent = Rejection(RejectionCode.STALE_INCARNATION, f"agent {poll.name} was removed; register again")
        self._answer(poll, agent)


def _resolve(answer: asyncio.Future[PollResponse | Rejection], outcome: PollOutcome) -> None:
    if answer.done():  # the caller has gone away
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
