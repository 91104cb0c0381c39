"""What the replicas of a cluster told: plain data, the input of every check."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from raftflow.domain.contract.views import AgentView, HostView, MemberView, ReplicaStatus


class ClockSample(msgspec.Struct, kw_only=True, frozen=True):
    """One reading of a replica's clocks, by this machine's clocks."""

    sent_s: float
    """When the request was sent, by the monotonic clock of this machine."""
    received_s: float
    here_ms: float
    """The monotonic clock of this machine in the middle of the exchange. Nobody can set it between two readings."""
    time_ms: int
    """What the replica's wall clock showed."""
    running_ms: int
    """What its running clock showed."""

    @property
    def round_trip_ms(self) -> float:
        """How long the exchange took: the reading is exact to half of it."""
        return (self.received_s - self.sent_s) * 1000

    @property
    def offset_ms(self) -> float:
        """How far the replica's wall clock is ahead of `here_ms`, give or take half the round trip.

        The number itself means nothing. The difference between two replicas is the difference of their clocks.
        """
        return self.time_ms - self.here_ms


class ReplicaFacts(msgspec.Struct, kw_only=True):
    """One replica, as far as it answered."""

    name: str
    """Its URL if no member is known there."""
    url: str
    voting: bool = True
    status: ReplicaStatus | None = None
    """Its last answer."""
    status_before: ReplicaStatus | None = None
    """Its first answer, some hundred milliseconds earlier."""
    host: HostView | None = None
    samples: list[ClockSample] = []
    failure: str = ""
    """Why it gave no status."""
    host_failure: str = ""
    """Why it gave a status and no facts of its machine."""
    refused: bool = False
    """It answered, and refused to answer this client."""
    too_old: bool = False
    """It does not know the question about its machine: an older version."""

    @property
    def answers(self) -> bool:
        """True if it said how it is."""
        return self.status is not None


class ClusterFacts(msgspec.Struct, kw_only=True):
    """Everything that was gathered."""

    replicas: list[ReplicaFacts]
    """The members, then other peers that were asked."""
    members: list[MemberView] = []
    """As the best informed replica knows them; empty if none told."""
    agents: list[AgentView] | None = None
    """None if nobody told them."""
    now_ms: int
    """The wall clock of this machine."""

    @property
    def leader(self) -> ReplicaFacts | None:
        """The replica that leads in the highest term, and serves."""
        leading = [
            (each.status.term, number)
            for number, each in enumerate(self.replicas)
            if each.status is not None and each.status.role == "leader" and each.status.ready
        ]
        return self.replicas[max(leading)[1]] if leading else None

    @property
    def voters(self) -> list[ReplicaFacts]:
        """The replicas that count for majorities."""
        return [each for each in self.replicas if each.voting]

    def hosts(self) -> Iterator[tuple[str, HostView]]:
        """Yield the replicas that told about their machines, with what they told."""
        for each in self.replicas:
            if each.host is not None:
                yield each.name, each.host

    def statuses(self) -> Iterator[tuple[str, ReplicaStatus]]:
        """Yield the replicas that told how they are, with what they told."""
        for each in self.replicas:
            if each.status is not None:
                yield each.name, each.status
