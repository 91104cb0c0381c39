"""A wall clock that a test moves, and a replica without its HTTP face."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.replica_config import CoordinatorConfig, Limits, MemberConfig, Timing
from raftflow.coordinator.replica import Replica
from raftflow.domain.commands import DrainAgent, RegisterAgent, RemoveAgent, ResumeAgent, SubmitWorkflow
from raftflow.domain.contract.views import PollRequest, PollResponse, ReportedEnd
from raftflow.domain.features import LEVEL
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.replication.memory import MemoryLog
from raftflow.replication.real_files import RealFileSystem
from tests.coordinator.audit_history import History


class FakeClock:
    """A wall clock that stands still until it is moved; time goes on, and ahead with it."""

    def __init__(self, ms: int = 1_700_000_000_000) -> None:
        self.ms = self._first_ms = ms

    def now_ms(self) -> int:
        return self.ms

    def running_s(self) -> float:
        return max(self.ms - self._first_ms, 0) / 1000 + time.monotonic()


class Bench:
    """A replica on a log in memory, driven directly."""

    def __init__(self, directory: Path, timing: Timing, limits: Limits, *, leads: bool, level: int = LEVEL) -> None:
        self.fs = RealFileSystem()
        self.clock = FakeClock()
        self.fs.make_dir(directory / "audit")
        member = MemberConfig("n1", Address("127.0.0.1", 1), "http://127.0.0.1:2")
        config = CoordinatorConfig(
            cluster_id="test",
            secret=b"",
            members=(member,),
            name="n1",
            data_dir=directory,
            bind=Address("127.0.0.1", 0),
            peer_bind=member.peer,
            timing=timing,
            limits=limits,
        )
        self.log: Any = None

        def make_log(machine: Any, _audit: Any) -> Any:
            self.log = MemoryLog(machine, name="n1", leads=leads)
            return self.log

        self.replica = Replica(config, make_log, self.fs, clock=self.clock, level=level)
        self.machine = self.replica.machine
        self.poll_service = self.replica.poll_service
        self.sent = 0

    async def register(self, name: str = "a1", *, cpu: int = 1, prefetch: int = 0, instance: str = "i" * 8) -> int:
        reply: Any = await self.replica.propose(
            self.registration(name, cpu=cpu, prefetch=prefetch, instance=instance)
        )
        return int(reply.incarnation)

    def registration(
        self, name: str = "a1", *, cpu: int = 1, prefetch: int = 0, instance: str = "i" * 8
    ) -> RegisterAgent:
        """Make the command that registers an agent."""
        return RegisterAgent(
            at_ms=self.clock.ms,
            actor=f"agent:{name}",
            name=name,
            instance=instance,
            capacity={"cpu": cpu * 1000},
            prefetch=prefetch,
            home=f"home of {name}",
        )

    async def submit(self, *tasks: str, max_parallel: int | None = None, priority: int = 50, **fields: Any) -> str:
        """Submit tasks written `id` or `id<need`."""
        self.sent += 1
        specs = []
        for text in tasks:
            task, _, need = text.partition("<")
            specs.append(TaskSpec(id=task, needs=(need,) if need else (), program=CommandLine(("true",)), **fields))
        workflow_id = f"wf-{self.sent}"
        reply: Any = await self.replica.propose(
            SubmitWorkflow(
                at_ms=self.clock.ms,
                actor="client:test",
                workflow_id=workflow_id,
                spec=WorkflowSpec(name="w", tasks=tuple(specs), max_parallel=max_parallel, priority=priority),
            )
        )
        return str(reply.workflow_id)

    def control(self, name: str, action: Any) -> DrainAgent | ResumeAgent:
        """Make the command that drains an agent until it is gone, or resumes it."""
        if action == "drain":
            return DrainAgent(at_ms=self.clock.ms, actor=f"agent:{name}", name=name, leaving=True)
        return ResumeAgent(at_ms=self.clock.ms, actor="client:test", name=name)

    def removal(self, name: str, incarnation: int) -> RemoveAgent:
        return RemoveAgent(at_ms=self.clock.ms, actor="leader:n1", name=name, incarnation=incarnation, reason="lost")

    async def poll(self, incarnation: int, seq: int, *, name: str = "a1", **fields: Any) -> Any:
        return await self.poll_service.poll(name, PollRequest(incarnation=incarnation, seq=seq, **fields))

    async def work(self, incarnation: int, seq: int, **fields: Any) -> PollResponse:
        """Poll for up to a second."""
        answer = await self.poll(incarnation, seq, wait_ms=1000, **fields)
        assert isinstance(answer, PollResponse), answer
        return answer

    @staticmethod
    def end(fence: int, workflow_id: str, task: str, outcome: Any = "succeeded", **fields: Any) -> ReportedEnd:
        return ReportedEnd(fence=fence, workflow_id=workflow_id, task_id=task, outcome=outcome, **fields)

    async def until(self, true: Callable[[], Any], timeout_s: float = 30.0) -> None:
        """Wait for something that no event announces."""
        async with asyncio.timeout(timeout_s):
            while not true():  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.002)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start replicas; all are stopped at the end, and none may have failed."""
    started: list[Bench] = []

    async def start(*, leads: bool = True, limits: Limits | None = None, level: int = LEVEL, **timing: int) -> Bench:
        chosen = Timing(**{"lease_ms": 5_000, "poll_wait_ms": 1_000, **timing})
        one = Bench(tmp_path / str(len(started)), chosen, limits or Limits(), leads=leads, level=level)
        started.append(one)
        await one.replica.start()
        if leads:
            await one.until(lambda: one.machine.state.feature_level == level)
        return one

    yield start
    for one in started:
        await one.replica.stop()
        one.fs.close()


@pytest.fixture
def fs() -> Iterator[RealFileSystem]:
    real = RealFileSystem()
    yield real
    real.close()


@pytest.fixture
def history() -> History:
    made = History()
    made.grow(20)
    return made
