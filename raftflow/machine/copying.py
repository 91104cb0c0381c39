"""Copy on write, by chunk: how a snapshot shows one moment while `apply` goes on.

When a snapshot opens, only references are taken. Tasks belong to chunks of `CHUNK` tasks of one workflow. The first
change in a chunk that the snapshot has not written yet makes it be encoded first; later the snapshot takes
those bytes. A chunk costs a few hundred microseconds, so neither a command nor a piece of the snapshot waits long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.preparation import GraphFacts
from raftflow.domain.task import AgentState
from raftflow.domain.workflow import OnFailure

if TYPE_CHECKING:
    from raftflow.machine.state import Agent, State, Task, Workflow

CHUNK_BITS = 8
CHUNK = 1 << CHUNK_BITS

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
    max_parallel: int | None = None
    facts: GraphFacts | None = None


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
        )
    )


def encode_chunk(workflow: Workflow, chunk: int) -> bytes:
    """Encode one chunk of a workflow's tasks."""
    return _encoder.encode(workflow.tasks[chunk << CHUNK_BITS : (chunk + 1) << CHUNK_BITS])


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
"""In the place of a chunk: the workflow's own fields."""


class CopyOnWrite:
    """The part of an open snapshot that `apply` knows."""

    __slots__ = ("_agents", "_chunks", "_profiles", "cursor", "last_incarnation", "last_number", "passed_incarnation")

    def __init__(self, state: State) -> None:
        self.last_number = state.workflow_number
        self.last_incarnation = state.incarnation
        self.cursor = (0, 0)
        """The chunk (workflow number, chunk) up to which the snapshot is written, in order of the numbers."""
        self.passed_incarnation = 0
        """The same for agents, by incarnation."""
        self._chunks: dict[tuple[int, int], bytes] = {}
        self._profiles: dict[int, int] = {}
        """How many profiles a workflow had when its own fields were kept; more are only ever added behind them."""
        self._agents: dict[int, bytes] = {}

    def before_task(self, workflow: Workflow, task: Task) -> None:
        """Keep the task's chunk as it is, if the snapshot still needs it."""
        key = (workflow.number, task.position >> CHUNK_BITS)
        if key[0] <= self.last_number and key > self.cursor and key not in self._chunks:
            self._chunks[key] = encode_chunk(workflow, key[1])

    def before_workflow(self, workflow: Workflow) -> None:
        """Keep the workflow's own fields as they are, if the snapshot still needs them."""
        key = (workflow.number, HEAD)
        if key[0] <= self.last_number and key > self.cursor and key not in self._chunks:
            self._chunks[key] = encode_workflow(workflow)
            self._profiles[key[0]] = len(workflow.profiles)

    def before_agent(self, agent: Agent) -> None:
        """Keep the agent as it is, if the snapshot still needs it."""
        number = agent.incarnation
        if self.passed_incarnation < number <= self.last_incarnation and number not in self._agents:
            self._agents[number] = encode_agent(agent)

    def write_head(self, workflow: Workflow) -> tuple[bytes, int]:
        """Take a workflow's own fields for the snapshot, and how many of its profiles belong to it."""
        self.cursor = key = (workflow.number, HEAD)
        kept = self._chunks.pop(key, None)
        if kept is None:
            return encode_workflow(workflow), len(workflow.profiles)
        return kept, self._profiles.pop(workflow.number)

    def write_chunk(self, workflow: Workflow, chunk: int) -> bytes:
        """Take a chunk of tasks for the snapshot."""
        self.cursor = key = (workflow.number, chunk)
        kept = self._chunks.pop(key, None)
        return encode_chunk(workflow, chunk) if kept is None else kept

    def write_agent(self, agent: Agent) -> bytes:
        """Take an agent for the snapshot."""
        self.passed_incarnation = agent.incarnation
        kept = self._agents.pop(agent.incarnation, None)
        return encode_agent(agent) if kept is None else kept
