"""Simulated agents: the real agent (loop, exchange, book, lease) with programs that only take time.

An agent's machine runs the programs: they go on while the agent's process is stopped, and the launcher ends them when
the lease ends or the agent dies, as the real one does.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest.mock import patch

import msgspec

from raftflow.agent import loop as agent_loop
from raftflow.agent.attempts import fitness as agent_fitness
from raftflow.agent.attempts import runner as agent_attempts
from raftflow.agent.attempts import usage as agent_usage
from raftflow.agent.attempts.runner import AttemptRunner
from raftflow.agent.clock import Lease
from raftflow.agent.config import AgentConfig
from raftflow.agent.exchange import exchange as agent_exchange
from raftflow.agent.exchange.leader import LeaderNotFoundError as AgentNoLeaderError
from raftflow.agent.exchange.leader import NameInUseError, RefusedError, StaleIncarnationError
from raftflow.agent.exchange.leader_watch import FIRST_S, HOLD_S, LeaderWatch, UnderWay
from raftflow.agent.executors.base import ExecutionEnd, WatchTarget
from raftflow.agent.launcher.messages import Sampled
from raftflow.agent.loop import AgentLoop
from raftflow.agent.workdir.inputs import AttemptOverError, Fetcher, PassedOverError
from raftflow.coordinator.commit.submitter import BusyError, NotLeaderError, ProposeError
from raftflow.domain.contract.reportable import first_fault
from raftflow.domain.contract.views import (
    AgentLoad,
    InputsPiece,
    LeaderNotice,
    PollRequest,
    PollResponse,
    RegisterRequest,
    RegisterResponse,
)
from raftflow.domain.limits import INPUTS_BYTES_MAX, JSON_DEPTH_MAX, PREFETCH_MAX, RESULT_BYTES_MAX
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.resources import parse_amount
from raftflow.machine.read import inputs as machine_inputs
from raftflow.machine.read.inputs import BehindError, NotLiveError, inputs_slice
from raftflow.simulation.world.calls import CallFailed
from raftflow.simulation.world.loop import START_S, Process
from raftflow.simulation.world.machine_health import HealthProbe, MachineHealth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

    from raftflow.agent.workdir.inputs import FetchedInputs
    from raftflow.coordinator.replica import Replica
    from raftflow.domain.contract.views import Assignment, ReportedEnd
    from raftflow.simulation.checkers.checks import RunHistory
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.trace import Trace

_BOOT_NS: Final = 10**15
_ODD_EVERY: Final = 23
"""One of so many programs has a result that the leader's door refuses, and one a result that the agent refuses."""
_UNWANTED: Final = b'"unwanted"'
_PROGRAM_KIB: Final = 8 << 10
"""Memory of a program: less than any task demands."""
_INLINE_BYTES: Final = 4
"""Results are fences, of one to four bytes: what needs two or three tasks fetches their results."""
_PIECE_BYTES: Final = 6
_PIECE_COUNT: Final = 2


def _result_of(fence: int) -> bytes:
    """Return what a program finds. Now and then the leader's door refuses it, or the agent does before."""
    if fence % _ODD_EVERY == _ODD_EVERY - 1:
        return _UNWANTED
    if fence % _ODD_EVERY == _ODD_EVERY // 2:
        return b"[" * (JSON_DEPTH_MAX + 1) + b"]" * (JSON_DEPTH_MAX + 1)
    return b"%d" % fence


def _refusal(ends: list[ReportedEnd]) -> Rejection | None:
    """Refuse what the leader's door refuses, and a result that only a door of another version would refuse."""
    for end in ends:
        if bytes(end.result) == _UNWANTED:
            return Rejection(RejectionCode.INVALID, f"the result of attempt {end.fence} is not wanted")
    fault = first_fault(end.result for end in ends)
    return None if fault is None else Rejection(RejectionCode.INVALID, fault[1])


def virtual_ns(loop: VirtualLoop) -> int:
    """Return the boot time clock of the simulated machines."""
    return _BOOT_NS + int((loop.time() - START_S) * 1e9)


@contextmanager
def virtual_agents(loop: VirtualLoop) -> Iterator[None]:
    """Give the agent's code the virtual clock; it reads CLOCK_BOOTTIME by itself otherwise."""

    def now_ns() -> int:
        return virtual_ns(loop)

    with (
        patch.object(agent_loop, "now_ns", now_ns),
        patch.object(agent_exchange, "now_ns", now_ns),
        patch.object(agent_attempts, "now_ns", now_ns),
        patch.object(agent_usage, "now_ns", now_ns),
        patch.multiple(agent_fitness, now_ns=now_ns, PROBE_FIRST_S=0.2, PROBE_MAX_S=1.0),
        patch.object(agent_loop, "_version", lambda: "simulated"),
        patch.multiple(
            machine_inputs,
            INPUTS_INLINE_BYTES_MAX=_INLINE_BYTES,
            INPUTS_PIECE_BYTES_MAX=_PIECE_BYTES,
            INPUTS_PIECE_COUNT_MAX=_PIECE_COUNT,
        ),
    ):
        yield


class _NoOutput:
    """Stands for the store of outputs: the programs write nothing."""

    def prune(self) -> None:
        """Do nothing."""


class _NoLoad:
    """Stands for the load of the machine."""

    def sample(self) -> AgentLoad:
        """Return no load."""
        return AgentLoad(cpu_busy_per_mille=0, run_queue=0)


class _KeptInputs:
    """Stands for the file of fetched inputs."""

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
    """What runs."""

    task: tuple[str, str]
    ended: Callable[[int, ExecutionEnd], None]
    started_s: float


class SimExecutor:
    """Runs programs for one life of an agent, and ends them when the lease or the agent ends."""

    def __init__(
        self, loop: VirtualLoop, rng: Random, history: RunHistory, process: Process, health: MachineHealth
    ) -> None:
        self._loop = loop
        self._health = health
        self._rng = rng
        self._history = history
        self._process = process
        self._programs: dict[int, _SimProgram] = {}
        self._world = contextvars.Context()
        self.long_programs = False
        self.hurried = False
        """Programs end quickly, so that a run can come to rest."""
        self._lease_timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many programs run."""
        return len(self._programs)

    def start(
        self, assignment: Assignment, ended: Callable[[int, ExecutionEnd], None], inputs: FetchedInputs | None = None
    ) -> None:
        """Start a program: implements `Executor`."""
        fence, task = assignment.fence, (assignment.workflow_id, assignment.task_id)
        given = inputs.results if isinstance(inputs, _KeptInputs) else assignment.inputs
        self._history.execution_started(self._process.name, task, fence)
        self._history.inputs_given(task, fence, {need: bytes(result) for need, result in given.items()})
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
        self._loop.call_later(run_s, self._exit, fence, how, word, context=self._world)

    def signal(self, fence: int, number: int) -> None:
        """End a program; some take their time over SIGTERM."""
        if fence in self._programs:
            how = ExecutionEnd(ok=False, exit_code=-number)
            after_s = 0.001 if number == signal.SIGKILL else self._rng.choice((0.002, 0.05, 10.0))
            self._loop.call_later(after_s, self._exit, fence, how, "was stopped", context=self._world)

    def watched(self, fence: int) -> WatchTarget | None:
        """Show where a program can be observed: by its fence, in `sample`."""
        return WatchTarget(id=fence) if fence in self._programs else None

    def sample(self, wanted: list[tuple[int, int]], on_sampled: Callable[[Sampled], None]) -> None:
        """Tell what programs use, as the launcher does: each a CPU and a little memory, so that none is stopped."""
        now_s = self._loop.time()
        used: list[tuple[int, int, int, int, list[int]]] = [
            (fence, int((now_s - self._programs[fence].started_s) * 1000), _PROGRAM_KIB, 0, [])
            for fence, _ in wanted
            if fence in self._programs
        ]
        self._loop.call_soon(on_sampled, Sampled(used), context=self._process.context)

    def lease(self, until_ns: int) -> None:
        """Take the end of the lease, as the launcher does."""
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        left_s = max(0.0, (until_ns - virtual_ns(self._loop)) / 1e9)
        self._lease_timer = self._loop.call_later(left_s, self.kill_all, context=self._world)

    def kill_all(self) -> None:
        """End every program at once."""
        for fence in list(self._programs):
            self._exit(fence, ExecutionEnd(ok=False, error="the lease was over", abandoned=True), "was killed")

    def _exit(self, fence: int, how: ExecutionEnd, word: str) -> None:
        program = self._programs.pop(fence, None)
        if program is None:
            return
        self._history.execution_ended(self._process.name, program.task, fence, word)
        self._loop.call_soon(program.ended, fence, how, context=self._process.context)


class SimLeaderClient:
    """Finds the leader as `agent.leader.LeaderClient` does, over simulated calls."""

    def __init__(self, calls: Calls, process: Process, replicas: list[str], rng: Random, timeout_s: float) -> None:
        self._calls = calls
        self._process = process
        self._replicas = replicas
        """Those that are there; the list changes in place."""
        self._peers = list(replicas)
        rng.shuffle(self._peers)
        self._timeout_s = timeout_s
        self._leader: str | None = None
        self._decode_poll = msgspec.json.Decoder(PollResponse)
        self._under_way = UnderWay()
        self.watch = LeaderWatch(
            ask=self._ask_who_leads, peers=lambda: self._replicas, leader=lambda: self._leader, moved=self._moved
        )

    async def register(self, request: RegisterRequest) -> RegisterResponse:
        """Register. Raises what the real client raises."""

        async def serve(replica: Replica) -> RegisterResponse | Rejection:
            if refusal := _refusal(request.offers):
                return refusal
            capacity = {name: parse_amount(name, value) for name, value in request.resources.items()}
            command = replica.registration.command(request, capacity, at_ms=replica.clock.now_ms())
            reply, verdicts = await replica.registration.register(command, request.offers)
            if isinstance(reply, Rejection):
                return reply
            replica.poll_service.registered(request, reply.incarnation)
            timing = replica.config.timing
            return RegisterResponse(
                id=reply.name,
                incarnation=reply.incarnation,
                lease_ms=timing.lease_ms,
                poll_wait_ms=timing.poll_wait_ms,
                result_bytes_max=RESULT_BYTES_MAX,
                feature_level=replica.machine.tables.feature_level,
                verdicts=verdicts,
            )

        registration: RegisterResponse = await self._pass(serve, self._timeout_s)
        return registration

    async def poll(self, agent_id: str, body: bytes, timeout_s: float) -> PollResponse:
        """Send a poll. Raises what the real client raises."""

        async def serve(replica: Replica) -> bytes | Rejection:
            request = msgspec.json.decode(body, type=PollRequest)
            if refusal := _refusal(request.ends):
                return refusal
            reply = await replica.poll_service.poll(agent_id, request)
            return reply if isinstance(reply, Rejection) else msgspec.json.encode(reply)

        return self._decode_poll.decode(await self._pass(serve, timeout_s))

    def replicas(self) -> list[str]:
        """Return whom to ask for inputs: the leader last."""
        others = [name for name in self._replicas if name != self._leader]
        return others if self._leader is None else [*others, self._leader]

    async def inputs(self, replica: str, agent: str, fence: int, first: int, timeout_s: float) -> InputsPiece:
        """Ask a replica for a piece of inputs. Raises what the real client raises."""
        del timeout_s  # simulated ones are shorter

        async def serve(replica: Replica) -> bytes | str:
            try:
                found = inputs_slice(replica.machine, agent, fence, first)
            except BehindError:
                return "behind"
            except NotLiveError:
                return "over"
            results = {need: msgspec.Raw(result) for need, result in found.inputs}
            return msgspec.json.encode(InputsPiece(inputs=results, next=found.next))

        try:
            answer = await self._calls.call(self._process, replica, serve, self._timeout_s)
        except CallFailed as error:
            raise PassedOverError(str(error), away=True) from error
        if answer == "behind":
            raise PassedOverError(f"{replica} is behind")
        if answer == "over":
            raise AttemptOverError(f"{replica} says that attempt {fence} is over")
        return msgspec.json.decode(answer, type=InputsPiece)

    async def _pass(self, serve: Callable[[Replica], Any], timeout_s: float) -> Any:
        self._peers = [name for name in self._peers if name in self._replicas]
        self._peers += [name for name in self._replicas if name not in self._peers]
        targets = [*([] if self._leader is None else [self._leader]), *self._peers]
        tried: list[str] = []
        while targets:
            target = targets.pop(0)
            if target in tried:
                continue
            tried.append(target)
            term = self.watch.term
            try:
                with self._under_way.asking(target, timeout_s) as limit:
                    reply = await self._calls.call(self._process, target, serve, limit)
            except NotLeaderError as error:
                self._remember(error.leader)
                targets.insert(0, error.leader)
            except BusyError as error:
                raise AgentNoLeaderError(str(error), 1.0) from error
            except (ProposeError, CallFailed) as error:
                if self.watch.term != term and target != self._leader:
                    raise AgentNoLeaderError(f"{target} has not answered, and another one leads") from error
                self._failed(target)
            else:
                self._remember(target)
                if isinstance(reply, Rejection):
                    if reply.code in {RejectionCode.STALE_INCARNATION, RejectionCode.NOT_FOUND}:
                        raise StaleIncarnationError(reply.message)
                    if reply.code is RejectionCode.NAME_IN_USE:
                        raise NameInUseError(409, reply.message)
                    raise RefusedError(422, reply.message)
                return reply
        raise AgentNoLeaderError("no replica could be asked")

    async def _ask_who_leads(self, target: str, term: int) -> LeaderNotice:
        """Ask a replica who leads after `term`. Raises `OSError`."""

        async def serve(replica: Replica) -> LeaderNotice:
            return await replica.news.wait(term, HOLD_S)

        try:
            return await self._calls.call(self._process, target, serve, HOLD_S + self._timeout_s)
        except CallFailed as error:
            raise OSError(str(error)) from error

    def _moved(self, _told_by: str, notice: LeaderNotice) -> None:
        """There is a new leader: go there, and give up what is under way to any other replica."""
        assert notice.leader is not None  # noqa: S101 - it is news
        if notice.leader == self._leader:
            return
        if self._leader is not None:
            self._failed(self._leader)
        self._remember(notice.leader)
        self._under_way.give_up(notice.leader, 0.0 if self.watch.term else FIRST_S)

    def _remember(self, target: str) -> None:
        if target != self._leader:
            self._leader = target
            self.watch.leader_known()

    def _failed(self, target: str) -> None:
        if target == self._leader:
            self._leader = None
        if target in self._peers:
            self._peers.remove(target)
            self._peers.append(target)


class SimAgent:
    """One agent's machine, through all its lives."""

    def __init__(
        self,
        name: str,
        *,
        loop: VirtualLoop,
        rng: Random,
        trace: Trace,
        calls: Calls,
        history: RunHistory,
        replicas: list[str],
        graves: list[object],
        long_programs: bool = False,
    ) -> None:
        self.name = name
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._calls = calls
        self._history = history
        self._replicas = replicas
        self._graves = graves
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
        """Let programs that start from now on end quickly, on a machine that is in order."""
        self._hurried = True
        self.health.recover()
        if self._machine is not None:
            self._machine.hurried = True

    def start(self) -> None:
        """Begin a life, unless there is one."""
        if self.process is not None:
            return
        self.lives += 1
        process = self.process = Process(self.name)
        self._loop.call_soon(self._begin, process, context=process.context)

    def _begin(self, process: Process) -> None:
        self._graves.append(self._loop.create_task(self._live(process), context=process.context))

    async def _live(self, process: Process) -> None:
        machine = self._machine = SimExecutor(self._loop, self._rng, self._history, process, self.health)
        machine.hurried = self._hurried
        machine.long_programs = self._long_programs
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

        client: Any = SimLeaderClient(self._calls, process, self._replicas, self._rng, 0.7)
        watching = self._loop.create_task(client.watch.run())
        fetcher = Fetcher(client, _KeptInputs, agent=self.name, bytes_max=INPUTS_BYTES_MAX, patience_s=5.0)

        def make(
            before: Callable[[], None], on_end: Callable[[ReportedEnd], None], lack: Callable[[int], str]
        ) -> AttemptRunner:
            return AttemptRunner(
                machine,
                machine,
                before_end=before,
                on_end=on_end,
                sample=machine.sample,
                fetch=fetcher.fetch,
                lack=lack,
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
            on_registered=lambda _registration: None,
            home=f"home of {self.name}",
            probe=HealthProbe(self.health),
        )
        agent._lease = Lease(lambda: virtual_ns(self._loop))  # noqa: SLF001 - its default clock is the real one
        agent._load = load  # noqa: SLF001 - it reads /proc
        code = await agent.run()
        watching.cancel()
        self._trace.note(self.name, f"left, code {code}")
        self._loop.call_soon(self._gone, process, context=contextvars.Context())

    def _gone(self, process: Process) -> None:
        if self.process is process:
            self.kill("left", fault=False)

    def kill(self, kind: str = "agent killed", *, fault: bool = True) -> None:
        """End this life and its programs now."""
        if self.process is None:
            return
        if fault:
            self._trace.fault(kind, self.name)
        self._loop.kill(self.process)
        if self._machine is not None:
            self._machine.kill_all()
        self._graves.append((self.process, self._agent, self._machine))
        self.process = self._agent = self._machine = None

    def leave(self) -> None:
        """Tell the agent to drain and go, as SIGTERM does."""
        if self.process is not None and self._agent is not None:
            self._trace.fault("agent leaves", self.name)
            self._loop.call_soon(self._agent.leave, context=self.process.context)
