"""Agents register here, and offer what they had finished before they were given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from raftflow.coordinator.commit.pending_jobs import PendingJobs, of_agent
from raftflow.coordinator.commit.submitter import Submitter
from raftflow.coordinator.leader.leader_loop import LeaderLoop
from raftflow.coordinator.sessions.ends import attempt_end, verdicts_of
from raftflow.domain.commands import AttemptEnd, OfferEnds, RegisterAgent, RemoveAgent
from raftflow.domain.contract.views import RegisterRequest, ReportedEnd, ReportVerdict
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import AgentAccepted, AnyReply, Reported
from raftflow.machine.machine import Machine


class Registration:
    """Registers agents on the leader."""

    def __init__(
        self, *, machine: Machine, submitter: Submitter, leader: LeaderLoop, pending_jobs: PendingJobs
    ) -> None:
        self._machine = machine
        self._submitter = submitter
        self._leader = leader
        self._pending_jobs = pending_jobs
        self._under_way = 0
        """Registrations with offers that have no reply yet."""

    def command(
        self, request: RegisterRequest, capacity: dict[str, int], *, at_ms: int, request_id: str = ""
    ) -> RegisterAgent:
        """Make the command for a registration."""
        return RegisterAgent(
            at_ms=at_ms,
            actor=f"agent:{request.name}",
            request_id=request_id,
            name=request.name,
            instance=request.instance,
            capacity=capacity,
            labels=request.labels,
            prefetch=request.prefetch,
            home=request.home,
        )

    async def register(
        self, command: RegisterAgent, offers: Sequence[ReportedEnd]
    ) -> tuple[AgentAccepted | Rejection, list[ReportVerdict]]:
        """Register an agent. Returns the reply, and a verdict for each success that it offers.

        Lost tasks are placed again as soon as the agent has room for them. So its offers are in the same entry as the
        registration, before anything can be placed, under the incarnation that it will get.
        Raises `ProposeError`s.
        """
        if not self._leader.leading:
            raise self._submitter.no_leader_error()
        reply, verdicts = await self._register_once(command, offers)
        if isinstance(reply, Rejection) and reply.code is RejectionCode.PENDING:
            await self._make_room(command)
            reply, verdicts = await self._register_once(command, offers)
        return reply, verdicts

    async def _make_room(self, command: RegisterAgent) -> None:
        """Wait until all attempts of the former agent of that name have ended. Remove it first if it is present."""
        former = self._machine.tables.agents.get(command.name)
        if former is not None and former.present:
            removal = RemoveAgent(
                at_ms=command.at_ms,
                actor=command.actor,
                name=former.name,
                incarnation=former.incarnation,
                reason="lost",
            )
            await self._submitter.propose(removal)
        await self._pending_jobs.wait(of_agent(command.name))

    async def _register_once(
        self, command: RegisterAgent, offers: Sequence[ReportedEnd]
    ) -> tuple[AgentAccepted | Rejection, list[ReportVerdict]]:
        if not offers:
            return _accepted(await self._submitter.propose(command, bounded=True)), []
        ends = tuple(map(attempt_end, offers))
        registered = self._submitter.enqueue(command, bounded=True)
        if isinstance(registered, Rejection):
            return registered, []
        self._under_way += 1
        expected = self._machine.tables.incarnation + self._under_way
        offered = self._submitter.enqueue(_offer(command, expected, ends))
        try:
            if isinstance(offered, Rejection):
                return _accepted(await registered), []
            reply, verdicts = await asyncio.gather(registered, offered)
        finally:
            self._under_way -= 1
        accepted = _accepted(reply)
        if isinstance(accepted, Rejection):
            return accepted, []
        if isinstance(verdicts, Rejection) and accepted.incarnation != expected:
            # Other registrations came in between; now the incarnation is known.
            verdicts = await self._submitter.propose(_offer(command, accepted.incarnation, ends))
        return accepted, verdicts_of(verdicts.verdicts) if isinstance(verdicts, Reported) else []


def _offer(command: RegisterAgent, incarnation: int, ends: tuple[AttemptEnd, ...]) -> OfferEnds:
    return OfferEnds(at_ms=command.at_ms, actor=command.actor, agent=command.name, incarnation=incarnation, ends=ends)


def _accepted(reply: AnyReply) -> AgentAccepted | Rejection:
    assert isinstance(reply, AgentAccepted | Rejection)  # noqa: S101 - the machine's contract
    return reply
