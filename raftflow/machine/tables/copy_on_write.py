"""Copy on write, by chunk: how a snapshot shows one moment while `apply` goes on.

When a snapshot opens, only references are taken. Tasks belong to chunks of `CHUNK` tasks of one workflow. The first
change in a chunk that the snapshot has not written yet makes it be encoded first; later the snapshot takes
those bytes. A chunk costs a few hundred microseconds, so neither a command nor a piece of the snapshot waits long.
Where results are large, single tasks take the place of chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.preparation import GraphFacts
from raftflow.domain.tasks.states import AgentState
from raftflow.domain.tasks.workflow import OnFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

CHUNK_BITS = 8
CHUNK = 1 << CHUNK_BITS
HEAVY_BYTES = 256 * 1024
"""Results in a chunk beyond which its tasks are kept one by one, and written in parts of about this size: 256 results
of 64 KiB would take some 20 ms to encode, and one entry may change tasks of many chunks."""

_encoder = msgspec.msgpack.Encoder()


class WorkflowRecord(msgspec.Struct, array_like=True, frozen=True):
    """A workflow without its tasks, as snapshots hold it."""

    number: int
    id: str
    name: str
    priority: int
    on_failure: OnFailure
    submitted_ms: int
    finished_ms: int
    finished_number: int
    paused: bool
    cancelled: bool
    stopping: bool
    placed: bool
    warnings: tuple[str, ...]
    profiles: int
    """How many follow, and then how many tasks."""
    tasks: int
    max_parallel: int | None
    facts: GraphFacts
    spawned_bytes: int = 0
    code: str = ""
    budgets: tuple[Budget, ...] = ()


class AgentRecord(msgspec.Struct, array_like=True, frozen=True):
    """An agent, as snapshots hold it: what it has allocated and queued follows from the tasks."""

    name: str
    instance: str
    incarnation: int
    capacity: dict[str, int]
    labels: dict[str, str]
    prefetch: int
    state: AgentState
    void: list[int]
    drain_deadline_ms: int = 0
    losses: int = 0
    lost_ms: int = 0
    quarantine_until_ms: int = 0
    faults: int = 0
    drained: bool = False
    home: str = ""
    streak: int = 0
    contradicted: int = 0


def encode_workflow(workflow: Workflow) -> bytes:
    """Encode a workflow's own fields."""
    return _encoder.encode(
        WorkflowRecord(
            workflow.number,
            workflow.id,
            workflow.name,
            workflow.priority,
            workflow.on_failure,
            workflow.submitted_ms,
            workflow.finished_ms,
            workflow.finished_number,
            workflow.paused,
            workflow.cancelled,
            workflow.stopping,
            workflow.placed,
            workflow.warnings,
            len(workflow.profiles),
            len(workflow.tasks),
            workflow.max_parallel,
            workflow.facts,
            workflow.spawned_bytes,
            workflow.code,
            workflow.budgets,
        )
    )


def encode_chunk(workflow: Workflow, chunk: int, tasks: int) -> bytes:
    """Encode one chunk of a workflow's first `tasks` tasks."""
    return _encoder.encode(workflow.tasks[chunk << CHUNK_BITS : min((chunk + 1) << CHUNK_BITS, tasks)])


def encode_agent(agent: Agent) -> bytes:
    """Encode an agent."""
    return _encoder.encode(
        AgentRecord(
            agent.name,
            agent.instance,
            agent.incarnation,
            agent.capacity,
            agent.labels,
            agent.prefetch,
            agent.state,
            agent.void,
            agent.drain_deadline_ms,
            agent.losses,
            agent.lost_ms,
            agent.quarantine_until_ms,
            agent.faults,
            agent.drained,
            agent.home,
            agent.streak,
            agent.contradicted,
        )
    )


HEAD = -1
"""Instead of a position: the workflow's own fields."""


def _as_array(items: list[bytes]) -> bytes:
    """Return encoded items as one encoded array, of up to 65,535."""
    return b"\xdc" + len(items).to_bytes(2, "big") + b"".join(items)


def _is_heavy(workflow: Workflow, chunk: int) -> bool:
    """Tell whether the results in a chunk make it too large to be encoded in one go."""
    tasks = workflow.tasks[chunk << CHUNK_BITS : (chunk + 1) << CHUNK_BITS]
    return sum([len(task.result) for task in tasks]) > HEAVY_BYTES


class CopyOnWrite:
    """The part of an open snapshot that `apply` knows."""

    __slots__ = (
        "_agents",
        "_chunks",
        "_grown",
        "_heads",
        "_heavy",
        "_profiles",
        "cursor",
        "last_incarnation",
        "last_number",
        "passed_incarnation",
    )

    def __init__(self, state: State) -> None:
        self.last_number = state.workflow_number
        self.last_incarnation = state.incarnation
        self.cursor = (0, 0)
        """The task (workflow number, position) up to which the snapshot is written, in order of the numbers."""
        self.passed_incarnation = 0
        """The same for agents, by incarnation."""
        self._chunks: dict[tuple[int, int], bytes] = {}
        self._heavy: dict[tuple[int, int], dict[int, bytes]] = {}
        """Chunks with large results: the tasks of them that were changed, by position, each encoded as it was."""
        self._heads: dict[int, bytes] = {}
        self._profiles: dict[int, int] = {}
        """How many profiles a workflow had when its own fields were kept; more are only ever added behind them."""
        self._grown: dict[int, int] = {}
        """How many tasks a workflow had that has grown since; children are only ever added behind them."""
        self._agents: dict[int, bytes] = {}

    def before_task(self, workflow: Workflow, task: Task) -> None:
        """Keep the task's chunk as it is, if the snapshot still needs it; of a heavy one the task alone."""
        number, position = workflow.number, task.position
        key = (number, position >> CHUNK_BITS)
        if number > self.last_number or key in self._chunks or (number, position) <= self.cursor:
            return
        tasks = self.tasks_of(workflow)
        if position >= tasks:
            return
        heavy = self._heavy.get(key)
        if heavy is None:
            if not _is_heavy(workflow, key[1]):
                self._chunks[key] = encode_chunk(workflow, key[1], tasks)
                return
            heavy = self._heavy[key] = {}
        if position not in heavy:
            heavy[position] = _encoder.encode(task)

    def before_workflow(self, workflow: Workflow) -> None:
        """Keep the workflow's own fields as they are, if the snapshot still needs them."""
        number = workflow.number
        if number <= self.last_number and (number, HEAD) > self.cursor and number not in self._heads:
            self._heads[number] = encode_workflow(workflow)
            self._profiles[number] = len(workflow.profiles)

    def before_growth(self, workflow: Workflow) -> None:
        """Keep how many tasks the workflow has, before children are added behind them."""
        if workflow.number <= self.last_number:
            self._grown.setdefault(workflow.number, len(workflow.tasks))

    def tasks_of(self, workflow: Workflow) -> int:
        """Return how many tasks of a workflow belong to the snapshot."""
        return self._grown.get(workflow.number, len(workflow.tasks)) if self._grown else len(workflow.tasks)

    def before_agent(self, agent: Agent) -> None:
        """Keep the agent as it is, if the snapshot still needs it."""
        number = agent.incarnation
        if self.passed_incarnation < number <= self.last_incarnation and number not in self._agents:
            self._agents[number] = encode_agent(agent)

    def write_head(self, workflow: Workflow) -> tuple[bytes, int]:
        """Take a workflow's own fields for the snapshot, and how many of its profiles belong to it."""
        number = workflow.number
        self.cursor = (number, HEAD)
        kept = self._heads.pop(number, None)
        if kept is None:
            return encode_workflow(workflow), len(workflow.profiles)
        return kept, self._profiles.pop(number)

    def write_chunk(self, workflow: Workflow, chunk: int) -> Iterator[bytes]:
        """Take a chunk of tasks for the snapshot, a heavy one in parts; entries may be applied between two."""
        key, tasks = (workflow.number, chunk), self.tasks_of(workflow)
        end = min((chunk + 1) << CHUNK_BITS, tasks)
        if key in self._heavy or (key not in self._chunks and _is_heavy(workflow, chunk)):
            yield from self._write_heavy(workflow, chunk, end)
            return
        self.cursor = (workflow.number, end - 1)
        kept = self._chunks.pop(key, None)
        yield encode_chunk(workflow, chunk, tasks) if kept is None else kept

    def _write_heavy(self, workflow: Workflow, chunk: int, end: int) -> Iterator[bytes]:
        tasks, number = workflow.tasks, workflow.number
        changed = self._heavy.setdefault((number, chunk), {})
        parts: list[bytes] = []
        size = 0
        for position in range(chunk << CHUNK_BITS, end):
            part = changed.pop(position, b"") or _encoder.encode(tasks[position])
            self.cursor = (number, position)
            parts.append(part)
            size += len(part)
            if size >= HEAVY_BYTES:
                yield _as_array(parts)
                parts, size = [], 0
        if parts:
            yield _as_array(parts)
        del self._heavy[number, chunk]

    def write_agent(self, agent: Agent) -> bytes:
        """Take an agent for the snapshot."""
        self.passed_incarnation = agent.incarnation
        kept = self._agents.pop(agent.incarnation, None)
        return encode_agent(agent) if kept is None else kept
