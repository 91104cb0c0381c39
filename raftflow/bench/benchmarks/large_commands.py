"""The longest turn of a leader's event loop while it carries out commands that move very many tasks.

A real replica in a process of its own, on a log in memory: with its leader loop, planner, polls and audit file, and
without disk and network. Its event loop notes how long each turn takes, from the return of `select` to the next call:
`turn_ms` by the clock, `turn_cpu_ms` by the CPU, which other work on the machine changes little.
Each case is measured by itself, from the command until nothing of it is left to be done.

| case | what happens to `tasks` tasks |
| --- | --- |
| cancel, retry, pause, resume, priority | a workflow without needs is controlled |
| cancel_snapshot | a cancel while a snapshot is open, which keeps what changes |
| success | the task that all others wait for succeeds |
| failure_stop, failure_continue | it fails, and what the document says happens to the others |
| pause_queued | a tenth of the tasks waits in the queues of agents, and is asked back |
| agent_lost | an agent is lost with a tenth of them running |
| steps, steps_found | a task records a tenth as many durable steps, and a later attempt finds all of them |
| steps_large | a request records as many results of 60 KiB as agents send at once |
| children, children_found | a running task spawns as many children, and asks for the same again |
| children_counted, children_parked | it looks at all of them, and parks until all have ended |
| children_cancelled | its workflow is cancelled |
| chain, chain_cancelled | a tenth as many tasks, each the child of the one before, all running, and cancelled |
| retention | finished workflows that have as many tasks are forgotten |
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import shutil
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.agent.exchange.call_channel import REQUEST_BYTES_MAX
from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.replica_config import CoordinatorConfig, Limits, MemberConfig, Timing
from raftflow.coordinator.replica import Replica
from raftflow.domain.commands import (
    ControlWorkflow,
    RegisterAgent,
    RemoveAgent,
    SetPriority,
    SubmitWorkflow,
)
from raftflow.domain.contract.views import (
    CallsRequest,
    FindChildren,
    FindStep,
    PollRequest,
    RecordStep,
    ReportedEnd,
    SpawnChildren,
)
from raftflow.domain.limits import CALLS_MAX, SPAWN_DEPTH_MAX
from raftflow.domain.rejections import Rejection
from raftflow.domain.tasks.program import PythonCall
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.helpers import spawn_context
from raftflow.replication.memory import MemoryLog
from raftflow.replication.real_files import RealFileSystem
from raftflow.sdk.children import SPAWN_TASKS

if TYPE_CHECKING:
    from raftflow.coordinator.audit.audit_file import AuditFile
    from raftflow.domain.commands import AnyCommand
    from raftflow.replication.log import ReplicatedLog, StateMachine

TASKS_MAX: Final = 100_000
CASES: Final = (
    "cancel",
    "retry",
    "pause",
    "resume",
    "priority",
    "cancel_snapshot",
    "success",
    "failure_stop",
    "failure_continue",
    "pause_queued",
    "agent_lost",
    "steps",
    "steps_found",
    "steps_large",
    "children",
    "children_found",
    "children_counted",
    "children_parked",
    "children_cancelled",
    "chain",
    "chain_cancelled",
    "retention",
)
FIGURES: Final = tuple(f"turn_{kind}_{case}" for kind in ("ms", "cpu_ms") for case in CASES)
_PREFETCH: Final = 1_000
_RETIRED_EACH: Final = 100
"""Tasks of each workflow that is forgotten."""
_LARGE_NUMBERS: Final = 8_900
"""A list of as many numbers as text has about 60 KiB."""
_LOOK_S: Final = 0.001
_LIMIT_S: Final = 300.0
_PROGRAM: Final = PythonCall("operator:add", b"[1, 1]")
_WORKFLOW: Final = "wf-1"


def measure(directory: Path, tasks: int) -> dict[str, float]:
    """Measure all cases in a new process. Returns the longest turn of each, in ms."""
    with ProcessPoolExecutor(1, spawn_context()) as pool:
        return pool.submit(_measure, directory, min(tasks, TASKS_MAX)).result(timeout=_LIMIT_S * len(CASES))


class _TimedSelector(selectors.DefaultSelector):
    """Notes the longest time between two calls: a turn of the loop, by the clock and by the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self._returned = (time.perf_counter(), time.thread_time())
        self.reset()

    def reset(self) -> None:
        """Forget the turns so far."""
        self.longest_s = self.longest_cpu_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.longest_s = max(self.longest_s, time.perf_counter() - self._returned[0])
        self.longest_cpu_s = max(self.longest_cpu_s, time.thread_time() - self._returned[1])
        found = super().select(timeout)
        self._returned = (time.perf_counter(), time.thread_time())
        return found


def _measure(directory: Path, tasks: int) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, case in _RUNS.items():
        selector = _TimedSelector()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:  # noqa: B023 - used at once
            bench = _Leader(directory / name, selector, tasks)
            figures |= runner.run(bench.run(case))
        shutil.rmtree(directory / name)
        gc.collect()
    return figures


class _Leader:
    """A replica that leads, and short ways to say what happens."""

    def __init__(self, directory: Path, selector: _TimedSelector, tasks: int) -> None:
        self.tasks = tasks
        self.share = max(tasks // 10, 1)
        self._selector = selector
        self._turns: dict[str, float] = {}
        member = MemberConfig("n1", Address("127.0.0.1", 1), "http://127.0.0.1:2")
        fs = RealFileSystem()
        fs.make_dir(directory / "audit")
        config = CoordinatorConfig(
            cluster_id="bench",
            secret=b"",
            members=(member,),
            name="n1",
            data_dir=directory,
            bind=Address("127.0.0.1", 0),
            peer_bind=member.peer,
            timing=Timing(lease_ms=600_000),
            limits=Limits(kept_workflows=1, kept_tasks=1),
        )

        def make_log(machine: StateMachine, _audit: AuditFile) -> ReplicatedLog:
            return MemoryLog(machine, name="n1")

        self.replica = Replica(config, make_log, fs)
        self.stamp = {"at_ms": self.replica.clock.now_ms(), "actor": "client:bench"}

    async def run(self, case: Callable[[_Leader], Awaitable[None]]) -> dict[str, float]:
        """Run a case and return the longest turns that it noted."""
        await self.replica.start()
        try:
            async with asyncio.timeout(_LIMIT_S):
                await case(self)
        finally:
            await self.replica.stop()
        return self._turns

    async def note(self, name: str, command: Callable[[], Awaitable[Any]]) -> None:
        """Have something done, and note the longest turn until all of it is."""
        await self._settle()
        gc.collect()
        gc.freeze()
        await asyncio.sleep(_LOOK_S)
        self._selector.reset()
        await command()
        await self._settle()
        await asyncio.sleep(0)  # ends the last turn
        self._turns[f"turn_ms_{name}"] = self._selector.longest_s * 1e3
        self._turns[f"turn_cpu_ms_{name}"] = self._selector.longest_cpu_s * 1e3

    async def _settle(self) -> None:
        """Wait until nothing is on the agenda, and the planner has taken note of it all."""
        while self.replica.machine.tables.agenda or self.replica.planner.behind or self.replica.leader.placing:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(_LOOK_S)

    async def propose(self, command: AnyCommand) -> Any:
        """Propose a command, which must be accepted."""
        reply = await self.replica.propose(command)
        if isinstance(reply, Rejection):
            raise RuntimeError(f"{command} was refused: {reply.message}")
        return reply

    async def submit(self, tasks: list[TaskSpec], workflow_id: str = _WORKFLOW, on_failure: Any = "stop") -> None:
        """Submit a workflow."""
        spec = WorkflowSpec(name="bench", tasks=tuple(tasks), on_failure=on_failure)
        await self.propose(SubmitWorkflow(**self.stamp, workflow_id=workflow_id, spec=spec))  # type: ignore[arg-type]

    async def control(self, action: Any, workflow_id: str = _WORKFLOW) -> None:
        """Control a workflow, as the API does."""
        await self.replica.control(ControlWorkflow(**self.stamp, workflow_id=workflow_id, action=action))  # type: ignore[arg-type]

    async def register(self, name: str, cpu: int, prefetch: int = 0) -> int:
        """Register an agent and return its incarnation."""
        command = RegisterAgent(
            **self.stamp,  # type: ignore[arg-type]
            name=name,
            instance=name,
            capacity={"cpu": cpu * 1_000},
            prefetch=prefetch,
        )
        reply = await self.propose(command)
        return int(reply.incarnation)

    async def ask(self, incarnation: int, calls: list[Any]) -> list[Any]:
        """Answer calls of attempts on the agent a1, in a turn of their own, as requests come."""
        await asyncio.sleep(0)
        request = CallsRequest(incarnation=incarnation, calls=calls)
        return (await self.replica.attempt_calls.answer("a1", request)).answers

    async def reach(self, state: TaskState, count: int) -> None:
        """Wait until so many tasks of the workflow are in a state."""
        while self.replica.machine.tables.workflows[_WORKFLOW].counts[state] < count:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(_LOOK_S)


def _bag(count: int) -> list[TaskSpec]:
    return [TaskSpec(id=f"t{number}", program=_PROGRAM) for number in range(count)]


async def _controls(leader: _Leader) -> None:
    await leader.submit(_bag(leader.tasks))
    await leader.note("pause", lambda: leader.control("pause"))
    await leader.note("resume", lambda: leader.control("resume"))
    priority = SetPriority(**leader.stamp, workflow_id=_WORKFLOW, priority=80)  # type: ignore[arg-type]
    await leader.note("priority", lambda: leader.replica.control(priority))
    await leader.note("cancel", lambda: leader.control("cancel"))
    await leader.note("retry", lambda: leader.control("retry"))
    pieces = leader.replica.machine.snapshot()
    await leader.note("cancel_snapshot", lambda: leader.control("cancel"))
    del pieces


def _root_ends(outcome: Any, name: str, on_failure: Any) -> Callable[[_Leader], Awaitable[None]]:
    async def case(leader: _Leader) -> None:
        others = [TaskSpec(id=f"t{n}", program=_PROGRAM, needs=("root",)) for n in range(leader.tasks - 1)]
        incarnation = await leader.register("a1", 1)
        await leader.submit([TaskSpec(id="root", program=_PROGRAM), *others], on_failure=on_failure)
        await leader.reach(TaskState.RUNNING, 1)
        end = ReportedEnd(fence=1, workflow_id=_WORKFLOW, task_id="root", outcome=outcome)
        poll = PollRequest(incarnation=incarnation, seq=1, ends=[end])
        await leader.note(name, lambda: leader.replica.poll_service.poll("a1", poll))

    return case


async def _queued(leader: _Leader) -> None:
    for number in range(-(-leader.share // _PREFETCH)):
        await leader.register(f"a{number}", 1, min(_PREFETCH, leader.share))
    await leader.submit(_bag(leader.tasks))
    await leader.reach(TaskState.QUEUED, leader.share)
    await leader.note("pause_queued", lambda: leader.control("pause"))


async def _lost(leader: _Leader) -> None:
    incarnation = await leader.register("a1", leader.share)
    await leader.submit(_bag(leader.tasks))
    await leader.reach(TaskState.RUNNING, leader.share)
    removal = RemoveAgent(**leader.stamp, name="a1", incarnation=incarnation, reason="lost")  # type: ignore[arg-type]
    await leader.note("agent_lost", lambda: leader.propose(removal))


async def _steps(leader: _Leader) -> None:
    incarnation = await leader.register("a1", 1)
    await leader.submit(_bag(1))
    await leader.reach(TaskState.RUNNING, 1)

    ask = partial(leader.ask, incarnation)

    async def record() -> None:
        for first in range(1, leader.share + 1, CALLS_MAX):
            places = range(first, min(first + CALLS_MAX, leader.share + 1))
            await ask([RecordStep(fence=1, name="step", occurrence=place) for place in places])

    async def find() -> None:
        place = 1
        while place <= leader.share:
            (answer,) = await ask([FindStep(fence=1, name="step", occurrence=place)])
            place += len(answer.steps)

    large = _raw([str(number) for number in range(_LARGE_NUMBERS)])
    calls = [
        RecordStep(fence=1, name="large", occurrence=place + 1, result=large)
        for place in range(REQUEST_BYTES_MAX // len(bytes(large)))
    ]
    await leader.note("steps", record)
    await leader.note("steps_found", find)
    await leader.note("steps_large", lambda: ask(calls))


async def _children(leader: _Leader) -> None:
    incarnation = await leader.register("a1", 1)
    await leader.submit(_bag(1))
    await leader.reach(TaskState.RUNNING, 1)
    ask = partial(leader.ask, incarnation)

    async def spawn() -> None:
        for first in range(0, leader.tasks, SPAWN_TASKS):
            numbers = range(first, min(first + SPAWN_TASKS, leader.tasks))
            tasks = [{"id": f"c{number}", "python": "operator:add", "args": [number, 1]} for number in numbers]
            (answer,) = await ask([SpawnChildren(fence=1, tasks=[_raw(task) for task in tasks])])
            if len(answer.children) != len(tasks):
                raise RuntimeError(f"children were not spawned: {answer}")

    condition = _raw({"mode": "all"})
    end = ReportedEnd(fence=1, workflow_id=_WORKFLOW, task_id="t0", outcome="parked", result=condition)
    poll = PollRequest(incarnation=incarnation, seq=1, ends=[end])
    await leader.note("children", spawn)
    await leader.note("children_found", spawn)
    await leader.note("children_counted", lambda: ask([FindChildren(fence=1)]))
    await leader.note("children_parked", lambda: leader.replica.poll_service.poll("a1", poll))
    await leader.note("children_cancelled", lambda: leader.control("cancel"))


async def _chain(leader: _Leader) -> None:
    depth = min(leader.share, SPAWN_DEPTH_MAX)
    incarnation = await leader.register("a1", depth + 1)
    await leader.submit(_bag(1))
    await leader.reach(TaskState.RUNNING, 1)
    child = _raw({"id": "c", "python": "operator:add", "args": [1, 1]})

    async def spawn() -> None:
        for fence in range(1, depth + 1):
            await leader.ask(incarnation, [SpawnChildren(fence=fence, tasks=[child])])
            await leader.reach(TaskState.RUNNING, fence + 1)

    await leader.note("chain", spawn)
    await leader.note("chain_cancelled", lambda: leader.control("cancel"))


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


async def _retention(leader: _Leader) -> None:
    finished = leader.replica.machine.tables.finished
    for number in range(-(-leader.tasks // _RETIRED_EACH)):
        await leader.submit(_bag(_RETIRED_EACH), f"wf-{number}")
        await leader.control("cancel", f"wf-{number}")

    async def retire() -> None:
        leader.replica.leader.retire_soon()
        while len(finished) > 1:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(_LOOK_S)

    await leader.note("retention", retire)


_RUNS: Final = {
    "controls": _controls,
    "success": _root_ends("succeeded", "success", "stop"),
    "failure_stop": _root_ends("failed", "failure_stop", "stop"),
    "failure_continue": _root_ends("failed", "failure_continue", "continue"),
    "queued": _queued,
    "lost": _lost,
    "steps": _steps,
    "children": _children,
    "chain": _chain,
    "retention": _retention,
}
