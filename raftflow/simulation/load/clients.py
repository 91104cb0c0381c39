"""Simulated clients. They submit, control and read, and retry with one request id until they get an answer."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from raftflow.coordinator.commit.submitter import NotLeaderError, ProposeError
from raftflow.coordinator.uploads.submission import submission_of
from raftflow.domain.commands import (
    ClearCache,
    ControlWorkflow,
    DrainAgent,
    ForgetAgent,
    RaiseBudget,
    RegisterAgent,
    ResumeAgent,
    SetPriority,
    SubmitWorkflow,
)
from raftflow.domain.limits import PRIORITY_MAX
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import Done, WorkflowAccepted
from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.program import CommandLine, TaskWait
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.domain.values.code_bundle import BundleFile, digest_of, make_bundle
from raftflow.machine.read import queries
from raftflow.simulation.checkers.reads import Read, answer
from raftflow.simulation.load.money import care_for_money
from raftflow.simulation.load.signals import SignalSender
from raftflow.simulation.load.tokens import TokenKeeper
from raftflow.simulation.world.agents.spending_program import LIMIT
from raftflow.simulation.world.agents.wait_program import CHOICES, SIGNALS
from raftflow.simulation.world.calls import CallFailed
from raftflow.simulation.world.loop import Process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.coordinator.replica import Replica
    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.replies import AnyReply
    from raftflow.simulation.checkers.history import RunHistory
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.trace import Trace

TRIES_MAX: Final = 200
TIMEOUT_S: Final = 1.0
_CACHED_EACH: Final = 3
"""One in this many workflows of a client has cached tasks."""
_BACKUPS_EACH: Final = 4
"""One in this many workflows of a client allows no backup attempts."""
_ALLOWED_SHARE: Final = 0.75
"""Share of the tasks that allow them, in the other workflows."""
_LARGE_EACH: Final = 4
"""One in this many workflows is large for a simulation: it is uploaded in pieces."""
_LARGE_TASKS: Final = (6, 12, 24)
_PIECE_TASKS: Final = 1
_CODE_SHARE: Final = 0.2
"""Share of the workflows that run with a code bundle."""
_TOKENS_SHARE: Final = 0.1
"""Share of the clients that look after tokens, too."""
_MONEY_SHARE: Final = 0.15
"""Share of the turns in which a client also cares for budgets and rate limits."""
_WAITING_SHARE: Final = 0.2
"""Share of the workflows of whose tasks half only wait, for a signal or a person."""
_RATED_SHARE: Final = 0.3
"""Share of the workflows of which some tasks take from a rate limit when they are placed."""
_VERSIONS: Final = 3
"""Bundles of a client."""
_DRAIN_DEADLINE_MS: Final = 200
_NAME_SHARE: Final = 0.4
"""Share of the requests about agents that forget an agent or register its name."""
_CLEAR_EACH: Final = 5
"""One in this many of the rare requests clears the cache."""
READS_MAX: Final = 20
"""Concurrent reads of a client that only reads."""
KNOWN_MAX: Final = 12
"""Workflows that a client controls and reads."""
Action = Literal["cancel", "pause", "resume", "retry"]
_ACTIONS: Final[tuple[Action | Literal["priority"], ...]] = (
    "priority",
    "cancel",
    "pause",
    "pause",
    "resume",
    "resume",
    "resume",
    "retry",
    "retry",
)


def make_workflow(
    rng: Random,
    name: str,
    *,
    caches: bool = False,
    backups: bool = False,
    sizes: tuple[int, ...] = (1, 1, 1, 2, 3, 5),
) -> WorkflowSpec:
    """Return a small workflow. With `caches` its tasks share results with equal tasks, or it has other limits.

    With `backups` most of its tasks allow backup attempts, and count as late soon.
    """
    allowed = Random(f"backups of {name}")  # noqa: S311 - draws of its own
    money = Random(f"money of {name}")  # noqa: S311 - as above
    waits = Random(f"waits of {name}")  # noqa: S311 - as above
    waiting = waits.random() < _WAITING_SHARE
    rated = money.random() < _RATED_SHARE
    online = caches and rng.random() < 0.5
    tasks: list[TaskSpec] = []
    for number in range(rng.choice(sizes)):
        needs = tuple(task.id for task in tasks if rng.random() < 0.4)
        tasks.append(
            TaskSpec(
                id=f"t{number}",
                needs=needs,
                program=CommandLine(("true",)),
                resources={"cpu": rng.choice((250, 500, 1000, 1000))},
                retries=rng.choice((0, 1, 3)),
                retry_delay_ms=rng.choice((50, 200, 1000)),
                retry_delay_max_ms=2000,
                timeout_ms=rng.choice((None, None, 1000)),
                grace_ms=rng.choice((0, 100)),
                env={"X": "x" * rng.choice((0, 0, 10, 300))},
                cache="" if caches and not online else None,
                exclusive=online and rng.random() < 0.3,
                kind=name if backups else "",
                expected_ms=100 if backups else None,
                backup=backups and allowed.random() < _ALLOWED_SHARE,
                rates={LIMIT: money.choice((1, 2))} if rated and money.random() < 0.5 else {},
            )
        )
        if waiting and waits.random() < 0.5:
            tasks[-1] = TaskSpec(id=f"t{number}", needs=needs, program=_draw_wait(waits))
    return WorkflowSpec(
        name=name,
        budgets=(Budget("usd", hard, hard // 2),) if (hard := money.choice((0, 2, 5, 20)) * 1_000_000) else (),
        tasks=tuple(tasks),
        on_failure=rng.choice(("stop", "continue")),
        max_parallel=rng.choice((None, 1, 2)) if online else None,
    )


def _draw_wait(waits: Random) -> TaskWait:
    """Draw what a task of a document waits for."""
    timeout_ms = waits.choice((0, 0, 50, 1_000))
    if waits.random() < 0.4:
        request = msgspec.json.encode({"title": "ask", "choices": CHOICES})
        counts = msgspec.json.encode(CHOICES[1])
        made = TaskWait("approval", "ask", timeout_ms, counts, request)
    else:
        made = TaskWait("signal", waits.choice(SIGNALS), timeout_ms, b'"late"')
    return made if timeout_ms and waits.random() < 0.7 else msgspec.structs.replace(made, on_timeout=b"")


class SimClient:
    """One client. It makes one request after the other, and repeats each until it is answered."""

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
        agents: tuple[str, ...],
        pause_s: float,
        reads_only: bool = False,
    ) -> None:
        self.process = Process(name)
        self._name = name
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._calls = calls
        self._history = history
        self._replicas = replicas
        self._agents = agents
        self._pause_s = pause_s
        self._reads_only = reads_only
        self._leader: str | None = None
        self._serial = 0
        self._money = Random(f"money of {name}")  # noqa: S311 - draws of its own
        drawn = rng.random()
        self._code = Random(f"code of {name} {drawn}")  # noqa: S311 - draws of its own
        tokens = Random(f"tokens of {name} {drawn}")  # noqa: S311 - as above
        keeps = tokens.random() < _TOKENS_SHARE and not reads_only
        self._tokens = TokenKeeper(self, tokens, name, history.violation) if keeps else None
        self._signals = SignalSender(self, Random(f"signals of {name} {rng.random()}"), name)  # noqa: S311 - as above
        self._known: list[str] = []
        self._background: list[asyncio.Task[None]] = []
        self.stopping = False
        self.done = asyncio.Event()
        self.answered = 0

    @property
    def at_rest(self) -> bool:
        """True once it has stopped and none of its requests, repetitions included, can still be carried out."""
        repetitions = any(not task.done() for task in self._background)
        return self.done.is_set() and not repetitions and not self._calls.under_way(self._name)

    def start(self) -> None:
        """Start to send requests."""
        self._loop.call_soon(self._begin, context=self.process.context)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._work(), context=self.process.context)

    async def _work(self) -> None:
        while not self.stopping:
            chance = self._rng.random()
            if self._reads_only:
                self._read_aside()
            elif chance < 0.45:
                await self._submit()
            elif chance < 0.6:
                await self._read()
            elif chance < 0.95 and self._known:
                await self._control(self._rng.choice(_ACTIONS), self._rng.choice(self._known))
            elif chance >= 0.95:
                await self._control_agent(self._rng.choice(self._agents))
            if not self._reads_only and self._money.random() < _MONEY_SHARE:
                self._serial += 1
                await care_for_money(self, self._money, f"{self._name}-{self._serial}", self._known)
            if not self._reads_only:
                await self._signals.send_some(self._known)
            if self._tokens is not None:
                await self._tokens.act()
            await asyncio.sleep(self._rng.expovariate(1 / self._pause_s))
        self.done.set()

    # Operations.

    async def _submit(self) -> None:
        self._serial += 1
        name = f"{self._name}-{self._serial}"
        caches = self._serial % _CACHED_EACH == 0
        large = self._serial % _LARGE_EACH == 0
        backups = self._serial % _BACKUPS_EACH != 0
        sizes = {"sizes": _LARGE_TASKS} if large else {}
        spec = make_workflow(self._rng, name, caches=caches, backups=backups, **sizes)
        if self._code.random() < _CODE_SHARE:
            spec = msgspec.structs.replace(spec, code=await self._send_code())

        async def serve(replica: Replica) -> AnyReply:
            if large:
                return await _upload(replica, spec, name)
            return await replica.propose(
                SubmitWorkflow(
                    at_ms=replica.clock.now_ms(),
                    actor="client:api",
                    request_id=name,
                    workflow_id=replica.ids.workflow_id(),
                    spec=spec,
                )
            )

        reply = await self._request(name, serve)
        if isinstance(reply, WorkflowAccepted):
            self._history.submitted[reply.workflow_id] = spec
            self._known.append(reply.workflow_id)
            del self._known[:-KNOWN_MAX]

    async def _send_code(self) -> str:
        """Send a code bundle, one of a few. Returns its digest, empty if no answer came."""
        text = f"version = {self._code.randrange(_VERSIONS)}  # of {self._name}" + "#" * self._code.choice((0, 3_000))
        bundle = make_bundle([BundleFile("code.py", text.encode())])
        digest = digest_of(bundle)

        async def serve(replica: Replica) -> AnyReply:
            if not replica.leader.leading:
                raise replica.submitter.no_leader_error()
            try:
                return await replica.bundles.receive(digest, bundle, "client:api", replica.propose)
            except OSError as error:
                raise CallFailed(str(error)) from error

        reply: AnyReply | None = await self._persist(serve)
        return digest if isinstance(reply, Done) else ""

    async def _control(self, action: Action | Literal["priority"], workflow_id: str) -> None:
        self._serial += 1
        request_id = f"{self._name}-{self._serial}"
        if action == "priority":
            await self._set_priority(request_id, workflow_id, self._rng.randrange(PRIORITY_MAX + 1))
        else:
            await self.control(request_id, action, workflow_id)

    async def _set_priority(self, request_id: str, workflow_id: str, priority: int) -> None:
        await self.propose(
            request_id,
            lambda replica: SetPriority(
                at_ms=replica.clock.now_ms(),
                actor="client:api",
                request_id=request_id,
                workflow_id=workflow_id,
                priority=priority,
            ),
        )

    async def control(self, request_id: str, action: Action, workflow_id: str) -> AnyReply | None:
        """Cancel, pause, resume or retry a workflow."""
        return await self.propose(
            request_id,
            lambda replica: ControlWorkflow(
                at_ms=replica.clock.now_ms(),
                actor="client:api",
                request_id=request_id,
                workflow_id=workflow_id,
                action=action,
            ),
        )

    async def _control_agent(self, agent: str) -> None:
        self._serial += 1
        if self._serial % _CLEAR_EACH == 0:
            await self._clear_cache(f"{self._name}-{self._serial}")
            return
        action: Literal["drain", "resume"] = "drain" if self._rng.random() < 0.4 else "resume"
        request_id = f"{self._name}-{self._serial}"
        if self._rng.random() < _NAME_SHARE:
            await self._claim_name(request_id, agent)
        elif action == "drain" and self._serial % 2:
            await self.propose(
                request_id,
                lambda replica: DrainAgent(
                    at_ms=replica.clock.now_ms(),
                    actor="client:api",
                    request_id=request_id,
                    name=agent,
                    deadline_ms=_DRAIN_DEADLINE_MS,
                ),
            )
        else:
            await self.control_agent(request_id, agent, action)

    async def _clear_cache(self, request_id: str) -> None:
        """Clear the whole cache."""
        await self.propose(
            request_id,
            lambda replica: ClearCache(at_ms=replica.clock.now_ms(), actor="client:api", request_id=request_id),
        )

    async def _absent_agent(self) -> str | None:
        """Return the name of an agent that is gone, if the leader knows one."""

        async def serve(replica: Replica) -> str | None:
            await replica.read_barrier()
            return next((agent.name for agent in replica.machine.tables.agents.values() if not agent.present), None)

        name: str | None = await self._persist(serve, tries_max=5)
        return name

    async def _claim_name(self, request_id: str, agent: str) -> None:
        """Forget an agent, or register under its name from another home. Both are refused while it is present.

        `ForgetAgent` is also refused until the cluster is on the newest feature level.
        """
        forgets = self._rng.random() < 0.5
        if forgets:
            agent = await self._absent_agent() or agent

        def command(replica: Replica) -> AnyCommand:
            at_ms = replica.clock.now_ms()
            if forgets:
                return ForgetAgent(at_ms=at_ms, actor="client:api", request_id=request_id, name=agent)
            return RegisterAgent(
                at_ms=at_ms,
                actor=f"agent:{agent}",
                request_id=request_id,
                name=agent,
                instance=request_id,
                capacity={"cpu": 1000},
                home="another home",
            )

        await self.propose(request_id, command)

    async def control_agent(self, request_id: str, agent: str, action: Literal["drain", "resume"]) -> None:
        """Drain or resume an agent."""
        kind = DrainAgent if action == "drain" else ResumeAgent
        await self.propose(
            request_id,
            lambda replica: kind(at_ms=replica.clock.now_ms(), actor="client:api", request_id=request_id, name=agent),
        )

    async def propose(self, request_id: str, command: Callable[[Replica], AnyCommand]) -> AnyReply | None:
        """Submit a command until there is a reply. None if no reply came."""

        async def serve(replica: Replica) -> AnyReply:
            made = command(replica)
            if isinstance(made, ControlWorkflow | SetPriority | RaiseBudget):
                return await replica.control(made)
            return await replica.propose(made)

        return await self._request(request_id, serve)

    async def ask(self, serve: Callable[[Replica], Awaitable[Any]]) -> Any:
        """Ask the leader. None if no answer came."""
        return await self._persist(serve, tries_max=5)

    async def _request(self, request_id: str, serve: Callable[[Replica], Awaitable[AnyReply]]) -> AnyReply | None:
        if self._rng.random() < 0.05:
            # The same request again, through any replica: a retry that overtakes the original.
            repetition = self._loop.create_task(self._repeat(request_id, serve))
            self._background.append(repetition)
        reply: AnyReply | None = await self._persist(serve)
        if reply is not None:
            self._note_reply(request_id, reply)
        return reply

    async def _repeat(self, request_id: str, serve: Callable[[Replica], Awaitable[AnyReply]]) -> None:
        await asyncio.sleep(self._rng.uniform(0.0, 0.2))
        try:
            reply = await self._calls.call(self.process, self._rng.choice(self._replicas), serve, TIMEOUT_S)
        except (ProposeError, CallFailed):
            return
        self._note_reply(request_id, reply)

    def _note_reply(self, request_id: str, reply: AnyReply) -> None:
        self.answered += 1
        if not isinstance(reply, Rejection):
            self._history.acknowledge(request_id, reply)

    def _read_aside(self) -> None:
        """Read from any replica without waiting for the answer. A leader that was replaced may answer late."""
        self._background = [task for task in self._background if not task.done()]
        if len(self._background) < READS_MAX:
            self._background.append(self._loop.create_task(self._read(self._rng.choice(self._replicas))))

    async def _read(self, target: str | None = None) -> None:
        """Read from the leader, or try one replica once."""
        if self._known and self._rng.random() < 0.7:
            query: tuple[str, ...] = (self._rng.choice(("workflow", "tasks")), self._rng.choice(self._known))
        else:
            query = (self._rng.choice(("workflows", "agents")),)

        async def serve(replica: Replica) -> tuple[str, int, bytes]:
            await replica.read_barrier()
            if query[1:]:
                await replica.settle(query[1])
            return replica.config.name, replica.machine.applied_index, answer(replica.machine, query)

        floor = self._history.floor
        if target is None:
            found = await self._persist(serve, tries_max=5)
        else:
            try:
                found = await self._calls.call(self.process, target, serve, TIMEOUT_S)
            except (ProposeError, CallFailed):
                return
        if found is not None:
            name, index, content = found
            self._history.read(name, floor, Read(index, query, content))

    async def _persist(self, serve: Callable[[Replica], Awaitable[Any]], tries_max: int = TRIES_MAX) -> Any:
        """Call the leader, or any replica, until an answer comes."""
        for _ in range(tries_max):
            target = self._leader or self._rng.choice(self._replicas)
            if self._rng.random() < 0.05:
                target = self._rng.choice(self._replicas)
            try:
                reply = await self._calls.call(self.process, target, serve, TIMEOUT_S)
            except NotLeaderError as error:
                self._leader = error.leader if error.leader != target else None
                await asyncio.sleep(0.005)
            except (ProposeError, CallFailed):
                self._leader = None
                await asyncio.sleep(self._rng.uniform(0.02, 0.15))
            else:
                self._leader = target
                return reply
        return None


async def _upload(replica: Replica, spec: WorkflowSpec, request_id: str) -> AnyReply:
    """Upload a workflow in pieces, as the API does with a large document."""
    if not replica.leader.leading:
        raise replica.submitter.no_leader_error()
    async with replica.uploads.alone(request_id):
        known = queries.expected_times(replica.machine)
        return await replica.uploads.submit(
            submission_of(spec, request_id, known, tasks_max=_PIECE_TASKS),
            workflow_id=replica.ids.workflow_id(),
            request_id=request_id,
            actor="client:api",
        )
