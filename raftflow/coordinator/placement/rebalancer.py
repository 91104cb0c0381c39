"""The rebalancer: work that is under way and would be better on another agent.

It looks every `WATCH_S`. Attempts that are in the way of a more urgent task are recalled (`precedence`). The rest
happens only when the scheduler has nothing to place: fresh work comes first, and nothing below takes room from it.

**Moved work.** Attempts that wait in the queue of a busy agent while others are idle are recalled (`RecallAttempts`).
The agent gives back what it has not started, and the ordinary placing finds the idle agent. The scheduler itself says
how many are recalled: those that it would place elsewhere. Agents of equal speed share a queue by half, others by
their speeds.

**Backup attempts.** A late attempt gets a second one on an idle agent (`CommitBackups`), if its task allows that
(`backup`): then the task may run twice at the same time. An attempt is late if it has run far longer than its kind
takes, or if a new one elsewhere would end far earlier than it does on its slow agent. The first to succeed wins. A
task whose progress says that it will end soon gets no backup, and no attempt gets more than one.

Both are proposals: `apply` checks each again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raftflow.coordinator.commit.coalesced_task import CoalescedTask
from raftflow.coordinator.placement.precedence import attempts_in_the_way
from raftflow.domain.commands import CommitBackups, Placement, RecallAttempts
from raftflow.domain.events import AgentChanged, Event
from raftflow.domain.tasks.feasibility import AgentRoom, ReadyTask
from raftflow.machine.read.running import PATIENCE_MIN_MS, at_limit, expectation, live_attempt, wants_backup
from raftflow.scheduler.order import order_key
from raftflow.scheduler.place import place
from raftflow.scheduler.view import Group, PlacementView

if TYPE_CHECKING:
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.coordinator.placement.agent_stats import AgentStats
    from raftflow.coordinator.placement.planner import QueuePlanner
    from raftflow.coordinator.placement.usage import UsageStore
    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.tasks.feasibility import Shape
    from raftflow.machine.machine import Machine
    from raftflow.machine.rows import AgentRow, AttemptRow, TaskRow, WorkflowRow

WATCH_S = 0.5
"""How often the rebalancer looks."""
LOOKED_AT_MAX = 2_000
"""Running attempts that one look considers; the next look continues from there."""
MOVED_MAX = 512
"""Queued attempts that one look considers."""
BACKUPS_MAX = 64
"""Backups that one look starts."""
GAIN_MIN = 2
"""A backup on a faster agent is started if the rest here takes this many times as long as the whole task there."""
_PER_MILLE = 1_000


class _ObservedAttempt(NamedTuple):
    """An attempt that runs."""

    workflow: WorkflowRow
    task: TaskRow
    attempt: AttemptRow

    @property
    def may_be_backed_up(self) -> bool:
        """True if its task allows a backup attempt, has none beside this attempt, and its workflow continues."""
        workflow = self.workflow
        return (
            workflow.profiles[self.task.profile].backup
            and wants_backup(self.task)
            and not workflow.held
            and not at_limit(workflow)
        )


class Rebalancer:
    """Decides which attempts are recalled and which get a backup.

    Args:
        delivered_s: when an agent was sent an attempt (`PollService.delivered_s`). Lateness counts from then.
        now_ms: the cluster's time.
        now_s: the event loop's time.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        planner: QueuePlanner,
        agent_stats: AgentStats,
        usage: UsageStore,
        actor: str,
        delivered_s: Callable[[str, int], float | None],
        now_ms: Callable[[], int],
        now_s: Callable[[], float],
    ) -> None:
        self._delivered_s = delivered_s
        self._machine = machine
        self._planner = planner
        self._agent_stats = agent_stats
        self._usage = usage
        self._actor = actor
        self._now_ms = now_ms
        self._now_s = now_s
        self._next = 0
        """The place among the agents where the next look for late attempts begins."""

    def decide(self) -> list[AnyCommand]:
        """Return the commands to propose now."""
        ahead = [
            self._recall(name, fences) for name, fences in attempts_in_the_way(self._machine, self._planner).items()
        ]
        return [*ahead, *(self._moves_to_idle() if self._planner.settled else ())]

    def _moves_to_idle(self) -> list[AnyCommand]:
        """Return recalls and backups for idle agents."""
        idle = [room for room in self._planner.rooms().values() if not room.queued and not room.suspect]
        idle = [room for room in idle if any(room.free.values())]
        if not idle:
            return []
        return [*self._recalls(idle), *self._backups(idle)]

    # --- moved work

    def _recalls(self, idle: list[AgentRoom]) -> list[RecallAttempts]:
        agents = self._machine.tables.agents
        busy = [agent for agent in agents.values() if agent.queue and agent.present]
        if not busy:
            return []
        busy.sort(
            key=lambda agent: (-len(agent.queue) * _PER_MILLE // self._agent_stats.speed(agent.name), agent.name)
        )
        best = max(room.speed for room in idle)
        fences: dict[tuple[str, int], tuple[str, int]] = {}
        tasks: list[ReadyTask] = []
        for agent in busy:
            for fence in _movable(agent, self._share(agent, best)):
                if len(tasks) == MOVED_MAX:
                    break
                workflow, task = agent.live[fence]
                fences[workflow.id, task.position] = (agent.name, fence)
                tasks.append(_as_ready(workflow, task, (agent.name,)))
        # Idle agents get their share of the longest queue, so that the next look finds all queues even.
        share = len(busy[0].queue) * best // (best + self._agent_stats.speed(busy[0].name))
        rooms = [msgspec.structs.replace(room, prefetch=min(room.prefetch, share)) for room in idle]
        wanted: dict[str, list[int]] = {}
        for placement in self._placed(tasks, rooms, MOVED_MAX):
            name, fence = fences[placement.workflow_id, placement.task]
            if placement.agent != name:
                wanted.setdefault(name, []).append(fence)
        return [self._recall(name, asked) for name, asked in wanted.items()]

    def _recall(self, agent: str, fences: list[int]) -> RecallAttempts:
        return RecallAttempts(
            at_ms=self._now_ms(),
            actor=self._actor,
            agent=agent,
            incarnation=self._machine.tables.agents[agent].incarnation,
            fences=tuple(sorted(fences)),
        )

    def _share(self, agent: AgentRow, best_speed: int) -> int:
        """Return how much of a queue may move: half of it among agents of equal speed, more if its agent is slow."""
        speeds = best_speed + self._agent_stats.speed(agent.name)
        return (len(agent.queue) * best_speed + speeds - 1) // speeds

    # --- backups

    def _backups(self, idle: list[AgentRoom]) -> list[CommitBackups]:
        now_ms = self._now_ms()
        best = max(room.speed for room in idle)
        late = [
            _as_ready(run.workflow, run.task, (run.attempt.agent,))
            for run in self._running()
            if run.may_be_backed_up and self._is_late(run, now_ms, best)
        ]
        if not late:
            return []
        rooms = [msgspec.structs.replace(room, prefetch=0) for room in idle]
        holder = {(task.workflow_id, task.task): task.avoid_hard[0] for task in late}
        placements = [
            placement
            for placement in self._placed(late, rooms, BACKUPS_MAX)
            if placement.agent != holder[placement.workflow_id, placement.task]
        ]
        if not placements:
            return []
        return [CommitBackups(at_ms=now_ms, actor=self._actor, placements=tuple(placements))]

    def _running(self) -> Iterable[_ObservedAttempt]:
        """Yield the next running attempts in the order of the agents, from the beginning again after the last."""
        agents = list(self._machine.tables.agents.values())
        count = 0
        self._next %= max(1, len(agents))
        for turn in range(len(agents)):
            agent = agents[(self._next + turn) % len(agents)]
            if count >= LOOKED_AT_MAX:
                self._next = (self._next + turn) % len(agents)
                return
            queued = set(agent.queue)
            for fence, (workflow, task) in agent.live.items():
                if fence not in queued:
                    count += 1
                    yield _ObservedAttempt(workflow, task, live_attempt(task, fence))
        self._next = 0

    def _is_late(self, run: _ObservedAttempt, now_ms: int, best_speed: int) -> bool:
        """Return True if an attempt is far over its time, or will be."""
        attempt = run.attempt
        found = expectation(self._machine, run.workflow, run.task)
        if found is None:
            return False
        delivered_s = self._delivered_s(attempt.agent, attempt.fence)
        if delivered_s is None:
            return False  # it has not begun, or its agent has not found this leader yet
        run_ms = now_ms - attempt.started_ms
        if delivered_s > -math.inf:
            run_ms = min(run_ms, int((self._now_s() - delivered_s) * 1000))
        left_ms = self._left_ms(attempt, run_ms)
        anew_ms = found.mean_ms * _PER_MILLE // best_speed
        if left_ms is not None and left_ms <= anew_ms:
            return False
        if run_ms >= found.late_ms:
            return True
        here_ms = (
            found.mean_ms * _PER_MILLE // self._agent_stats.speed(attempt.agent) - run_ms
            if left_ms is None
            else left_ms
        )
        return here_ms >= PATIENCE_MIN_MS and here_ms > GAIN_MIN * anew_ms

    def _left_ms(self, attempt: AttemptRow, run_ms: int) -> int | None:
        """Return how long an attempt will still take by its own progress, None if that is unknown."""
        sample = self._usage.get(attempt.agent, attempt.fence)
        if sample is None or not sample.progress:
            return None
        unchanged_s = 0.0 if sample.progress_at_s is None else self._now_s() - sample.progress_at_s
        if unchanged_s * 2 * _PER_MILLE > run_ms:
            return None  # no progress for half of its time
        return int(run_ms * (1 - sample.progress) / sample.progress)

    def _placed(self, tasks: list[ReadyTask], rooms: list[AgentRoom], limit: int) -> list[Placement]:
        """Return where the scheduler would place tasks."""
        groups: dict[Shape, list[ReadyTask]] = {}
        for task in sorted(tasks, key=order_key):
            groups.setdefault(task.shape, []).append(task)
        return place(
            PlacementView(
                agents=tuple(rooms),
                groups=tuple(
                    Group(shape=shape, keys=tuple(map(order_key, listed)), tasks=tuple(listed))
                    for shape, listed in groups.items()
                ),
                placements_max=limit,
                reserved=self._planner.reserved(),
            )
        )


def _movable(agent: AgentRow, count: int) -> Iterable[int]:
    """Yield the last `count` fences of the queue, the last first, except those that are recalled already."""
    for fence in islice(reversed(agent.queue), count):
        workflow, task = agent.live[fence]
        if not live_attempt(task, fence).ordered and not workflow.held:
            yield fence


def _as_ready(workflow: WorkflowRow, task: TaskRow, avoid: tuple[str, ...]) -> ReadyTask:
    """Return a task as if it were ready and might run on any agent except `avoid`."""
    return ReadyTask(
        workflow_id=workflow.id,
        task=task.position,
        shape=workflow.profiles[task.profile].shape,
        priority=workflow.priority,
        rank=task.rank,
        number=workflow.number,
        avoid_hard=avoid,
    )


class RebalanceLoop:
    """Runs the rebalancer on the leader while agents have work.

    Args:
        replan: makes the leader plan again, since time alone may have changed what it places.
        on_bug: told about an exception that is none of the expected ones; the replica must stop.
    """

    def __init__(
        self,
        *,
        rebalancer: Rebalancer,
        machine: Machine,
        submitter: Submitter,
        replan: Callable[[], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._rebalancer = rebalancer
        self._machine = machine
        self._submitter = submitter
        self._look_again = replan
        self._coalesced = CoalescedTask("rebalance", self._propose, on_bug)
        self._timer: asyncio.TimerHandle | None = None
        self._leading = False

    def start(self) -> None:
        """Start: this replica leads."""
        self._leading = True
        self._coalesced.start()
        self._arm()

    def stop(self) -> None:
        """Stop: this replica no longer leads."""
        self._leading = False
        self._coalesced.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_applied(self, events: list[Event]) -> None:
        """Start looking again if agents have changed."""
        if self._timer is None and self._leading and any(isinstance(event, AgentChanged) for event in events):
            self._arm()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._due)

    def _due(self) -> None:
        self._timer = None
        if any(agent.live for agent in self._machine.tables.agents.values()):
            self._look_again()
            self._coalesced.kick()
            self._arm()

    async def _propose(self) -> None:
        queued = [self._submitter.enqueue(command) for command in self._rebalancer.decide()]
        # The next look decides again about commands that got no reply.
        replies = [reply for reply in queued if isinstance(reply, asyncio.Future)]
        await asyncio.gather(*replies, return_exceptions=True)
