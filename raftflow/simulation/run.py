"""One run: a seed, its world, its faults, its end, and its violations."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import secrets
import sys
import warnings
from typing import TYPE_CHECKING, Any, Final, cast
from unittest.mock import patch

from raftflow.coordinator import membership_admin
from raftflow.coordinator.config.replica_config import Limits
from raftflow.coordinator.leader import leader_loop
from raftflow.domain.features import NEEDS, NEXT_LEVEL, NEXT_VERSION
from raftflow.replication.raft.bounds import claims_needed
from raftflow.replication.raft.rules import NO_RULES
from raftflow.simulation.checkers.bundle_checks import missing_bundles
from raftflow.simulation.checkers.end_checks import check_acknowledged, check_end
from raftflow.simulation.checkers.history import RunHistory
from raftflow.simulation.load.bursts import Bursts
from raftflow.simulation.load.clients import SimClient
from raftflow.simulation.load.money import raise_budget, set_rate_limit
from raftflow.simulation.load.operator import CHANGE_S, Operator
from raftflow.simulation.load.people import People
from raftflow.simulation.nemesis.actions import LOSSES, FaultActions
from raftflow.simulation.nemesis.agent_faults import AgentFaults
from raftflow.simulation.nemesis.commit_exposure import CommitExposure
from raftflow.simulation.nemesis.corruption import Corruption
from raftflow.simulation.nemesis.faults import FaultInjector
from raftflow.simulation.nemesis.machine_faults import MachineFaults
from raftflow.simulation.nemesis.member_faults import MemberFaults
from raftflow.simulation.nemesis.wipes import Wipes
from raftflow.simulation.plan import GUARD_RULES, RunOptions, make_plan
from raftflow.simulation.report import Report
from raftflow.simulation.world.agents.agent import SimAgent
from raftflow.simulation.world.agents.boot_clock import virtual_agents
from raftflow.simulation.world.agents.outside_service import OutsideService
from raftflow.simulation.world.calls import Calls
from raftflow.simulation.world.cluster import Cluster
from raftflow.simulation.world.delays import Delays
from raftflow.simulation.world.disk import SimulatedCrash
from raftflow.simulation.world.loop import LoopStuckError, VirtualLoop, current_process
from raftflow.simulation.world.network import Network
from raftflow.simulation.world.trace import Trace, TraceHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEADER_WITHIN_S: Final = 3.0
EQUAL_WITHIN_S: Final = 10.0
REST_WITHIN_S: Final = 600.0
"""With one agent of one CPU the work of a run may take 220 s: effects, waits and children have work of their own."""
LOOK_S: Final = 0.02
AFTERMATH_S: Final = 2.0
"""How long a run with a violation continues after healing, to check acknowledged writes."""
CORRUPTION_SHARE: Final = 0.5
"""Share of the runs of the family `repairs` that end with corrupted journals; the others end with wiped disks."""
LEASE_MS: Final = 1_500
RETIRE_EVERY_S: Final = 0.5
BUNDLE_UNUSED_MS: Final = 3_000


class World:
    """Everything of one run."""

    def __init__(self, loop: VirtualLoop, seed: int, options: RunOptions) -> None:
        self.loop = loop
        self.trace = trace = Trace(loop)
        self.history = history = RunHistory(trace)
        self.plan = plan = make_plan(seed, options)
        self.delays = Delays(self._rng(seed, "weather"), loop, plan.slow)
        self.delays.steady = plan.steady
        self.network = Network(loop, self._rng(seed, "network"), trace, self.delays.link_s)
        call_rng = self._rng(seed, "calls")
        self.calls = Calls(loop, call_rng, self.network, lambda: self._call_s(call_rng))
        self.calls.lose_answers = plan.lose_answers
        self.cluster = Cluster(
            loop,
            self._rng(seed, "cluster"),
            trace,
            network=self.network,
            calls=self.calls,
            observer=history,
            replicas=plan.replicas,
            disabled_rules=options.disabled_rules,
            settings=plan.settings,
            timing={"lease_ms": LEASE_MS, "poll_wait_ms": 400, "submit_timeout_ms": 1_000, "read_timeout_ms": 600},
            limits=Limits(retention_ms=plan.retention_ms),
            latency=self.delays.disk_s,
        )
        self.service = service = OutsideService(history)
        names = tuple(f"agent{number}" for number in range(1, plan.agents + 1))
        shared: dict[str, Any] = {"loop": loop, "trace": trace, "calls": self.calls}
        self.agents = [
            SimAgent(
                name,
                rng=self._rng(seed, name),
                replicas=self.cluster.names,
                retained=self.cluster.retained,
                long_programs=plan.long_programs,
                observer=history,
                service=service,
                **shared,
            )
            for name in names
        ]
        self.clients = [
            SimClient(
                f"client{number}",
                rng=self._rng(seed, f"client{number}"),
                replicas=self.cluster.names,
                agents=names,
                pause_s=plan.pause_s,
                reads_only=number == 0,
                history=history,
                **shared,
            )
            for number in range(plan.clients + 1)
        ]
        self.people = People(
            rng=self._rng(seed, "people"),
            cluster=self.cluster,
            client=self.clients[-1],
            service=service,
            history=history,
        )
        self.operator = Operator(rng=self._rng(seed, "operator"), cluster=self.cluster, history=history, **shared)
        self.actions = FaultActions(
            loop=loop,
            rng=self._rng(seed, "faults"),
            trace=trace,
            cluster=self.cluster,
            network=self.network,
            agents=self.agents,
            bursts=Bursts(loop, self._rng(seed, "bursts"), self.cluster, history),
            delays=self.delays,
            clients=[client.process.name for client in self.clients],
            calls_are_reliable=not (plan.lose_answers or plan.late_calls or plan.slow),
            on_slow_failover=lambda what: history.violation("slow failover", what),
        )
        self.wipes = Wipes(self.actions, history)
        changes = MemberFaults(self.actions, self.operator)
        self.corruption = Corruption(self.actions, history, changes.flip_journal)
        self.faults = FaultInjector(
            self.actions,
            changes,
            self.wipes,
            AgentFaults(self.actions, self.operator),
            weights=plan.weights,
            every_s=plan.every_s,
            loss_throttle=plan.loss_throttle,
        )
        self.machine_faults = (
            MachineFaults(loop, self._rng(seed, "sickness"), trace, self.agents) if plan.sick else None
        )
        self._commit_exposure = CommitExposure(
            loop=loop,
            trace=trace,
            cluster=self.cluster,
            network=self.network,
            history=history,
            faults=self.faults,
        )
        self._exposing = bool(options.disabled_rules)
        for name, level in zip(self.cluster.founders, plan.levels, strict=False):
            self.cluster.hosts[name].level = level
        for name, patience in zip(self.cluster.founders, plan.patience, strict=False):
            self.cluster.hosts[name].patience = patience
        self._ends = self._rng(seed, "end")

    @staticmethod
    def _rng(seed: int, what: str) -> random.Random:
        """Return a source of its own for each part, so that one part's draws do not shift another's."""
        return random.Random(f"{what} {seed}")  # noqa: S311 - a simulation

    def _call_s(self, rng: random.Random) -> float:
        """Return how long a request or an answer takes; some are overtaken by whatever happens meanwhile."""
        if rng.random() < self.plan.late_calls:
            return rng.uniform(0.2, 2.0)
        return rng.uniform(0.0003, 0.003)

    async def run(self) -> None:
        """Inject faults, heal, wait until all work is done, check."""
        if self.plan.rough_birth:
            await self.wipes.crash_during_birth()
        for name in self.cluster.down():
            self.cluster.restart(name, LOSSES[0])
        await self._until(lambda: self.cluster.leader() is not None, LEADER_WITHIN_S)
        for agent in self.agents:
            agent.start()
        for client in self.clients:
            client.start()
        people = self.loop.create_task(self.people.run())
        commit_exposure = self.loop.create_task(self._commit_exposure.run()) if self._exposing else None
        illnesses = None if self.machine_faults is None else self.loop.create_task(self.machine_faults.run())
        await self.faults.run(self.loop.time() + self.plan.seconds)
        if illnesses is not None:
            illnesses.cancel()
        if commit_exposure is not None:
            commit_exposure.cancel()
        clean = not self.history.violations
        self._heal()
        starter = self.loop.create_task(self._start_what_stops())
        try:
            await self._end(clean=clean)
        finally:
            for task in (starter, people):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _end(self, *, clean: bool) -> None:
        """Everything is healed: recover, come to rest if nothing was wrong so far, check."""
        await self._recover()
        if clean and not self.history.violations:
            await self._rest()
        hosts = [self.cluster.hosts[name] for name in self._members()]
        if self.history.violations:
            await asyncio.sleep(AFTERMATH_S)
            check_acknowledged(self.history, hosts)
        else:
            check_end(self.history, hosts)
            if self.plan.family == "repairs":
                end_all = (
                    self.corruption.corrupt_at_once if self._ends.random() < CORRUPTION_SHARE else self.wipes.wipe_all
                )
                await end_all()

    async def _until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait for a condition; also ends, with True, at the first violation."""
        until_s = self.loop.time() + within_s
        while not condition() and not self.history.violations:
            if self.loop.time() >= until_s:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    def _heal(self) -> None:
        self.trace.note("-", "everything heals")
        self.actions.cancel_all()
        self.network.heal_all()
        self.delays.clear()
        self.calls.lose_answers = self.plan.late_calls = 0.0
        for name in self.cluster.names:
            host = self.cluster.hosts[name]
            host.away = False
            self.cluster.disks.put_back(name)
            self.cluster.disks.repair(name)
            if host.process is not None and host.process.frozen:
                self.loop.thaw(host.process)
            self.cluster.restart(name, self._ends.choice(LOSSES))
        for agent in self.agents:
            agent.stop_now()
            if agent.process is not None:
                self.loop.thaw(agent.process)
        for client in self.clients:
            client.stopping = True

    async def _recover(self) -> None:
        """A leader within three seconds, equal replicas within ten.

        A replica that was delayed waits longer before it asks for votes. It may be the only one that can win.
        """
        history, cluster = self.history, self.cluster
        began_s = self.loop.time()
        within_s = LEADER_WITHIN_S + max((view.election_min_s for view in self._views()), default=0.0)

        if not await self._until(lambda: cluster.leader() is not None, within_s):
            history.violation("no leader", f"none {within_s:g} s after healing: {self._views()}")
            return
        target = max((view.commit_index for view in self._views()), default=0)

        def caught_up() -> bool:
            return all(view.applied_index >= target for view in self._views())

        if not await self._until(caught_up, EQUAL_WITHIN_S - (self.loop.time() - began_s)):
            history.violation("no rest", f"not all have applied {target} after {EQUAL_WITHIN_S:g} s: {self._views()}")

    async def _start_what_stops(self) -> None:
        """Restart replicas that stop because of a fault that shows late, until the run ends."""
        while True:
            for name in self.cluster.down():
                self.cluster.restart(name, LOSSES[0])
            await asyncio.sleep(LOOK_S)

    def _views(self) -> list[Any]:
        replicas = [self.cluster.hosts[name].replica for name in self._members()]
        return [replica.log.status() for replica in replicas if replica is not None]

    def _members(self) -> list[str]:
        """Return the members that run, by the list that is known to be committed."""
        latest = self.history.members.latest
        return [name for name in self.cluster.running() if latest.find(name) is not None]

    async def _rest(self) -> None:
        """All work done, all replicas equal."""
        history = self.history
        if not await self._until(self._clients_at_rest, EQUAL_WITHIN_S):
            history.violation("no rest", f"requests of clients are still under way {EQUAL_WITHIN_S:g} s later")
            return
        if not await self._tidy_members():
            return
        await self._tidy()

        def finished() -> bool:
            for agent in self.agents:
                agent.start()
            name = self.cluster.leader()
            replica = None if name is None else self.cluster.hosts[name].replica
            if replica is None or not self._clients_at_rest():
                return False
            state = replica.machine.tables
            return len(state.finished) == len(state.workflows) and not state.uploads and not len(state.agenda)

        if not await self._until(finished, REST_WITHIN_S):
            history.violation("no rest", f"work goes on {REST_WITHIN_S:g} s after healing: {self._open_work()}")
            return

        def equal() -> bool:
            views = self._views()
            return len({(view.applied_index, view.last_index, view.term, view.members) for view in views}) == 1

        if not await self._until(equal, EQUAL_WITHIN_S):
            history.violation("no rest", f"the replicas do not become equal: {self._views()}")
        hosts = [self.cluster.hosts[name] for name in self._members()]
        if not await self._until(lambda: not missing_bundles(hosts), EQUAL_WITHIN_S):
            history.violation("bundle missing", f"{missing_bundles(hosts)} {EQUAL_WITHIN_S:g} s after the rest")

    def _clients_at_rest(self) -> bool:
        """Return True when no request can change anything any more. A late request may open a workflow again."""
        return all(client.at_rest for client in self.clients)

    async def _tidy_members(self) -> bool:
        """Let the operator finish. Then all members run, on the newest level."""
        history, cluster = self.history, self.cluster
        try:
            async with asyncio.timeout(REST_WITHIN_S):
                await self.operator.finish()
        except TimeoutError:
            history.violation("no rest", f"the members cannot be put in order: {self._views()}")
            return False

        def settled() -> bool:
            latest = history.members.latest
            machines = [cluster.hosts[name].replica for name in self._members()]
            return (
                len(machines) == len(latest.voters)
                and all(replica and replica.machine.tables.feature_level == NEXT_LEVEL for replica in machines)
                and not any(self._reachable(name) for name in latest.removed)
            )

        if not await self._until(settled, EQUAL_WITHIN_S):
            removed = [name for name in history.members.latest.removed if self._reachable(name)]
            history.violation("no rest", f"levels, or {removed} go on though removed: {self._views()}")
            return False
        shown = self.operator.members()
        if shown is not None:
            history.members.check_end(shown)
        return True

    def _reachable(self, name: str) -> bool:
        """Return True if a removed replica runs, and enough of those that it believes could tell it of its removal.

        A replica that waits for the report of one that is lost for ever only warns: an operator stops it.
        """
        replica, links = self.cluster.hosts[name].replica, self.cluster.hosts[name].links
        if replica is None or links is None:
            return False
        guard = cast("Any", replica.log).parts.guard
        believed = guard.raft.other_voters or guard.configured
        return len(believed & links.up.keys() & set(self._members())) >= claims_needed(believed)

    async def _tidy(self) -> None:
        """Resume what was paused or drained."""
        operator = self.clients[-1]
        name = self.cluster.leader()
        replica = None if name is None else self.cluster.hosts[name].replica
        if replica is None:
            return
        for workflow in list(replica.machine.tables.workflows.values()):
            if workflow.budgets and not workflow.finished_ms:
                await raise_budget(operator, f"tidy-budget-{workflow.id}", workflow.id, 1_000_000)
            if workflow.paused:
                await operator.control(f"tidy-{workflow.id}", "resume", workflow.id)
        await set_rate_limit(operator, "tidy-limit", 20)
        for agent in list(replica.machine.tables.agents.values()):
            await operator.control_agent(f"tidy-{agent.name}", agent.name, "resume")

    def _open_work(self) -> str:
        name = self.cluster.leader()
        replica = None if name is None else self.cluster.hosts[name].replica
        if replica is None:
            return "no leader"
        state = replica.machine.tables
        tasks = [
            f"{workflow.id}/{task.id} {task.state.name} {task.last}"
            for workflow in state.workflows.values()
            if not workflow.finished_ms
            for task in workflow.tasks
        ]
        agents = [f"{agent.name} {agent.state} {agent.incarnation}" for agent in state.agents.values()]
        return f"{tasks[:6]}, {agents}, paused {[w.id for w in state.workflows.values() if w.paused]}"


@contextlib.contextmanager
def _quiet(world_trace: Trace, seed: int) -> Iterator[None]:
    """Replace the process's randomness and log handlers, and disable the garbage collector, for the run."""
    state = random.getstate()
    source = random.Random(f"secrets {seed}")  # noqa: S311 - a simulation
    log = logging.getLogger()
    before, log.handlers = log.handlers, [TraceHandler(world_trace)]
    collecting = gc.isenabled()
    gc.disable()  # what a collection tears down would run code of dead processes at a moment of its own
    random.seed(f"global {seed}")
    try:
        with (
            patch.object(secrets, "token_hex", lambda size=16: f"{source.getrandbits(8 * size):0{2 * size}x}"),
            patch.object(membership_admin, "CHANGE_S", CHANGE_S),
            patch.object(leader_loop, "RETIRE_EVERY_S", RETIRE_EVERY_S),
            patch.object(leader_loop, "BUNDLE_UNUSED_MS", BUNDLE_UNUSED_MS),
            patch.dict(NEEDS, NEXT_VERSION),
        ):
            yield
    finally:
        random.setstate(state)
        log.handlers = before
        if collecting:
            gc.enable()


def simulate(seed: int, options: RunOptions | None = None) -> Report:
    """Run one seed. The same seed and options give the same run, event by event."""
    loop = VirtualLoop()
    try:
        return _simulate(loop, seed, options or RunOptions())
    finally:
        loop.close()


def _simulate(loop: VirtualLoop, seed: int, options: RunOptions) -> Report:
    asyncio.events._set_running_loop(None)  # noqa: SLF001 - a run within a run would be a bug
    world = World(loop, seed, options)

    def on_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if loop.over or error is None or isinstance(error, SimulatedCrash):
            return
        process = current_process()
        name = "the simulation" if process is None else process.name
        world.history.violation("exception", f"in {name}: {context['message']}: {type(error).__name__}: {error}")

    loop.set_exception_handler(on_exception)
    began_s = loop.time()
    with _quiet(world.trace, seed), virtual_agents(loop):
        try:
            loop.run_until_complete(world.run())
        except LoopStuckError as error:
            world.history.violation("spinning", str(error))
        seconds = loop.time() - began_s
        report = Report(
            seed=seed,
            violations=world.history.violations,
            faults=dict(sorted(world.trace.faults.items())),
            commands=dict(sorted(world.history.effects.items())),
            acknowledged=len(world.history.acknowledged),
            entries=len(world.history.entries),
            reads=len(world.history.reads),
            simulated_s=round(seconds, 3),
            digest=world.trace.hexdigest(),
            trace=list(world.trace.events),
        )
        loop.over = True
        world.cluster.close()
        _bury(world, loop)
    return report


def _bury(world: World, loop: VirtualLoop) -> None:
    """Tear down what is left, without warnings: coroutines that never end are closed here."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _unraisable: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of dead processes that never began
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
            loop.bury()
            world.cluster.retained.clear()
            world.__dict__.clear()
            gc.collect()
    finally:
        sys.unraisablehook = hook


__all__ = ["GUARD_RULES", "NO_RULES", "Report", "RunOptions", "World", "make_plan", "simulate"]
