"""Everything that can change the replicated state.

A command is a tagged, frozen struct that refuses unknown fields. Time and ids arrive inside it: `at_ms` is the
leader's wall clock (ms since the epoch) when the command was made; the machine's clock is the largest time it has
seen. A new meaning is a new tag, never a changed one. Those that running attempts ask for are in
`attempt_commands.py`, those of budgets and rates in `spending_commands.py`, those of waits and signals in
`wait_commands.py`.

One log entry is an `Entry`: a batch of commands, each of which succeeds or is refused alone and as a whole.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.attempt_commands import (
    BeginEffect,
    CancelChildren,
    ChildTask,
    EndEffect,
    RecordSteps,
    SpawnTasks,
    StepToRecord,
)
from raftflow.domain.bundle_commands import RegisterBundle, RetireBundles
from raftflow.domain.command import Command
from raftflow.domain.identity_commands import CreateToken, RevokeToken, RotateToken
from raftflow.domain.spending_commands import (
    BudgetRaise,
    RaiseBudget,
    RateToTake,
    RemoveRateLimit,
    SetRateLimit,
    TakeRates,
)
from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.effects import EffectResolution
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.tasks.workflow import OnFailure, TaskSpec, WorkflowSpec
from raftflow.domain.values.exact import UNREADABLE
from raftflow.domain.wait_commands import BeginWait, DecideApproval, SendSignal

__all__ = [
    "ENTRY_VERSION",
    "AddTasks",
    "AnyCommand",
    "AttemptEnd",
    "BeginEffect",
    "BeginWait",
    "BeginWorkflow",
    "BudgetRaise",
    "CancelChildren",
    "ChildTask",
    "ClearCache",
    "Command",
    "CommitBackups",
    "CommitPlacements",
    "ContinueAgenda",
    "ControlWorkflow",
    "CreateToken",
    "DecideApproval",
    "DrainAgent",
    "DropUploads",
    "EndEffect",
    "Entry",
    "EntryError",
    "FinishWorkflow",
    "FireTimers",
    "ForgetAgent",
    "OfferEnds",
    "Placement",
    "RaiseBudget",
    "RaiseFeatureLevel",
    "RateToTake",
    "RecallAttempts",
    "RecordSteps",
    "RegisterAgent",
    "RegisterBundle",
    "RemoveAgent",
    "RemoveRateLimit",
    "ReportAttempts",
    "ResolveEffect",
    "ResumeAgent",
    "RetireBundles",
    "RetireWorkflows",
    "RevokeToken",
    "RotateToken",
    "SendSignal",
    "SetPriority",
    "SetRateLimit",
    "SpawnTasks",
    "StepToRecord",
    "SubmitWorkflow",
    "Supported",
    "TakeRates",
    "TaskPart",
    "decode_entry",
    "encode_entry",
]

ENTRY_VERSION = 1


class SubmitWorkflow(Command, frozen=True, tag="workflow.submit"):
    """Add a workflow, all of it or nothing. Replies `WorkflowAccepted`."""

    workflow_id: str
    spec: WorkflowSpec


class BeginWorkflow(Command, frozen=True, tag="workflow.begin"):
    """Begin the upload of a workflow that comes in pieces. Replies `Done`.

    Nothing of it is seen until `FinishWorkflow`, but its tasks count towards the limits from now on. An upload
    belongs to the leader that began it: every new leader drops those that it finds.
    """

    workflow_id: str
    name: str
    tasks: int
    """How many will come."""
    needs: int
    """How many needs they have, all together."""
    priority: int = 50
    on_failure: OnFailure = "stop"
    max_parallel: int | None = None
    code: str = ""
    """Digest of its code bundle, empty for none."""
    budgets: tuple[Budget, ...] = ()


class TaskPart(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A task in a piece of a workflow. One of the profiles that came with it or before tells what it runs."""

    position: int
    """Its place in the document."""
    id: str
    profile: int
    """Index of its profile, in the order in which they come."""
    rank: int
    """Expected time from its start to the end of the workflow, in ms. Advice for the scheduler: nobody checks it."""
    needs: tuple[int, ...] = ()
    """Positions of the tasks that it needs, all of which came before it: so there is no circle."""


class AddTasks(Command, frozen=True, tag="workflow.add"):
    """Add a piece to an upload, all of it or nothing. Replies `Done`."""

    workflow_id: str
    number: int
    """How many pieces came before: none counts twice."""
    profiles: tuple[TaskSpec, ...]
    """What tasks run and want: for each new profile the first task of the document that has it, without its needs."""
    tasks: tuple[TaskPart, ...]


class FinishWorkflow(Command, frozen=True, tag="workflow.finish"):
    """Make a workflow of an upload that is complete. Replies `WorkflowAccepted`.

    Its request id is that of the submission, which is answered as `SubmitWorkflow` would be.
    """

    workflow_id: str
    fingerprint: bytes
    """Hash of the submission: that of the `SubmitWorkflow` that would say the same (`machine.requests`)."""
    path: tuple[int, ...]
    """Positions along the critical path, its beginning (`domain.preparation`). For show."""


class DropUploads(Command, frozen=True, tag="uploads.drop"):
    """Forget uploads that will not be finished; those that are not there are passed over. Replies `Done`."""

    workflow_ids: tuple[str, ...]


class ControlWorkflow(Command, frozen=True, tag="workflow.control"):
    """Cancel, pause, resume or retry a workflow. Replies `Done`.

    cancel: tasks that have not started are cancelled, running attempts are told to stop.
    pause: nothing new is started; running attempts go on, queued ones are taken back.
    retry: failed and cancelled tasks of a finished workflow run again with fresh retries.
    """

    workflow_id: str
    action: Literal["cancel", "pause", "resume", "retry"]


class SetPriority(Command, frozen=True, tag="workflow.priority"):
    """Change the priority of a workflow that has not ended. Replies `Done`.

    Ready tasks go to their new place in line. Queued attempts are taken back and placed again; running ones go on.
    """

    workflow_id: str
    priority: int


class RegisterAgent(Command, frozen=True, tag="agent.register"):
    """Bring an agent up. Replies `AgentAccepted` with its incarnation.

    A repeated registration of the same `instance` gets the same incarnation. A name belongs to the agent that is
    present under it: another instance is refused (`name_in_use`) unless both have the same `home`. Then it takes
    over: it gets a new incarnation, and the attempts of the old one are lost.
    """

    name: str
    instance: str
    """Random, made once per agent process."""
    capacity: dict[str, int]
    """Integer units (`raftflow.domain.tasks.resources`)."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    prefetch: int = 0
    """How many attempts may wait in the agent's queue."""
    home: str = ""
    """Random, made once per work directory. A process that holds the lock of a work directory proves with it that the
    process that held it before is gone. Empty if it is not known: then the agent replaces no other agent."""


class DrainAgent(Command, frozen=True, tag="agent.drain"):
    """Drain an agent: it gets no new work, and its queue is asked back. Replies `Done`.

    Running attempts may go on until the deadline. After it they are moved to other agents. The drain lasts until
    `ResumeAgent`: an agent that is lost or leaves comes back as draining, and one that is gone can be drained too.
    For an agent that drains already this sets a new deadline.
    """

    name: str
    deadline_ms: int = 0
    """How long running attempts may go on, in ms from now; 0 for as long as they take."""
    leaving: bool = False
    """The agent itself asks, because it will leave. Such a drain has no deadline and ends with this incarnation."""


class ResumeAgent(Command, frozen=True, tag="agent.resume"):
    """Let an agent that is drained or in quarantine work again, present or not. Replies `Done`."""

    name: str


class ForgetAgent(Command, frozen=True, tag="agent.forget"):
    """Remove an agent that will not come back from the table, with its history. Replies `Done`.

    Refused (`conflict`) while the agent is present.
    """

    name: str


class RemoveAgent(Command, frozen=True, tag="agent.remove"):
    """Take an agent and its live attempts out.

    Refused as stale unless `incarnation` is the present one. Attempts taken away cost no retry. Replies `Done`.
    """

    name: str
    incarnation: int
    reason: Literal["lost", "left", "lost_together"]
    """`lost`: its lease ran out. `left`: it said goodbye. `lost_together`: its lease ran out as those of a good part
    of the fleet, so neither it nor what ran there is to blame."""

    @property
    def mass(self) -> bool:
        """True for a loss that is part of a mass loss: it counts against no task and no agent."""
        return self.reason == "lost_together"


class Placement(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One task for one agent, as the scheduler proposes it."""

    workflow_id: str
    task: int
    """Position of the task in its workflow."""
    agent: str
    incarnation: int


class CommitPlacements(Command, frozen=True, tag="placements.commit"):
    """Assign ready tasks. Every placement is checked again, alone; what no longer holds is skipped.

    An attempt runs at once if its agent's queue is empty and its demand fits, else it joins the queue while the
    agent's prefetch bound allows. Replies `Placed`.
    """

    placements: tuple[Placement, ...]


class CommitBackups(Command, frozen=True, tag="backups.commit"):
    """Give running tasks a second attempt on another agent: the first to succeed wins. Replies `Placed`.

    Every placement is checked again, alone. A backup starts at once or not at all: it never waits in a queue. It has
    a number and a fence as every attempt. Only tasks that allow it get one.
    """

    placements: tuple[Placement, ...]


class AttemptEnd(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The end of one attempt, as its agent saw it."""

    fence: int
    workflow_id: str
    task_id: str
    outcome: AttemptOutcome
    exit_code: int | None = None
    """Exit code of a command; negative for a signal, as in `subprocess`."""
    error: str = ""
    result: bytes = b""
    """JSON; empty for none. Of a parked attempt: what it waits for (`domain.tasks.children.ParkCondition`)."""
    duration_ms: int = 0
    cpu_ms: int = 0
    """CPU time of all its processes; 0 if it is not known."""
    peak_mib: int = 0
    """Most memory that its processes used together; 0 if it is not known. For an outgrown attempt: how much it would
    have needed."""


class ReportAttempts(Command, frozen=True, tag="attempts.report"):
    """Ends of attempts in the order in which the agent saw them. Replies `Reported`, a verdict for each.

    Refused as a whole (stale incarnation) if the agent has been declared lost or has registered again; the refusal is
    in the audit. A report that was accepted before gets `duplicate` and changes nothing.
    """

    agent: str
    incarnation: int
    ends: tuple[AttemptEnd, ...]
    missing: tuple[int, ...] = ()
    """Fences of live attempts that the agent was sent and neither holds nor reported: they are lost."""


class OfferEnds(Command, frozen=True, tag="attempts.offer"):
    """Successes of a former incarnation that an agent brings back. Replies `Reported`, a verdict for each.

    Accepted where the task's last attempt is that one, lost with the agent, and the task was not started again since:
    then it does not have to run again. `stale` otherwise. Refused as a whole as `ReportAttempts`.
    """

    agent: str
    incarnation: int
    """The present one."""
    ends: tuple[AttemptEnd, ...]


class RecallAttempts(Command, frozen=True, tag="attempts.recall"):
    """Ask an agent to give queued attempts back, so that they run where there is room. Replies `Done`.

    What the agent has not started it gives back, and the task is ready again at no cost; what has started meanwhile
    goes on.
    """

    agent: str
    incarnation: int
    fences: tuple[int, ...]


class FireTimers(Command, frozen=True, tag="timers.fire"):
    """Fire every timer that is due at `at_ms`: back-offs, deadlines. Replies `Fired`."""


class ContinueAgenda(Command, frozen=True, tag="agenda.continue"):
    """Do the next piece of the work that earlier commands have begun. Replies `Done`.

    Nothing changes if nothing is left.
    """


class RetireWorkflows(Command, frozen=True, tag="workflows.retire"):
    """Forget workflows that finished at or before `before_ms`, at most `count_max`. Replies `Retired`."""

    before_ms: int
    count_max: int = 1_000


class ResolveEffect(Command, frozen=True, tag="effects.resolve"):
    """Decide about an effect without an outcome that nobody calls any more. Replies `Done`.

    The first decision counts; another one is refused.
    """

    number: int
    resolution: EffectResolution
    result: bytes = b""
    """JSON, of one that is resolved as done."""
    detail: str = ""
    """Why, in the words of who decides."""


class ClearCache(Command, frozen=True, tag="cache.clear"):
    """Forget cached results: the one under `key`, those whose key begins with `prefix`, or all. Replies `Cleared`."""

    key: str | None = None
    prefix: str = ""
    """Looked at if `key` is None."""


class Supported(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one member of the cluster understands, as it told the leader."""

    member: str
    level: int


class RaiseFeatureLevel(Command, frozen=True, tag="features.raise"):
    """Raise the cluster's feature level (`domain.features`). Replies `Done`.

    Refused unless every member in `supported` understands the level. It never goes down. A replica that does not
    understand it stops.
    """

    level: int
    supported: tuple[Supported, ...]
    """Every member of the cluster."""


AnyCommand = (
    SubmitWorkflow
    | BeginWorkflow
    | AddTasks
    | FinishWorkflow
    | DropUploads
    | ControlWorkflow
    | SetPriority
    | RegisterAgent
    | DrainAgent
    | ResumeAgent
    | ForgetAgent
    | RemoveAgent
    | CommitPlacements
    | CommitBackups
    | ReportAttempts
    | OfferEnds
    | RecallAttempts
    | RecordSteps
    | RaiseBudget
    | SetRateLimit
    | RemoveRateLimit
    | TakeRates
    | CreateToken
    | RotateToken
    | RevokeToken
    | SpawnTasks
    | CancelChildren
    | BeginEffect
    | EndEffect
    | ResolveEffect
    | BeginWait
    | SendSignal
    | DecideApproval
    | FireTimers
    | ContinueAgenda
    | RetireWorkflows
    | RegisterBundle
    | RetireBundles
    | RaiseFeatureLevel
    | ClearCache
)


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the log carries: a batch of commands."""

    version: int
    commands: tuple[AnyCommand, ...]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


class EntryError(ValueError):
    """Bytes that are not an entry this version can read."""


def encode_entry(commands: tuple[AnyCommand, ...]) -> bytes:
    """Encode a batch. The size limit is the caller's to keep (`limits.ENTRY_BYTES_MAX`)."""
    return _encoder.encode(Entry(ENTRY_VERSION, commands))


def decode_entry(data: bytes) -> Entry:
    """Decode a batch. Raises `EntryError` for anything that `encode_entry` would not have made."""
    if len(data) > limits.ENTRY_BYTES_MAX:
        raise EntryError(f"an entry of {len(data)} bytes, the limit is {limits.ENTRY_BYTES_MAX}")
    try:
        entry = _decoder.decode(data)
    except UNREADABLE as error:
        raise EntryError(f"not an entry: {error}") from error
    if entry.version != ENTRY_VERSION:
        raise EntryError(f"entry format {entry.version}; this version reads {ENTRY_VERSION}")
    return entry
