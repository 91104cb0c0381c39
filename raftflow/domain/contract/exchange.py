"""What agents and replicas say to each other: registrations, polls, assignments, inputs, output."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.common import ErrorText, Fences, Name, Number, UsageNumber
from raftflow.domain.tasks.program import AssignedProgram
from raftflow.domain.tasks.resources import NUMBER_PATTERN, SIZE_PATTERN

_BASE64_PATTERN = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


class RegisterRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/agents`."""

    name: Name
    instance: Annotated[str, msgspec.Meta(min_length=8, max_length=64)]
    resources: Annotated[
        dict[
            Name,
            Annotated[float, msgspec.Meta(ge=0, le=limits.RESOURCE_UNITS_MAX / 1000)]
            | Annotated[
                str, msgspec.Meta(max_length=limits.AMOUNT_CHARS_MAX, extra_json_schema={"pattern": NUMBER_PATTERN})
            ],
        ],
        msgspec.Meta(
            max_length=limits.RESOURCES_PER_TASK_MAX,
            extra_json_schema={
                "properties": {
                    "memory": {
                        "anyOf": [
                            {"type": "number", "minimum": 0, "maximum": limits.RESOURCE_UNITS_MAX / 1000},
                            {"type": "string", "maxLength": limits.AMOUNT_CHARS_MAX, "pattern": SIZE_PATTERN},
                        ]
                    }
                }
            },
        ),
    ]
    labels: Annotated[
        dict[Name, Annotated[str, msgspec.Meta(max_length=limits.LABEL_CHARS_MAX)]],
        msgspec.Meta(max_length=limits.LABELS_MAX),
    ] = {}
    prefetch: Annotated[int, msgspec.Meta(ge=0, le=limits.PREFETCH_MAX)] = 0
    home: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Identifies the work directory. A process with the same work directory replaces the process before it. Another
    agent under the name of a present agent is refused (`name-in-use`)."""
    pid: Number | None = None
    version: Annotated[str, msgspec.Meta(max_length=limits.VERSION_CHARS_MAX)] = ""
    offers: Annotated[list[ReportedEnd], msgspec.Meta(max_length=limits.OFFERS_MAX)] = []
    """Successes of the former incarnation, which was declared lost, that nobody took: they may still be wanted."""


class RegisterResponse(msgspec.Struct, kw_only=True):
    """The agent's identity until it registers again."""

    id: str
    incarnation: int
    lease_ms: int
    poll_wait_ms: int
    """How long the leader may hold an idle poll."""
    result_bytes_max: int
    feature_level: int = 1
    """The cluster's level (`domain.features`): what the agent may say. It never goes down."""
    verdicts: list[ReportVerdict] = []
    """Of the offers; the agent forgets them whatever the verdict."""


class ReportedEnd(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The end of one attempt."""

    fence: Number
    workflow_id: Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS_MAX)]
    task_id: Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS_MAX)]
    outcome: Literal[
        "succeeded", "failed", "timeout", "cancelled", "abandoned", "released", "outgrown", "agent_fault", "parked"
    ]
    """`outgrown`: it used more memory than its demand and was stopped. `agent_fault`: the agent
    could not do its part. `parked`: it ended to wait for children; the result says for which
    (`domain.tasks.children.ParkCondition`)."""
    exit_code: Annotated[int, msgspec.Meta(ge=limits.EXIT_CODE_MIN, le=limits.EXIT_CODE_MAX)] | None = None
    error: ErrorText = ""
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    """Any JSON that `domain.reportable` lets pass."""
    duration_ms: UsageNumber = 0
    cpu_ms: UsageNumber = 0
    """CPU time of the attempt's processes."""
    peak_mib: UsageNumber = 0
    """Most memory that its processes were seen to use; 0 if nobody saw it, as of short attempts that used little."""


class LogPiece(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An agent's answer to a `LogWanted`."""

    request: Annotated[str, msgspec.Meta(max_length=limits.LOG_REQUEST_CHARS_MAX)]
    data: Annotated[
        bytes, msgspec.Meta(max_length=limits.LOG_PIECE_BYTES_MAX, extra_json_schema={"pattern": _BASE64_PATTERN})
    ]
    """Base64 in JSON."""
    offset: UsageNumber | msgspec.UnsetType = msgspec.UNSET
    """Byte at which `data` begins: behind the wanted one if what is there was not kept."""
    size: UsageNumber
    """Bytes written so far, kept or not."""
    truncated: bool
    complete: bool
    error: ErrorText = ""


class AttemptUsage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a running attempt uses, children of its processes included; stays in the leader's memory."""

    fence: Number
    cpu_ms: UsageNumber = 0
    """CPU time so far."""
    memory_mib: UsageNumber = 0
    """Memory now: see `raftflow/agent/DESIGN.md` for what is counted."""
    peak_mib: UsageNumber = 0
    """Largest `memory_mib` so far."""
    progress: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """As the task itself says, None if it does not."""
    fetching: bool = False
    """The attempt has not started: its agent still fetches its code bundle, or its inputs."""


class AgentLoad(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Load of the agent's machine from all its processes. It stays in the leader's memory."""

    load_1m: Annotated[float, msgspec.Meta(ge=0, le=limits.USAGE_NUMBER_MAX - 1)] = 0.0
    cpu_count: UsageNumber = 0
    memory_free_mib: UsageNumber = 0
    """What programs could still get without swapping."""
    cpu_busy_per_mille: Annotated[int, msgspec.Meta(ge=0, le=1000)] | msgspec.UnsetType = msgspec.UNSET
    """Share of all CPUs' time that was used over the last seconds."""
    run_queue: UsageNumber | msgspec.UnsetType = msgspec.UNSET
    """Threads that run or wait for a CPU now."""


class PollRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/agents/{id}/poll`: reports in; renewals, assignments and orders out.

    A poll that brings news while an earlier one of the same agent is still held makes the leader answer the held
    one at once; the agent ignores nothing, it handles both answers.
    """

    incarnation: Number
    seq: Number
    """Grows with every poll of this incarnation; the leader answers and drops an older held poll."""
    seen: Number = 0
    """Largest fence that the agent was ever sent in this incarnation."""
    running: Fences = []
    """Fences of attempts that run."""
    queued: Fences = []
    """Fences that wait in the agent's queue, in order."""
    ends: Annotated[list[ReportedEnd], msgspec.Meta(max_length=limits.ENDS_PER_POLL_MAX)] = []
    """Ends that no answer has confirmed yet, in the order in which they happened."""
    logs: Annotated[list[LogPiece], msgspec.Meta(max_length=limits.LOGS_PER_POLL_MAX)] = []
    usage: Annotated[list[AttemptUsage], msgspec.Meta(max_length=limits.USAGE_PER_POLL_MAX)] = []
    """Of attempts that have been running for a while, every other second."""
    load: AgentLoad | None = None
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0
    """How long the leader may hold this poll when it has nothing to say."""
    leaving: bool = False
    """The agent drains itself: no new work, and it says goodbye when it is empty."""
    goodbye: bool = False
    """The agent holds nothing any more and stops; the leader removes it."""
    fetches: bool = False
    """The agent fetches large inputs by itself; without it all inputs come with the assignment."""
    trouble: Annotated[str, msgspec.Meta(max_length=limits.TROUBLE_CHARS_MAX)] = ""
    """Why the agent is unfit: it starts nothing and gives back what it gets. Empty if it is fit."""


class Assignment(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One attempt to run. Attempts start in the order of their fences as far as they fit."""

    fence: int
    workflow_id: str
    workflow_name: str
    task_id: str
    attempt: int
    resources: dict[str, int]
    """What it holds while it runs, in integer units: milli-CPU, MiB, milli-units."""
    exclusive: bool = False
    """It starts when nothing else runs, and nothing else starts while it runs. It holds the whole capacity."""
    program: AssignedProgram
    env: dict[str, str] = {}
    cwd: str | None = None
    timeout_ms: int | None = None
    grace_ms: int = 5_000
    inputs: dict[str, msgspec.Raw] = {}
    """Result of each task that this one needs; empty if they are fetched apart."""
    inputs_apart: InputsApart | None = None
    """Set if the inputs are too large to be here. Only for agents whose polls say `fetches`."""
    steps: int = 0
    """How many durable steps earlier attempts have recorded. -1 if another attempt of the task may record steps at
    the same time: then the leader is asked about every step."""
    code: str = ""
    """Digest of the code bundle that it runs with, empty for none: `GET /v1/bundles/{digest}/content`."""


class InputsApart(msgspec.Struct, kw_only=True):
    """Inputs that an agent fetches by itself: `GET /v1/agents/{id}/attempts/{fence}/inputs`, from any replica."""

    count: int
    """Tasks that this one needs."""
    size: int
    """Bytes of their results, all together."""


class InputsPiece(msgspec.Struct, kw_only=True):
    """A piece of the inputs of an attempt."""

    inputs: dict[str, msgspec.Raw]
    """Result of each of these needs, in the order in which the task names them."""
    next: int | None = None
    """Where the next piece begins, None after the last one."""


class LogWanted(msgspec.Struct, kw_only=True):
    """Please send this piece of an attempt's output with the next poll."""

    request: str
    fence: int
    stream: Literal["stdout", "stderr"]
    offset: int
    bytes_max: int
    workflow_id: str = ""
    """Whose attempt it is: a work directory may hold output of an earlier cluster, with the same numbers."""
    since_ms: int | None = None
    """If set, the answer is only an offset: where output of this time (ms since 1970) or later begins."""


class ReportVerdict(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What became of a reported end; the agent forgets it whatever the verdict."""

    fence: int
    verdict: Literal["accepted", "duplicate", "stale"]
    current_attempt: int | None = None


class PollResponse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The leader's answer. That it came renews the agent's lease as of when the poll was sent."""

    lease_ms: int
    verdicts: list[ReportVerdict] = []
    assign: list[Assignment] = []
    """Attempts with a fence above `seen`, in order."""
    stop: list[int] = []
    """Running or queued attempts to end as cancelled (queued ones: released)."""
    release: list[int] = []
    """Queued attempts to give back if they have not started."""
    logs: list[LogWanted] = []
    draining: bool = False
    feature_level: int = 1
    """The cluster's level; see `RegisterResponse`."""
