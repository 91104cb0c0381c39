"""The watch over work that is under way: what should rather be somewhere else while agents stand idle.

Looked at every `WATCH_S`. What is in the way of a more urgent task is asked back (`precedence`). The rest is done
only once the scheduler has found nothing to place: fresh work comes first, and nothing below takes room from it.

**Moved work.** Attempts that wait in the queue of a busy agent while others have nothing to do are asked back
(`RecallAttempts`). The agent gives back what it has not started, and the ordinary placing finds the idle agent. How
many are asked back follows from the scheduler itself: what it would place elsewhere, it gets. Equals share a queue by
half, others by their speeds.

**Backup attempts.** An attempt that has run far longer than its kind takes, or that would take far longer on its slow
agent than it would take anew elsewhere, gets a second one on an idle agent (`CommitBackups`), if its task allows
that (`backup`): then the task may run twice at the same time. The first to succeed wins. A task whose progress says
that it will be done soon is left alone, and no attempt gets more than one.

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
"""How often the watch looks."""
LOOKED_AT_MAX = 2_000
"""Running attempts that one look judges; the next look goes on from there."""
MOVED_MAX = 512
"""Queued attempts that one look considers."""
BACKUPS_MAX = 64
"""Backups that one look starts."""
GAIN_MIN = 2
"""A backup on a faster agent is worth it if what is left here takes so many times as long as all of it there."""
_PER_MILLE = 1_000


class _ObservedAttempt(NamedTuple):
    """An attempt that runs."""

    workflow: WorkflowRow
    task: TaskRow
    attempt: AttemptRow

    @property
    def may_be_backed_up(self) -> bool:
        """True if its task allows a backup attempt, had none beside this attempt, and is to go on."""
        workflow = self.workflow
        return (
            workflow.profiles[self.task.profile].backup
            and wants_backup(self.task)
            and not workflow.paused
            and not at_limit(workflow)
        )


class Rebalancer:
    """Decides what is asked back and what gets a backup.

    Args:
        delivered_s: when an agent was sent an attempt (`PollDesk.delivered_s`). Late counts from then, since
            nothing could run before.
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
        """Where among the agents the next look for late attempts begins."""

    def look(self) -> list[AnyCommand]:
        """Return what to propose now."""
        ahead = [
            self._recall(name, fences) for name, fences in attempts_in_the_way(self._machine, self._planner).items()
        ]
        return [*ahead, *(self._elsewhere() if self._planner.settled else ())]

    def _elsewhere(self) -> list[AnyCommand]:
        """Return what is better off on agents that stand idle, if nothing fresh waits for them."""
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
        # Their queues are filled to their share of the longest one, so that the next look finds them even.
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
        """Return how much of a queue may go elsewhere: half of it among equals, more of it if its agent is slow."""
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
        """Yield the next running attempts, in the order of the agents and from the beginning after the last."""
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
        """Tell whether an attempt is far over its time, or will be."""
        attempt = run.attempt
        found = expectation(self._machine, run.workflow, run.task)
        if found is None:
            return False
        delivered_s = self._delivered_s(attempt.agent, attempt.fence)
        if delivered_s is None:
            return False  # it has not begun, or its agent has yet to find this leader
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
        """Return how long an attempt will still take by its own progress, None if it does not tell."""
        sample = self._usage.get(attempt.agent, attempt.fence)
        if sample is None or not sample.progress:
            return None
        stands_s = 0.0 if sample.progress_at_s is None else self._now_s() - sample.progress_at_s
        if stands_s * 2 * _PER_MILLE > run_ms:
            return None  # it stood still for half of its time
        return int(run_ms * (1 - sample.progress) / sample.progress)

    def _placed(self, tasks: list[ReadyTask], rooms: list[AgentRoom], limit: int) -> list[Placement]:
        """Ask the scheduler."""
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
    """Yield fences that may be asked back: the last `count` of the queue, the last first, and not those asked."""
    for fence in islice(reversed(agent.queue), count):
        workflow, task = agent.live[fence]
        if not live_attempt(task, fence).ordered and not workflow.paused:
            yield fence


def _as_ready(workflow: WorkflowRow, task: TaskRow, avoid: tuple[str, ...]) -> ReadyTask:
    """Return a task as if it were ready, to go anywhere but where it is."""
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
    """Runs the watch on the leader, while there is anything to watch.

    Args:
        replan: has the leader plan anew, since time alone may have changed what is to be placed.
        on_bug: told about an exception that is none of the expected ones; the replica must stop.
    """

    def __init__(
        self,
        *,
        watch: Rebalancer,
        machine: Machine,
        submitter: Submitter,
        replan: Callable[[], None],
        on_bug: Callable[[BaseException], None],
    ) -> None:
        self._watch = watch
        self._machine = machine
        self._submitter = submitter
        self._look_again = replan
        self._coalesced = CoalescedTask("watch", self._propose, on_bug)
        self._timer: asyncio.TimerHandle | None = None
        self._leading = False

    def start(self) -> None:
        """This replica leads."""
        self._leading = True
        self._coalesced.start()
        self._arm()

    def stop(self) -> None:
        """It does no longer."""
        self._leading = False
        self._coalesced.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_applied(self, events: list[Event]) -> None:
        """Begin to watch again if agents have anything to do."""
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
        queued = [self._submitter.enqueue(command) for command in self._watch.look()]
        # What got no reply is decided anew by the next look.
        replies = [reply for reply in queued if isinstance(reply, asyncio.Future)]
        await asyncio.gather(*replies, return_exceptions=True)
