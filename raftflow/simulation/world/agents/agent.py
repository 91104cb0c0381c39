"""One agent's machine. It runs one process of the real agent after the other."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any, get_args

from raftflow.agent.attempts.fetching import AttemptFetcher
from raftflow.agent.attempts.runner import AttemptRunner
from raftflow.agent.config import AgentConfig
from raftflow.agent.exchange.call_channel import CallChannel
from raftflow.agent.loop import AgentLoop
from raftflow.agent.workdir.inputs import InputsFetcher
from raftflow.domain.contract.views import AgentLoad
from raftflow.domain.limits import INPUTS_BYTES_MAX, PREFETCH_MAX
from raftflow.domain.tasks.program import AssignedProgram
from raftflow.simulation.world.agents.executor import KeptInputs, SimExecutor
from raftflow.simulation.world.agents.health import HealthProbe, MachineHealth
from raftflow.simulation.world.agents.leader_client import SimLeaderClient
from raftflow.simulation.world.code import FetchedCode
from raftflow.simulation.world.loop import Process

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from raftflow.domain.contract.views import ReportedEnd
    from raftflow.simulation.world.agents.outside_service import OutsideService
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.observer import ExecutionObserver
    from raftflow.simulation.world.trace import Trace


class _NoOutput:
    """Takes the place of the store of outputs: the programs write nothing."""

    def prune(self) -> None:
        """Do nothing."""


class _NoLoad:
    """Takes the place of the machine's load."""

    def sample(self) -> AgentLoad:
        """Return no load."""
        return AgentLoad(cpu_busy_per_mille=0, run_queue=0)


class SimAgent:
    """One agent's machine."""

    def __init__(
        self,
        name: str,
        *,
        loop: VirtualLoop,
        rng: Random,
        trace: Trace,
        calls: Calls,
        observer: ExecutionObserver,
        replicas: list[str],
        retained: list[object],
        service: OutsideService,
        long_programs: bool = False,
    ) -> None:
        self.name = name
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._calls = calls
        self._observer = observer
        self._replicas = replicas
        self._retained = retained
        self._service = service
        self._long_programs = long_programs
        self._cpus = rng.choice((1, 2, 4))
        self._prefetch = rng.choice((0, 1, 4))
        self.process: Process | None = None
        self._agent: AgentLoop | None = None
        self._machine: SimExecutor | None = None
        self.lives = 0
        self.health = MachineHealth(loop)
        self._hurried = False

    @property
    def busy(self) -> bool:
        """Whether it runs a program."""
        return self._machine is not None and self._machine.running > 0

    def stop_now(self) -> None:
        """Let programs that start from now on end quickly, on a healthy machine."""
        self._hurried = True
        self.health.recover()
        if self._machine is not None:
            self._machine.hurried = True

    def start(self) -> None:
        """Start a process, unless one runs."""
        if self.process is not None:
            return
        self.lives += 1
        process = self.process = Process(self.name)
        self._loop.call_soon(self._begin, process, context=process.context)

    def _begin(self, process: Process) -> None:
        self._retained.append(self._loop.create_task(self._live(process), context=process.context))

    async def _live(self, process: Process) -> None:
        config = AgentConfig(
            peers=("sim://a",),
            name=self.name,
            instance=f"instance-{self.name}-{self.lives}",
            resources={"cpu": self._cpus, "memory": 4096},
            prefetch=self._prefetch,
            poll_timeout_s=0.7,
            drain_timeout_s=2.0,
            goodbye_timeout_s=1.0,
        )

        client: Any = SimLeaderClient(
            self._calls, process, self._replicas, self._rng, timeout_s=0.7, observer=self._observer
        )
        channel = CallChannel(client.calls)
        machine = self._machine = SimExecutor(
            self._loop, self._rng, self._observer, process, self.health, channel=channel, service=self._service
        )
        machine.hurried = self._hurried
        machine.long_programs = self._long_programs
        watching = self._loop.create_task(client.watch.run())
        fetcher = AttemptFetcher(
            InputsFetcher(client, KeptInputs, agent=self.name, bytes_max=INPUTS_BYTES_MAX, patience_s=5.0),
            FetchedCode(self._calls, process, client.replicas),
        )

        def make(
            before: Callable[[], None], on_end: Callable[[ReportedEnd], None], shortage_since: Callable[[int], str]
        ) -> AttemptRunner:
            return AttemptRunner(
                dict.fromkeys(get_args(AssignedProgram), machine),
                before_end=before,
                on_end=on_end,
                sample=machine.sample,
                fetcher=fetcher,
                shortage_since=shortage_since,
            )

        store: Any = _NoOutput()
        load: Any = _NoLoad()
        agent = self._agent = AgentLoop(
            config,
            client,
            make,
            store,
            on_lease=machine.lease,
            kill_overdue=machine.kill_all,
            attempts_max=PREFETCH_MAX,
            on_registered=lambda registered: channel.begin(registered.id, registered.incarnation),
            home=f"home of {self.name}",
            probe=HealthProbe(self.health),
        )
        agent._load = load  # noqa: SLF001 - it reads /proc
        code = await agent.run()
        watching.cancel()
        self._trace.note(self.name, f"left, code {code}")
        self._loop.call_soon(self._gone, process, context=contextvars.Context())

    def _gone(self, process: Process) -> None:
        if self.process is process:
            self.kill("left", fault=False)

    def kill(self, kind: str = "agent killed", *, fault: bool = True) -> None:
        """Kill the process and its programs."""
        if self.process is None:
            return
        if fault:
            self._trace.fault(kind, self.name)
        self._loop.kill(self.process)
        if self._machine is not None:
            self._machine.kill_all()
        self._retained.append((self.process, self._agent, self._machine))
        self.process = self._agent = self._machine = None

    def leave(self) -> None:
        """Tell the agent to drain and stop, as SIGTERM does."""
        if self.process is not None and self._agent is not None:
            self._trace.fault("agent stopped", self.name)
            self._loop.call_soon(self._agent.leave, context=self.process.context)
