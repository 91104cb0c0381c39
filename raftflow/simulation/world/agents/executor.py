"""The programs of a simulated agent. They go on while the agent's process is stopped.

The executor ends them when the lease ends or the agent dies, as the real launcher does.
"""

from __future__ import annotations

import contextvars
import signal
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.agent.executors.base import Ended, ExecutionEnd, WatchTarget
from raftflow.agent.launcher.messages import Sampled
from raftflow.domain.limits import JSON_DEPTH_MAX, RESULT_BYTES_MAX
from raftflow.simulation.world.agents.boot_clock import virtual_ns
from raftflow.simulation.world.agents.child_program import ChildProgram, has_children
from raftflow.simulation.world.agents.effect_program import EffectProgram, has_effects
from raftflow.simulation.world.agents.spending_program import SpendingProgram, spends
from raftflow.simulation.world.agents.step_program import StepProgram, has_steps
from raftflow.simulation.world.agents.wait_program import WaitProgram, waits

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from random import Random

    import msgspec

    from raftflow.agent.calls.channel import Channel
    from raftflow.agent.workdir.inputs import FetchedInputs
    from raftflow.domain.contract.views import Assignment
    from raftflow.simulation.world.agents.calling_program import CallingProgram
    from raftflow.simulation.world.agents.health import MachineHealth
    from raftflow.simulation.world.agents.outside_service import OutsideService
    from raftflow.simulation.world.loop import Process, VirtualLoop
    from raftflow.simulation.world.observer import ExecutionObserver

_ODD_EVERY: Final = 23
"""One of this many programs has a result that the leader refuses, and one a result that the agent refuses."""
UNWANTED: Final = b'"unwanted"'
_PROGRAM_KIB: Final = 8 << 10
"""Memory of a program: less than any task demands."""


def _result_of(fence: int) -> bytes:
    """Return the result of a program. In some cases the leader refuses it, or the agent does before."""
    if fence % _ODD_EVERY == _ODD_EVERY - 1:
        return UNWANTED
    if fence % _ODD_EVERY == _ODD_EVERY // 2:
        return b"[" * (JSON_DEPTH_MAX + 1) + b"]" * (JSON_DEPTH_MAX + 1)
    return b"%d" % fence


class KeptInputs:
    """Takes the place of the file of fetched inputs."""

    path = ""

    def __init__(self, _fence: int) -> None:
        self.results: dict[str, msgspec.Raw] = {}
        self.places: dict[str, tuple[int, int]] = {}

    async def add(self, inputs: Mapping[str, msgspec.Raw]) -> None:
        """Take a piece."""
        self.results.update(inputs)

    async def finish(self) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Do nothing."""


class _SimProgram(NamedTuple):
    """A program that runs."""

    task: tuple[str, str]
    ended: Ended
    started_s: float
    steps: CallingProgram | None = None


class SimExecutor:
    """Runs programs for one process of an agent, and ends them when the lease or the agent ends."""

    def __init__(
        self,
        loop: VirtualLoop,
        rng: Random,
        observer: ExecutionObserver,
        process: Process,
        health: MachineHealth,
        *,
        channel: Channel,
        service: OutsideService,
    ) -> None:
        self._loop = loop
        self._health = health
        self._rng = rng
        self._observer = observer
        self._process = process
        self._channel = channel
        self._service = service
        self._programs: dict[int, _SimProgram] = {}
        self._world = contextvars.Context()
        self.long_programs = False
        self.hurried = False
        """Programs end quickly, so that a run can finish."""
        self._lease_timer: asyncio.TimerHandle | None = None
        self.result_bytes_max = RESULT_BYTES_MAX

    async def probe(self) -> str:
        """Return that nothing is wrong: the health of the machine has a probe of its own."""
        return ""

    @property
    def running(self) -> int:
        """The number of programs that run."""
        return len(self._programs)

    def start(
        self, assignment: Assignment, ended: Ended, inputs: FetchedInputs | None = None, _code: str = ""
    ) -> None:
        """Start a program: implements `Executor`."""
        fence, task = assignment.fence, (assignment.workflow_id, assignment.task_id)
        given = inputs.results if isinstance(inputs, KeptInputs) else assignment.inputs
        self._observer.execution_started(self._process.name, task, fence)
        self._observer.inputs_given(task, fence, {need: bytes(result) for need, result in given.items()})
        self._programs[fence] = _SimProgram(task, ended, self._loop.time())
        shape = self._rng.random()
        shape = 0.0 if self.hurried else max(shape, 0.5 + shape / 2) if self.long_programs else shape
        bounds = (0.005, 0.1) if shape < 0.6 else (0.1, 1.5) if shape < 0.9 else (1.5, 4.0)
        run_s = self._rng.uniform(*bounds)
        ok = self._rng.random() < 0.9
        how = ExecutionEnd(ok=ok, exit_code=0 if ok else 1, result=_result_of(fence) if ok else b"")
        word = "succeeded" if ok else "failed"
        if self._health.unable:
            how, word, run_s = (
                ExecutionEnd(ok=False, error="nothing can be run", agent_fault=True),
                "could not run",
                0.003,
            )
        elif self._health.black_hole:
            how, word, run_s = ExecutionEnd(ok=False, exit_code=127), "failed", 0.002
        kind: Callable[..., CallingProgram] | None = (
            ChildProgram
            if has_children(task)
            else partial(EffectProgram, service=self._service)
            if has_effects(task)
            else StepProgram
            if has_steps(task)
            else SpendingProgram
            if spends(task)
            else WaitProgram
            if waits(task)
            else None
        )
        if kind is None or self._health.unable or self._health.black_hole:
            self._loop.call_later(run_s, self._exit, fence, how, word, context=self._world)
            return

        def done() -> None:
            parked = steps.parked
            told = (ExecutionEnd(ok=True, exit_code=0, parked=parked), "parked") if parked else (how, word)
            self._loop.call_later(run_s, self._exit, fence, *told, context=self._world)

        steps = kind(
            loop=self._loop,
            world=self._world,
            process=self._process,
            observer=self._observer,
            attempt=CallingAttempt(assignment, self._channel),
            task=task,
            done=done,
        )
        self._programs[fence] = self._programs[fence]._replace(steps=steps)
        self._loop.call_soon(steps.begin, context=self._world)

    def signal(self, fence: int, number: int) -> None:
        """End a program; some need time after SIGTERM."""
        if fence in self._programs:
            how = ExecutionEnd(ok=False, exit_code=-number)
            after_s = 0.001 if number == signal.SIGKILL else self._rng.choice((0.002, 0.05, 10.0))
            self._loop.call_later(after_s, self._exit, fence, how, "was stopped", context=self._world)

    def watched(self, fence: int) -> WatchTarget | None:
        """Return what `sample` observes of a program: its fence."""
        return WatchTarget(id=fence) if fence in self._programs else None

    def sample(self, wanted: list[tuple[int, int]], on_sampled: Callable[[Sampled], None]) -> None:
        """Report what programs use, as the launcher does: a CPU and a little memory each, so that none is stopped."""
        now_s = self._loop.time()
        used: list[tuple[int, int, int, int, list[int]]] = [
            (fence, int((now_s - self._programs[fence].started_s) * 1000), _PROGRAM_KIB, 0, [])
            for fence, _ in wanted
            if fence in self._programs
        ]
        self._loop.call_soon(on_sampled, Sampled(used), context=self._process.context)

    def lease(self, until_ns: int) -> None:
        """Set the end of the lease, as the launcher does."""
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        left_s = max(0.0, (until_ns - virtual_ns(self._loop)) / 1e9)
        self._lease_timer = self._loop.call_later(left_s, self.kill_all, context=self._world)

    def kill_all(self) -> None:
        """Kill all programs."""
        for fence in list(self._programs):
            self._exit(fence, ExecutionEnd(ok=False, error="the lease was over", abandoned=True), "was killed")

    def _exit(self, fence: int, how: ExecutionEnd, word: str) -> None:
        program = self._programs.pop(fence, None)
        if program is None:
            return
        if program.steps is not None:
            program.steps.end()
        self._observer.execution_ended(self._process.name, program.task, fence, word)
        self._loop.call_soon(program.ended, fence, how, context=self._process.context)
