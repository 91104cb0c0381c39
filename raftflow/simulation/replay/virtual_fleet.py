"""Virtual agents: when attempts end, when agents fail and return, and what all that adds up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from random import Random
from typing import Literal

import msgspec

from raftflow.domain.commands import AttemptEnd, RegisterAgent, RemoveAgent, ReportAttempts
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.scheduler.plan.plan import MILLI, PlanAgent

HOUR_MS = 3_600_000
LEASE_MS = 10_000
"""From the failure of an agent to the moment in which the coordinator gives up on it."""
REPAIR_MS = 300_000
"""From the failure of an agent to its return."""
END, FAIL, LOST, RETURN = range(4)

Happening = tuple[int, int, int, int, int]
"""When (ms), kind, number of the agent, life of the agent, fence."""


class VirtualAttempt(msgspec.Struct, gc=False, array_like=True):
    """A live attempt on a virtual agent."""

    workflow_id: str
    task_id: str
    start_ms: int
    demand: tuple[tuple[str, int], ...]


class Virtual:
    """One agent."""

    __slots__ = ("agent", "alive", "busy_ms", "fails_per_hour", "given_ms", "incarnation", "life", "running")

    def __init__(self, agent: PlanAgent, fails_per_hour: float) -> None:
        self.agent = agent
        self.fails_per_hour = fails_per_hour
        self.alive = True
        self.life = 1
        """Grows with every return."""
        self.incarnation = 0
        self.running: dict[int, VirtualAttempt] = {}
        self.busy_ms = 0
        """Sum of the run times of its attempts, lost ones included."""
        self.given_ms = 0
        """The same with what is to come of those that run."""


class VirtualFleet:
    """All agents, and everything that will happen to them."""

    def __init__(
        self, agents: Sequence[PlanAgent], fails_per_hour: Sequence[float], seed: int, repair_ms: int = REPAIR_MS
    ) -> None:
        self.agents = [Virtual(agent, rate) for agent, rate in zip(agents, fails_per_hour, strict=True)]
        self.number = {agent.name: number for number, agent in enumerate(agents)}
        self._rng = Random(seed)  # noqa: S311 - a simulation repeats the same failures
        self._repair_ms = max(repair_ms, LEASE_MS)
        self._happenings: list[Happening] = []
        self.used: dict[str, int] = {}
        """Resource to demand times ms, of attempts that succeeded."""
        self.cost_micro = 0
        self.failures = 0
        self.attempts_lost = 0
        self.wasted_ms = 0
        for number in range(len(self.agents)):
            self._draw_failure(number, 0)

    def next_ms(self) -> int | None:
        """Return when something happens next, None if nothing will."""
        return self._happenings[0][0] if self._happenings else None

    def registrations(self, now_ms: int) -> list[RegisterAgent]:
        """Return what all agents say when they come up first."""
        return [_register(virtual, now_ms) for virtual in self.agents]

    def start(self, fence: int, number: int, work: VirtualAttempt, expected_ms: int) -> None:
        """Begin an attempt. One on an agent that has failed, though nobody knows yet, never ends."""
        virtual = self.agents[number]
        if not virtual.alive:
            self.attempts_lost += 1
            return
        virtual.running[fence] = work
        lasts_ms = -(-expected_ms * MILLI // virtual.agent.speed_milli)
        virtual.given_ms += lasts_ms
        heappush(self._happenings, (work.start_ms + lasts_ms, END, number, virtual.life, fence))

    def advance(self, until_ms: int) -> list[RegisterAgent | RemoveAgent | ReportAttempts]:
        """Let everything up to a moment happen, and return what the coordinator hears, in order."""
        commands: list[RegisterAgent | RemoveAgent | ReportAttempts] = []
        ends: dict[int, list[AttemptEnd]] = {}
        happenings = self._happenings
        while happenings and happenings[0][0] <= until_ms:
            at_ms, kind, number, life, fence = heappop(happenings)
            virtual = self.agents[number]
            if life != virtual.life:
                continue
            if kind == END:
                if virtual.alive:
                    ends.setdefault(number, []).append(self._end(virtual, fence, at_ms))
            elif kind == FAIL:
                # What it finished before in this stretch of time was reported in its last moment.
                self._report(commands, ends, number, at_ms)
                self._fail(virtual, number, at_ms)
            elif kind == LOST:
                commands.append(_removal(virtual, at_ms, "lost"))
            else:
                virtual.life += 1
                virtual.alive = True
                commands.append(_register(virtual, at_ms))
                self._draw_failure(number, at_ms)
        for number in list(ends):
            self._report(commands, ends, number, until_ms)
        return commands

    def registered(self, name: str, incarnation: int) -> None:
        """Take an agent's incarnation, with which it reports from now on."""
        self.agents[self.number[name]].incarnation = incarnation

    def _end(self, virtual: Virtual, fence: int, at_ms: int) -> AttemptEnd:
        work = virtual.running.pop(fence)
        lasted_ms = at_ms - work.start_ms
        self._count(virtual, lasted_ms)
        for name, amount in work.demand:
            self.used[name] = self.used.get(name, 0) + amount * lasted_ms
        return AttemptEnd(fence, work.workflow_id, work.task_id, AttemptOutcome.SUCCEEDED, 0, "", b"", lasted_ms)

    def _report(
        self, commands: list[RegisterAgent | RemoveAgent | ReportAttempts], ends: dict[int, list[AttemptEnd]],
        number: int, at_ms: int,
    ) -> None:  # fmt: skip
        mine = ends.pop(number, None)
        if mine:
            virtual = self.agents[number]
            name = virtual.agent.name
            report = ReportAttempts(
                at_ms=at_ms, actor=f"agent:{name}", agent=name, incarnation=virtual.incarnation, ends=tuple(mine)
            )
            commands.append(report)

    def _fail(self, virtual: Virtual, number: int, at_ms: int) -> None:
        virtual.alive = False
        self.failures += 1
        self.attempts_lost += len(virtual.running)
        for work in virtual.running.values():
            self._count(virtual, at_ms - work.start_ms)
            self.wasted_ms += at_ms - work.start_ms
        virtual.running.clear()
        heappush(self._happenings, (at_ms + LEASE_MS, LOST, number, virtual.life, 0))
        heappush(self._happenings, (at_ms + self._repair_ms, RETURN, number, virtual.life, 0))

    def _count(self, virtual: Virtual, lasted_ms: int) -> None:
        virtual.busy_ms += lasted_ms
        self.cost_micro += lasted_ms * virtual.agent.cost_rate_milli

    def _draw_failure(self, number: int, now_ms: int) -> None:
        rate = self.agents[number].fails_per_hour
        if rate > 0:
            at_ms = now_ms + max(1, round(self._rng.expovariate(rate) * HOUR_MS))
            heappush(self._happenings, (at_ms, FAIL, number, self.agents[number].life, 0))


def rates_of(agents: Sequence[PlanAgent], rates: Mapping[str, float], default: float) -> list[float]:
    """Return each agent's failures per hour."""
    return [rates.get(agent.name, default) for agent in agents]


def _register(virtual: Virtual, at_ms: int) -> RegisterAgent:
    agent = virtual.agent
    return RegisterAgent(
        at_ms=at_ms,
        actor=f"agent:{agent.name}",
        name=agent.name,
        instance=f"{agent.name}/{virtual.life}",
        capacity=agent.capacity,
        labels=agent.labels,
    )


def _removal(virtual: Virtual, at_ms: int, reason: Literal["lost"]) -> RemoveAgent:
    return RemoveAgent(
        at_ms=at_ms,
        actor="leader:sim",
        name=virtual.agent.name,
        incarnation=virtual.incarnation,
        reason=reason,
    )
