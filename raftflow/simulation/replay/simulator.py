"""The trace simulator: recorded workflows on virtual agents, with the real scheduler and the real state machine.

Time is virtual and goes from event to event. Between two decisions lies at least one *tick*: what ends within it is
reported together and placed together, as a leader does whose round takes that long. All commands go through the
state machine as they would from the log; no replicas, no network. A load of at most `SEALED_TASKS_MAX` tasks goes
through encoded entries and the audit chain too, and every table is checked at the end; larger loads skip the
encoding alone, which changes no decision.

Agents have no prefetch here: what is placed starts at once. The simulation is a function of its input and the seed.
"""

from __future__ import annotations

import gc
import resource
import time
from array import array
from collections.abc import Callable, Iterable, Sequence

import msgspec

from raftflow.domain.commands import AnyCommand, CommitPlacements, FireTimers, Placement, SubmitWorkflow, encode_entry
from raftflow.domain.events import AgentChanged, Event, TaskNotReady, TaskReady
from raftflow.domain.replies import AgentAccepted, AnyReply, Placed, Reported
from raftflow.domain.tasks.feasibility import AgentRoom, Shape
from raftflow.machine.apply import apply_command
from raftflow.machine.machine import Machine
from raftflow.machine.read import invariants, queries
from raftflow.scheduler.place import decide
from raftflow.scheduler.plan.plan import MILLI, PlanAgent
from raftflow.scheduler.policies import DEFAULT_POLICY, PLACEMENT_RULES
from raftflow.scheduler.queue.ready_queue import ReadyQueue
from raftflow.scheduler.reservations import Reservations
from raftflow.scheduler.view import PlacementView, has_room
from raftflow.simulation.replay.load import Load, load_bounds
from raftflow.simulation.replay.report import Failures, TraceReport, balance_of, waiting_of
from raftflow.simulation.replay.virtual_fleet import REPAIR_MS, VirtualAttempt, VirtualFleet

SEALED_TASKS_MAX = 200_000
COMMANDS_PER_ENTRY_MAX = 1_024
PLACEMENTS_MAX = 8_192
TICK_MS = 10
START_MS = 1
"""A clock of 0 stands for "not yet" in the tables."""
GIVEN_STEP_MS = 1_000
"""Agents that were given the same work, to the second, count as equal."""


class TraceStuckError(Exception):
    """Tasks are left, and nothing will ever happen again."""


class _LightMachine(Machine):
    """A state machine that takes commands as they are, without entries around them and without the audit chain."""

    def apply_commands(self, commands: Iterable[AnyCommand]) -> tuple[list[AnyReply], list[Event]]:
        """Apply a batch."""
        self.applied_index += 1
        index, step = self.applied_index, self._step
        replies = [apply_command(step, command, index, position, 1)[0] for position, command in enumerate(commands)]
        return replies, step.take_events()


class Simulation:
    """One run."""

    def __init__(
        self,
        load: Load,
        agents: Sequence[PlanAgent],
        fails_per_hour: Sequence[float],
        *,
        policy: str = DEFAULT_POLICY,
        tick_ms: int = TICK_MS,
        repair_ms: int = REPAIR_MS,
        seed: int = 1,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare a run. Raises `PlanError` if a task could run on none of the agents."""
        self._load = load
        self._plan_agents = agents
        self._policy = policy
        self._ranks = PLACEMENT_RULES[policy].ranks
        self._tick_ms = tick_ms
        self._progress = progress
        self._bounds = load_bounds(load, agents)
        self._fleet = VirtualFleet(agents, fails_per_hour, seed, repair_ms)
        self._sealed = load.tasks <= SEALED_TASKS_MAX
        self._machine = _LightMachine()
        self._queue = ReadyQueue()
        self._rooms: dict[str, AgentRoom] = {}
        """Agents that are up and have room."""
        self._full: dict[str, AgentRoom] = {}
        """Agents that are up and have none."""
        self._reservations = Reservations()
        self._changed: dict[str, None] = {}
        self._templates: dict[str, int] = {}
        self._expected_ms = [
            [max(1, 1_000 if task.expected_ms is None else task.expected_ms) for task in spec.tasks]
            for spec in load.templates
        ]
        self._ready_ms: dict[tuple[str, int], int] = {}
        self._waits = array("q")
        self._ended = 0
        self._decisions = 0
        self._entries = 0
        self._skipped = 0
        self._now_ms = START_MS

    def run(self) -> TraceReport:
        """Simulate to the end. Raises `TraceStuckError` if the work cannot end."""
        begun = time.perf_counter()
        self._apply(self._fleet.registrations(START_MS))
        self._submit()
        # What is there now stays: the collector does not have to look at it again.
        gc.collect()
        gc.freeze()
        try:
            self._go(begun)
        finally:
            gc.unfreeze()
        return self._report(time.perf_counter() - begun)

    def _submit(self) -> None:
        for copy, template in enumerate(self._load.order):
            workflow_id = f"wf-{copy + 1:06d}"
            self._templates[workflow_id] = template
            spec = self._load.templates[template]
            self._apply([SubmitWorkflow(at_ms=self._now_ms, actor="client:sim", workflow_id=workflow_id, spec=spec)])

    def _go(self, begun: float) -> None:
        total = self._load.tasks
        told = 0
        self._decide()
        while self._ended < total and self._machine.tables.live_tasks:
            next_ms = self._fleet.next_ms()
            timer_ms = self._machine.tables.next_timer_ms
            due_ms = [at_ms for at_ms in (next_ms, timer_ms) if at_ms is not None]
            if not due_ms:
                raise TraceStuckError(f"{total - self._ended} tasks wait for what no agent will ever have")
            self._now_ms = max(min(due_ms), self._now_ms + self._tick_ms)
            if timer_ms is not None and timer_ms <= self._now_ms:  # an agent's quarantine is over, for instance
                self._apply([FireTimers(at_ms=self._now_ms, actor="leader:sim")])
            self._apply(self._fleet.advance(self._now_ms))
            self._decide()
            if self._progress is not None and self._ended - told >= total // 20:
                told = self._ended
                self._progress(
                    f"{self._ended} of {total} tasks, {self._now_ms / MILLI:.0f} s simulated "
                    f"in {time.perf_counter() - begun:.0f} s"
                )

    def _apply(self, commands: Sequence[AnyCommand]) -> None:
        """Take commands through the state machine and follow what they caused."""
        for first in range(0, len(commands), COMMANDS_PER_ENTRY_MAX):
            self._apply_entry(commands[first : first + COMMANDS_PER_ENTRY_MAX])

    def _apply_entry(self, commands: Sequence[AnyCommand]) -> None:
        self._entries += 1
        replies: Sequence[AnyReply]
        if self._sealed:
            result = self._machine.apply(self._machine.applied_index + 1, 1, encode_entry(tuple(commands)))
            replies, events = result.replies, result.events
        else:
            replies, events = self._machine.apply_commands(commands)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, Reported):
                self._ended += sum(verdict.verdict == "accepted" for verdict in reply.verdicts)
            elif isinstance(reply, Placed):
                assert isinstance(command, CommitPlacements)  # noqa: S101 - the machine's contract
                self._start(command.placements, reply.fences)
            elif isinstance(reply, AgentAccepted):
                self._fleet.registered(reply.name, reply.incarnation)
        self._observe(events)

    def _observe(self, events: Iterable[Event]) -> None:
        queue, machine = self._queue, self._machine
        for event in events:
            if isinstance(event, TaskReady):
                task = queries.ready_task(machine, event.workflow_id, event.task)
                if task is not None:
                    if not self._ranks:
                        task = msgspec.structs.replace(task, rank=0)
                    queue.add(task)
                    self._ready_ms.setdefault((event.workflow_id, event.task), self._now_ms)
            elif isinstance(event, TaskNotReady):
                queue.discard(event.workflow_id, event.task)
            elif isinstance(event, AgentChanged):
                self._changed[event.name] = None

    def _decide(self) -> None:
        """Place until nothing more can be placed now."""
        while len(self._queue):
            for name in self._changed:
                self._look_at(name)
            self._changed.clear()
            if not self._rooms:
                return
            self._queue.now_ms = self._now_ms
            groups = self._queue.groups(PLACEMENTS_MAX)
            decision = decide(
                PlacementView(
                    agents=tuple(self._rooms.values()),
                    groups=groups,
                    placements_max=PLACEMENTS_MAX,
                    policy=self._policy,
                    full=tuple(self._full.values()),
                    reserved=self._reserved(),
                )
            )
            self._decisions += 1
            self._reservations.note(self._now_ms, decision, dict.fromkeys(group.shape for group in groups))
            if not decision.placements:
                return
            placements = tuple(decision.placements)
            self._apply([CommitPlacements(at_ms=self._now_ms, actor="leader:sim", placements=placements)])

    def _look_at(self, name: str) -> None:
        """Take an agent as it is now."""
        self._rooms.pop(name, None)
        self._full.pop(name, None)
        room = queries.agent_room(self._machine, name)
        if room is not None:
            virtual = self._fleet.agents[self._fleet.number[name]]
            agent = virtual.agent
            room = msgspec.structs.replace(
                room, speed=agent.speed_milli, cost=agent.cost_rate_milli, given=virtual.given_ms // GIVEN_STEP_MS
            )
            (self._rooms if has_room(room) else self._full)[name] = room

    def _reserved(self) -> dict[str, Shape]:
        if self._reservations.idle:
            return {}
        return self._reservations.choose(
            self._now_ms, {**self._rooms, **self._full}, lambda name: queries.holdings(self._machine, name)
        )

    def _start(self, placements: Sequence[Placement], fences: Sequence[int]) -> None:
        workflows = self._machine.tables.workflows
        for placement, fence in zip(placements, fences, strict=True):
            if not fence:
                self._skipped += 1
                continue
            workflow_id, position = placement.workflow_id, placement.task
            workflow = workflows[workflow_id]
            task = workflow.tasks[position]
            demand = workflow.profiles[task.profile].shape.demand
            self._waits.append(self._now_ms - self._ready_ms.pop((workflow_id, position)))
            expected_ms = self._expected_ms[self._templates[workflow_id]][position]
            work = VirtualAttempt(workflow_id, task.id, self._now_ms, demand)
            self._fleet.start(fence, self._fleet.number[placement.agent], work, expected_ms)

    def _report(self, real_s: float) -> TraceReport:
        fleet = self._fleet
        makespan_ms = self._now_ms - START_MS
        makespan_s = makespan_ms / MILLI
        capacity: dict[str, int] = {}
        for agent in self._plan_agents:
            for name, amount in agent.capacity.items():
                capacity[name] = capacity.get(name, 0) + amount
        tasks = self._load.tasks
        return TraceReport(
            policy=self._policy,
            workflows=len(self._load.order),
            tasks=tasks,
            agents=len(fleet.agents),
            makespan_s=makespan_s,
            cost=fleet.cost_micro / MILLI**2,
            lower_bounds=self._bounds,
            gap=makespan_s / self._bounds.best_s - 1,
            utilisation={
                name: fleet.used.get(name, 0) / (amount * makespan_ms)
                for name, amount in sorted(capacity.items())
                if amount
            },
            balance=balance_of([virtual.busy_ms for virtual in fleet.agents]),
            waiting=waiting_of(self._waits),
            failures=Failures(
                agents=fleet.failures,
                attempts_lost=fleet.attempts_lost,
                wasted_s=fleet.wasted_ms / MILLI,
                tasks_failed=tasks - self._ended,
            ),
            placements=len(self._waits),
            skipped=self._skipped,
            decisions=self._decisions,
            entries=self._entries,
            tick_ms=self._tick_ms,
            sealed=self._sealed,
            problems=invariants.check(self._machine) if self._sealed else [],
            real_s=real_s,
            tasks_per_s=tasks / real_s,
            memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        )
