"""The tables: workflows with their tasks, agents, remembered requests, timers. Data only; see `apply.py` for rules.

Records that exist by the million are structs outside the garbage collector: they hold no reference back to what
holds them (a task names its agent, an agent's table of live attempts holds the tasks), so there are no cycles that it
would have to find. Nor is there much that it would have to walk: tuples and tables of such records are outside as
well, while long lists would be walked by every full collection, which stops the replica meanwhile.

Records are encoded as they are into snapshots, so a new field goes to the end and gets a default.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.features import LEVEL_FIRST
from raftflow.domain.limits import REQUEST_IDS_MAX
from raftflow.domain.tasks.feasibility import Shape
from raftflow.domain.tasks.preparation import NO_FACTS, GraphFacts
from raftflow.domain.tasks.program import Program
from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskState, WorkflowState
from raftflow.domain.tasks.workflow import OnFailure
from raftflow.machine.tables.agent_timers import AgentTimers
from raftflow.machine.tables.requests import RequestTable
from raftflow.machine.tables.results import ResultTable
from raftflow.machine.tables.timers import Timers

if TYPE_CHECKING:
    from raftflow.machine.tables.upload import Upload

ORDER_NONE = 0
ORDER_RELEASE = 1
"""The agent is asked to give the queued attempt back if it has not started."""
ORDER_STOP = 2
"""The agent is told to end the attempt."""
ORDER_MOVE = 3
"""The agent is told to end the running attempt, and the task runs elsewhere at no cost."""

DRAIN_OVER = -1
"""In the place of a drain deadline: it has passed, and what still ran was ordered to move."""

REVOKED_FENCES_MAX = 1_024
"""Fences that an agent is still told to stop although their attempts are over."""


class Attempt(msgspec.Struct, array_like=True, gc=False, eq=False):
    """One try to run a task on one agent. Live until `outcome` is set."""

    number: int
    """From 1, per task."""
    fence: int
    """Grows over all attempts of all tasks."""
    agent: str
    incarnation: int
    assigned_ms: int
    started_ms: int = 0
    """When its demand was allocated; 0 while it waits in the queue."""
    deadline_ms: int = 0
    """When the machine gives up on it; 0 for never."""
    order: int = ORDER_NONE
    finished_ms: int = 0
    outcome: AttemptOutcome | None = None
    exit_code: int | None = None
    error: str = ""
    index: int = 0
    """Place in the log of the decision that made it."""

    @property
    def ordered(self) -> bool:
        """True if its agent was told to stop it, to give it back or to move it."""
        return self.order != ORDER_NONE


class LossHistory(msgspec.Struct, array_like=True, gc=False, eq=False):
    """What only few tasks have: agents lost while they ran, and a second attempt with what came of it."""

    agents_lost: int = 0
    """Agents that were lost while it ran there, since it was submitted or retried (`attempts`)."""
    paired: bool = False
    """Its present attempt has a backup, or had one, or is one: it gets no other (`backups`)."""
    failed: bool = False
    """The attempt beside its present one failed, which counts if that one ends without success."""
    grown: int | None = None
    """The attempt beside its present one outgrew its memory: the profile of the next attempt."""
    agent_faults: int = 0
    """Attempts that were the fault of their agents, since it was submitted or retried (`attempts`)."""


class Task(msgspec.Struct, array_like=True, gc=False, eq=False):
    """A task and where it is in its life."""

    id: str
    position: int
    profile: int
    """Index in the workflow's profiles: what it runs and what it wants."""
    needs: tuple[int, ...]
    """Positions of the tasks that it needs."""
    rank: int
    state: TaskState
    open_needs: int
    """Needs that have not succeeded."""
    attempts: int = 0
    """Number of the present or last attempt."""
    failures: int = 0
    """Failed attempts since the workflow was submitted or retried."""
    losses: int = 0
    """Attempts in a row that were taken away without its own fault, or so it seems."""
    due_ms: int = 0
    """End of the back-off while delayed."""
    finished_ms: int = 0
    last: Attempt | None = None
    """The present or last attempt."""
    history: tuple[Attempt, ...] = ()
    """Attempts before `last`, oldest first, bounded."""
    result: bytes = b""
    detail: str = ""
    """Why it failed or was cancelled."""
    backup: Attempt | None = None
    """A second live attempt, which started after `last` and may overtake it. Only a running task has one."""
    claim: str = ""
    """Among equal tasks one runs and the others wait for it: what they are known by (`rules/cache.py`). Empty for a
    task
    that is not cached, whose needs are not met, or that has ended."""
    cached: bool = False
    """It succeeded by the result of an equal task."""
    waits: tuple[int, ...] | None = None
    """Those of its needs that it waits for, where some are redundant (`domain.preparation`); None for all."""
    mishaps: LossHistory | None = None
    """None while there is nothing to tell."""

    @property
    def waited(self) -> tuple[int, ...]:
        """Positions of the tasks whose success it waits for."""
        return self.needs if self.waits is None else self.waits


def attempt_of(task: Task, fence: int) -> Attempt:
    """Return the live attempt of a task that an agent's table holds under `fence`."""
    attempt = task.last
    if attempt is None or attempt.fence != fence:
        attempt = task.backup
    assert attempt is not None and attempt.fence == fence  # noqa: S101, PT018 - what is in the table is one of the two
    return attempt


def attempts_of(task: Task) -> list[Attempt]:
    """Return the remembered attempts of a task, live ones included, in order of their numbers."""
    attempts = [*task.history]
    if task.last is not None:
        attempts.append(task.last)
    if task.backup is not None:
        attempts.append(task.backup)
    attempts.sort(key=lambda attempt: attempt.number)
    return attempts


class Profile(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a task runs and wants: everything of its spec but id and needs. Equal ones of a workflow are shared."""

    program: Program
    env: dict[str, str]
    cwd: str | None
    shape: Shape
    retries: int
    retry_delay_ms: int
    retry_delay_max_ms: int
    timeout_ms: int | None
    grace_ms: int
    kind: str | None = None
    """By what durations and use are learnt; None if it has none (`domain.tasks.kinds`)."""
    cache: str | None = None
    """Template of the key of its result, empty for the automatic one, None if it is not cached."""
    memory_max_mib: int | None = None
    backup: bool = False
    """A second attempt may start beside one that is late."""


class Workflow(msgspec.Struct, gc=False, eq=False):
    """A workflow and its tasks, in document order."""

    number: int
    """In order of submission, from 1."""
    id: str
    name: str
    priority: int
    on_failure: OnFailure
    submitted_ms: int
    finished_ms: int = 0
    """0 until the last task ended."""
    finished_number: int = 0
    """In order of finishing, from 1; 0 while unfinished."""
    paused: bool = False
    cancelled: bool = False
    """A client cancelled it."""
    stopping: bool = False
    """A task failed for good and the rest is cancelled."""
    placed: bool = False
    """An attempt has been placed."""
    warnings: tuple[str, ...] = ()
    max_parallel: int | None = None
    """Most of its tasks that may be queued or running."""
    profiles: Sequence[Profile] = ()
    tasks: Sequence[Task] = ()
    """This and the like are tuples: unlike lists these are left alone by the garbage collector."""
    by_id: dict[str, Task] = msgspec.field(default_factory=dict)
    dependents: Sequence[Sequence[int]] = ()
    """For each task the positions of those that wait for it, in order."""
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * len(TaskState))
    """Tasks by state."""
    backups: int = 0
    """Backup attempts that live."""
    open: int = 0
    """Tasks that have not ended."""
    facts: GraphFacts = NO_FACTS
    """What its graph is like."""
    cached: int = 0
    """Tasks that succeeded by the result of an equal one."""
    caches: bool = False
    """Some of its tasks are cached."""
    result_bytes: int = 0
    """Of the results of its tasks, all together."""

    @property
    def state(self) -> WorkflowState:
        """The public state."""
        if self.finished_ms:
            if self.cancelled:
                return WorkflowState.CANCELLED
            return WorkflowState.FAILED if self.counts[TaskState.FAILED] else WorkflowState.SUCCEEDED
        if self.paused:
            return WorkflowState.PAUSED
        return WorkflowState.RUNNING if self.placed else WorkflowState.PENDING

    def index_tasks(self) -> None:
        """Build everything that follows from the tasks: lookups, dependents, counts."""
        self.tasks = tuple(self.tasks)
        self.by_id = {task.id: task for task in self.tasks}
        dependents: list[list[int]] = [[] for _ in self.tasks]
        counts = [0] * len(TaskState)
        self.backups = 0
        for task in self.tasks:
            counts[task.state] += 1
            if task.backup is not None:
                self.backups += 1
            for need in task.waited:
                dependents[need].append(task.position)
        self.dependents = tuple([tuple(positions) for positions in dependents])
        self.counts = counts
        self.result_bytes = sum([len(task.result) for task in self.tasks])
        self.cached = sum(task.cached for task in self.tasks)
        self.caches = any(profile.cache is not None for profile in self.profiles)
        self.open = len(self.tasks) - sum(counts[TaskState.SUCCEEDED :])


class AgentClass(msgspec.Struct, frozen=True):
    """What agents have in common that could run the same tasks."""

    capacity: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, str], ...]


_PRESENT = frozenset({AgentState.UP, AgentState.DRAINING, AgentState.QUARANTINE})


class Agent:
    """An agent in one incarnation, its account in the ledger, and its live attempts."""

    __slots__ = (
        "alone",
        "capacity",
        "contradicted",
        "drain_deadline_ms",
        "drained",
        "faults",
        "free",
        "home",
        "incarnation",
        "instance",
        "labels",
        "live",
        "losses",
        "lost_ms",
        "name",
        "prefetch",
        "quarantine_until_ms",
        "queue",
        "state",
        "streak",
        "void",
    )

    def __init__(
        self,
        name: str,
        instance: str,
        incarnation: int,
        *,
        capacity: dict[str, int],
        labels: dict[str, str],
        prefetch: int,
        home: str = "",
        state: AgentState = AgentState.UP,
    ) -> None:
        self.name = name
        self.instance = instance
        self.home = home
        """Shared with a process that takes its place; see `RegisterAgent`."""
        self.incarnation = incarnation
        self.capacity = capacity
        self.labels = labels
        self.prefetch = prefetch
        self.state = state
        self.free = dict(capacity)
        """Capacity less the demands of the running attempts."""
        self.alone = False
        """An exclusive attempt runs on it."""
        self.live: dict[int, tuple[Workflow, Task]] = {}
        """Queued and running attempts by fence, in the order in which they were assigned."""
        self.queue: deque[int] = deque()
        """Fences of the queued ones, in order."""
        self.void: list[int] = []
        """Fences of attempts that are over here but that the agent may still run: it is told to stop them."""
        self.drain_deadline_ms = 0
        """When what runs is moved if it still drains; 0 for never, `DRAIN_OVER` once that was ordered."""
        self.drained = False
        """An operator drained it and has not resumed it since, over all incarnations."""
        self.losses = 0
        """Losses in short succession, over all incarnations. See `rules/quarantine.py`; the same holds for what
        follows."""
        self.lost_ms = 0
        """When it was lost last."""
        self.quarantine_until_ms = 0
        """0 unless it is in quarantine."""
        self.faults = 0
        """Per mille of its last attempts that were its fault, or failed there."""
        self.streak = 0
        """Attempts that failed there, one after the other, since the last success."""
        self.contradicted = 0
        """Tasks that failed there since the last success, and succeeded elsewhere."""

    @property
    def present(self) -> bool:
        """True while the agent may hold work."""
        return self.state in _PRESENT

    @property
    def timer_ms(self) -> int:
        """When something happens to it by itself: the end of its quarantine or of its drain; 0 for never."""
        return self.quarantine_until_ms or max(self.drain_deadline_ms, 0)

    def kind(self) -> AgentClass:
        """Return what it could run."""
        return AgentClass(tuple(sorted(self.capacity.items())), tuple(sorted(self.labels.items())))


class Learnt(msgspec.Struct, array_like=True, gc=False):
    """What was learnt of a kind of tasks (`rules/learning.py`)."""

    kind: str
    count: int
    mean_us: int
    deviation_us: int
    cpu_ms: int
    peak_mib: int
    last_ms: int
    """When it was learnt last."""


class Claim:
    """Equal tasks, by workflow number and position: one that runs, or may run, and those that wait for it."""

    __slots__ = ("line", "owner")

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self.owner = owner
        """None only while a workflow is being stopped, or while a snapshot is read."""
        self.line: dict[tuple[int, int], None] = {}


class State:
    """Everything that is replicated, aside from the clock and the chain."""

    def __init__(self, requests_max: int = REQUEST_IDS_MAX) -> None:
        self.workflows: dict[str, Workflow] = {}
        """In order of submission."""
        self.by_number: dict[int, Workflow] = {}
        """The same by number, in the same order."""
        self.finished: dict[str, Workflow] = {}
        """Finished ones in the order in which they finished."""
        self.agents: dict[str, Agent] = {}
        """In order of incarnation, gone ones included."""
        self.kinds: dict[AgentClass, int] = {}
        """How many agents that are up are of each kind."""
        self.kinds_learnt: dict[str, Learnt] = {}
        """By kind of task, in the order in which they were met."""
        self.shapes: weakref.WeakValueDictionary[Shape, Shape] = weakref.WeakValueDictionary()
        """One object for equal shapes."""
        self.requests = RequestTable(requests_max)
        self.results = ResultTable()
        """Results that may stand for those of equal tasks."""
        self.claims: dict[str, Claim] = {}
        """Which of equal tasks runs, and which wait for it."""
        self.timers = Timers()
        self.agent_timers = AgentTimers()
        self.live_tasks = 0
        """Tasks of unfinished workflows."""
        self.result_bytes = 0
        """Of the results of all workflows."""
        self.uploads: dict[str, Upload] = {}
        """Workflows that come in pieces, in the order in which they were begun. Nobody is shown them."""
        self.upload_tasks = 0
        """Tasks that they will have."""
        self.fence = 0
        """The last one given. The same holds for the numbers that follow."""
        self.incarnation = 0
        self.workflow_number = 0
        self.finished_number = 0
        self.feature_level = LEVEL_FIRST
        """See `domain.features`."""

    @property
    def next_timer_ms(self) -> int | None:
        """When the earliest timer is due, None if there is none."""
        of_tasks, of_agents = self.timers.next_due_ms(self.by_number), self.agent_timers.next_due_ms()
        if of_tasks is None or of_agents is None:
            return of_agents if of_tasks is None else of_tasks
        return min(of_tasks, of_agents)

    def shape(self, shape: Shape) -> Shape:
        """Return the shared object that equals `shape`."""
        return self.shapes.setdefault(shape, shape)

    def add_kind(self, agent: Agent, count: int) -> None:
        """Count an agent that came up (1) or is no longer up (-1)."""
        kind = agent.kind()
        left = self.kinds.pop(kind, 0) + count
        if left:
            self.kinds[kind] = left
