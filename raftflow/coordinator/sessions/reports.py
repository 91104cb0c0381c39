"""Reports of agents: into the log, and back as verdicts."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raftflow.coordinator.placement.agent_stats import MEASURED_MIN_MS
from raftflow.coordinator.sessions.ends import report, verdicts_of
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import Reported
from raftflow.machine.read import queries
from raftflow.machine.read.running import SAMPLES_MIN

if TYPE_CHECKING:
    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.coordinator.leader.leader_loop import LeaderLoop
    from raftflow.coordinator.placement.agent_stats import AgentStats
    from raftflow.domain.contract.views import PollRequest, ReportedEnd, ReportVerdict
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine

_log = logging.getLogger(__name__)


class Reports:
    """Puts ends and missing attempts of polls into the log. Only the leader uses it."""

    def __init__(
        self, *, machine: Machine, submitter: Submitter, leader: LeaderLoop, clock: WallClock, agent_stats: AgentStats
    ) -> None:
        self._machine = machine
        self._submitter = submitter
        self._leader = leader
        self._clock = clock
        self._agent_stats = agent_stats

    def propose_report(
        self, name: str, request: PollRequest, missing: tuple[int, ...]
    ) -> asyncio.Future[AnyReply] | Rejection | None:
        """Propose ends and missing attempts, None without any. Raises `ProposeError`s."""
        if not request.ends and not missing:
            return None
        if missing:
            _log.warning("agent %s does not hold attempts that it was sent: %s", name, missing[:20])
        queued = self._submitter.enqueue(report(name, request, missing, at_ms=self._clock.now_ms()))
        if not isinstance(queued, Rejection):
            self._leader.place_speculatively(name, request.ends)
            self._measure(name, request.ends)
        return queued

    async def send_report(
        self, name: str, request: PollRequest, missing: tuple[int, ...]
    ) -> list[ReportVerdict] | Rejection:
        """Propose ends and missing attempts, if there are any, and wait for the verdicts."""
        queued = self.propose_report(name, request, missing)
        if queued is None or isinstance(queued, Rejection):
            return queued or []
        return self.read_verdicts(name, request, await queued)

    def read_verdicts(self, name: str, request: PollRequest, reply: AnyReply) -> list[ReportVerdict] | Rejection:
        """Return the verdicts of a report, given the log's reply."""
        if isinstance(reply, Rejection):
            return reply
        assert isinstance(reply, Reported)  # noqa: S101 - the machine's contract
        if any(end.outcome == "succeeded" for end in request.ends):
            self._leader.liveness.status.note_success(name)
        return verdicts_of(reply.verdicts)

    def _measure(self, name: str, ends: list[ReportedEnd]) -> None:
        """Note how fast the agent was with attempts of known kinds."""
        for end in ends:
            if end.duration_ms >= MEASURED_MIN_MS and end.outcome == "succeeded":
                agent = self._machine.tables.agents.get(name)
                found = None if agent is None else agent.live.get(end.fence)
                if found is None:
                    continue
                known = queries.kind_estimate(self._machine, found[0].id, found[1].position)
                if known is not None and known.count >= SAMPLES_MIN:
                    self._agent_stats.note_duration(name, known.mean_ms, end.duration_ms)
