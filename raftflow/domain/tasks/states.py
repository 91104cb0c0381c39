"""The life of a task, as data.

`TRANSITIONS` says which event moves a task from which state to which; nothing else moves one. An *attempt* is one
try to run a task on one agent; it exists while the task is queued or running. A running task may have two, the second
of which is its *backup*: the first of them to succeed wins.

    waiting   some task that it needs has not succeeded yet, or an equal one runs whose result will be reused
    delayed   an attempt failed; the next may start when the back-off is over
    ready     may run as soon as an agent has room
    queued    assigned ahead of time: waits in an agent's queue and holds nothing in the ledger
    running   assigned, and its demand is allocated on the agent
    parked    its attempt ended to wait for children, a signal or a person: it holds nothing, and runs again then;
              or the document says that it waits: then it has no attempt, and the answer is its result
    succeeded, failed, cancelled   final, until the workflow is retried
"""

from __future__ import annotations

import enum


class TaskState(enum.IntEnum):
    """Where a task is in its life."""

    WAITING = 0
    DELAYED = 1
    READY = 2
    QUEUED = 3
    RUNNING = 4
    SUCCEEDED = 5
    FAILED = 6
    CANCELLED = 7
    PARKED = 8


class TaskEvent(enum.IntEnum):
    """What can happen to a task."""

    NEEDS_MET = 0
    """The last task that it needs succeeded."""
    QUEUED = 1
    """The scheduler's placement put an attempt into an agent's queue."""
    STARTED = 2
    """The scheduler's placement found room: the attempt runs at once."""
    PROMOTED = 3
    """Capacity was freed and the attempt was the head of its agent's queue."""
    RELEASED = 4
    """The agent gave a queued attempt back without having started it."""
    SUCCEEDED = 5
    FAILED_RETRY = 6
    """The attempt failed and attempts are left."""
    FAILED_FINAL = 7
    AGENT_LOST = 8
    """The attempt's agent is gone; it costs no retry."""
    BACKOFF_OVER = 9
    CANCELLED = 10
    """The workflow was cancelled or stopped, or something that the task needs failed and has no retries left."""
    REVIVED_WAITING = 11
    """The workflow was retried; the task still has needs to wait for."""
    REVIVED_READY = 12
    """The workflow was retried and everything that the task needs has succeeded."""
    MOVED = 13
    """The agent stopped the attempt, as it was told, so that the task runs elsewhere; it costs no retry."""
    BACKUP_STARTED = 14
    """A second attempt of a running task started on another agent."""
    BACKUP_ENDED = 15
    """One of the two attempts of a task is over without success; the other goes on."""
    OUTGROWN = 16
    """The attempt used more memory than its demand: the next one gets more. It costs no retry."""
    OFFERED = 17
    """The agent with which the attempt was lost came back and brought its result."""
    CACHED = 18
    """The result of an equal task stands for its own."""
    YIELDED = 19
    """An equal task that is more urgent, or not paused, runs in its place."""
    AGENT_FAULT = 20
    """The agent could not do its part, so the attempt says nothing about the task; it costs no retry."""
    PARKED = 21
    """The attempt ended to wait for something; it costs no retry."""
    WAIT_OVER = 22
    """What a parked task waits for has happened: its children have ended, or one of its waits has."""
    WAIT_BEGUN = 23
    """The last task that it needs succeeded, and its document says that it waits for a signal or a decision."""


_S, _E = TaskState, TaskEvent

TRANSITIONS: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (_S.WAITING, _E.NEEDS_MET): _S.READY,
    (_S.WAITING, _E.CACHED): _S.SUCCEEDED,
    (_S.WAITING, _E.WAIT_BEGUN): _S.PARKED,
    (_S.WAITING, _E.CANCELLED): _S.CANCELLED,
    (_S.DELAYED, _E.BACKOFF_OVER): _S.READY,
    (_S.DELAYED, _E.YIELDED): _S.WAITING,
    (_S.DELAYED, _E.CANCELLED): _S.CANCELLED,
    (_S.READY, _E.QUEUED): _S.QUEUED,
    (_S.READY, _E.STARTED): _S.RUNNING,
    (_S.READY, _E.YIELDED): _S.WAITING,
    (_S.READY, _E.CANCELLED): _S.CANCELLED,
    (_S.QUEUED, _E.PROMOTED): _S.RUNNING,
    (_S.QUEUED, _E.RELEASED): _S.READY,
    (_S.QUEUED, _E.AGENT_LOST): _S.READY,
    (_S.QUEUED, _E.AGENT_FAULT): _S.READY,
    (_S.QUEUED, _E.CANCELLED): _S.CANCELLED,
    # A report of a start is never sent, so an attempt that the replicas still hold as queued may already have
    # run to its end on the agent: the end of the attempt before it travels in the same report, ahead of it.
    (_S.QUEUED, _E.SUCCEEDED): _S.SUCCEEDED,
    (_S.QUEUED, _E.FAILED_RETRY): _S.DELAYED,
    (_S.QUEUED, _E.FAILED_FINAL): _S.FAILED,
    (_S.RUNNING, _E.SUCCEEDED): _S.SUCCEEDED,
    (_S.RUNNING, _E.FAILED_RETRY): _S.DELAYED,
    (_S.RUNNING, _E.FAILED_FINAL): _S.FAILED,
    (_S.RUNNING, _E.AGENT_LOST): _S.READY,
    (_S.RUNNING, _E.AGENT_FAULT): _S.READY,
    # An agent that has stopped starting work lets its queue go after an attempt ended: that end, ahead in the same
    # report, has promoted the one that is given back.
    (_S.RUNNING, _E.RELEASED): _S.READY,
    (_S.RUNNING, _E.MOVED): _S.READY,
    (_S.RUNNING, _E.CANCELLED): _S.CANCELLED,
    (_S.RUNNING, _E.BACKUP_STARTED): _S.RUNNING,
    (_S.RUNNING, _E.BACKUP_ENDED): _S.RUNNING,
    (_S.QUEUED, _E.OUTGROWN): _S.READY,
    (_S.RUNNING, _E.OUTGROWN): _S.READY,
    (_S.QUEUED, _E.PARKED): _S.PARKED,
    (_S.RUNNING, _E.PARKED): _S.PARKED,
    (_S.PARKED, _E.WAIT_OVER): _S.READY,
    (_S.PARKED, _E.CANCELLED): _S.CANCELLED,
    # A task that its document makes a wait has no attempt: the answer decides.
    (_S.PARKED, _E.SUCCEEDED): _S.SUCCEEDED,
    (_S.PARKED, _E.FAILED_FINAL): _S.FAILED,
    (_S.READY, _E.OFFERED): _S.SUCCEEDED,
    (_S.DELAYED, _E.OFFERED): _S.SUCCEEDED,
    (_S.FAILED, _E.REVIVED_WAITING): _S.WAITING,
    (_S.FAILED, _E.REVIVED_READY): _S.READY,
    (_S.CANCELLED, _E.REVIVED_WAITING): _S.WAITING,
    (_S.CANCELLED, _E.REVIVED_READY): _S.READY,
}

FINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED})
LIVE_ATTEMPT = frozenset({TaskState.QUEUED, TaskState.RUNNING})

PUBLIC_NAME: dict[TaskState, str] = {
    TaskState.WAITING: "waiting",
    TaskState.DELAYED: "waiting",
    TaskState.READY: "ready",
    TaskState.QUEUED: "ready",
    TaskState.RUNNING: "running",
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
    TaskState.PARKED: "parked",
}
"""What users see: a delayed task waits, a queued one is ready."""


class WorkflowState(enum.StrEnum):
    """Where a workflow is in its life."""

    PENDING = "pending"
    """No attempt has been placed yet."""
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptOutcome(enum.StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """A non-zero exit code, an exception, a result that is not valid JSON or too large."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """The coordinator told the agent to stop it, and it did."""
    MOVED = "moved"
    """The coordinator told the agent to stop it at the deadline of a drain, so that the task runs elsewhere. Costs no
    retry. Agents report it as `cancelled`."""
    ABANDONED = "abandoned"
    """The agent stopped it by itself: its lease ran out, or it is shutting down. Costs no retry."""
    LOST = "lost"
    """The agent was declared lost, or came back without the attempt. Never reported by an agent."""
    RELEASED = "released"
    """Given back from an agent's queue without having started."""
    OUTGROWN = "outgrown"
    """The agent stopped it since it used more memory than its demand."""
    AGENT_FAULT = "agent_fault"
    """The agent could not do its part (no space, no descriptors, no process, its launcher or its interpreter broken).
    Costs no retry, and the task goes elsewhere."""
    SUPERSEDED = "superseded"
    """The task's other attempt decided: it succeeded first, or failed where no retry is left. Never reported by an
    agent."""
    PARKED = "parked"
    """It ended to wait for children of the task, which runs again when they have ended. Costs no retry. The
    result says what it waits for (`domain.tasks.children`)."""
    FENCED = "fenced"
    """It belongs to a cluster of which this one is a restored copy. Its agent's report is refused, and the task runs
    again at no cost in retries. Never reported by an agent."""


class AgentState(enum.StrEnum):
    """Where an agent is in its life, as the replicas know it."""

    UP = "up"
    DRAINING = "draining"
    """Gets no new work; running attempts end."""
    QUARANTINE = "quarantine"
    """It was lost again and again, or tasks that failed there succeeded elsewhere: gets no new work for a while."""
    LOST = "lost"
    """Silent for longer than its lease; its attempts were taken away."""
    LEFT = "left"
    """Said goodbye."""
