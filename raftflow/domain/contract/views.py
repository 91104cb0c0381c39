"""The HTTP contract: what travels between clients, agents and replicas as JSON under `/v1`.

The same types validate requests, write answers and generate `/v1/openapi.json`. Amounts of resources are in the
users' units here (CPUs, MiB, whole units); times are ISO 8601 in UTC. Requests refuse unknown fields; answers may
gain fields, so clients ignore what they do not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.program import AssignedProgram
from raftflow.domain.tasks.resources import NUMBER_PATTERN, SIZE_PATTERN
from raftflow.domain.values.ids import NAME_PATTERN

Name = Annotated[
    str,
    # The pattern is for the description: whoever takes a name says better what is wrong with it (`domain.ids`).
    msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS_MAX, extra_json_schema={"pattern": NAME_PATTERN}),
]
Number = Annotated[int, msgspec.Meta(ge=0, le=limits.NUMBER_MAX)]
"""Of attempts, incarnations, polls: as large as the log can hold."""
UsageNumber = Annotated[int, msgspec.Meta(ge=0, le=limits.USAGE_NUMBER_MAX)]
Fences = Annotated[list[Number], msgspec.Meta(max_length=limits.FENCES_PER_POLL_MAX)]
ErrorText = Annotated[str, msgspec.Meta(max_length=limits.ERROR_CHARS_MAX)]

_BASE64_PATTERN = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_PORT = "0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
ADDRESS_PATTERN = f"^{_HOST}:{_PORT}$"
"""`host:port`, with an IPv6 host in brackets."""
URL_PATTERN = f"^https?://{_HOST}(?::{_PORT})?/?$"
"""Of a replica."""

HEADER_INDEX = "X-Raftflow-Index"
HEADER_TERM = "X-Raftflow-Term"
HEADER_LEADER = "X-Raftflow-Leader"
HEADER_LEADER_URL = "X-Raftflow-Leader-Url"
"""Where the leader is, with an answer that another replica passed on: the next request can go there."""
HEADER_PEERS = "X-Raftflow-Peers"
"""URLs of the voting members, with commas between: agents and clients follow them (`tasks/peer_urls.py`)."""
HEADER_REQUEST_ID = "X-Request-Id"
HEADER_IDEMPOTENCY_KEY = "Idempotency-Key"
HEADER_FORWARDED = "X-Raftflow-Forwarded"
"""The address that a request came from, set by a replica that passes it on; it is never passed on again."""
HEADER_FORWARDED_PROOF = "X-Raftflow-Forwarded-Proof"
"""Shows that a replica of the cluster has set the other one; without it that address is not believed."""

PROBLEM_TYPE_PREFIX = "https://raftflow.invalid/problems/"
"""Stable names, not addresses: nothing is fetched from there."""


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An RFC 9457 problem document. `type` is `PROBLEM_TYPE_PREFIX` and a stable word."""

    type: str
    title: str
    status: int
    detail: str = ""
    """What was wrong and what to do."""
    errors: list[FieldProblem] = []
    """For a broken document: each fault with its path."""
    limit: int | None = None
    current_attempt: int | None = None
    """For a stale report: the attempt that counts now."""


class FieldProblem(msgspec.Struct, frozen=True):
    """One fault of a request body."""

    path: str
    message: str


# --- workflows and tasks


class TaskCounts(msgspec.Struct, kw_only=True):
    """Tasks of a workflow by public state."""

    total: int
    succeeded: int = 0
    failed: int = 0
    running: int = 0
    ready: int = 0
    waiting: int = 0
    cancelled: int = 0
    cached: int = 0


class WorkflowView(msgspec.Struct, kw_only=True):
    """What `workflow show` prints."""

    id: str
    name: str
    state: Literal["pending", "running", "paused", "succeeded", "failed", "cancelled"]
    tasks: TaskCounts
    submitted_at: str
    finished_at: str | None = None
    priority: int = 50
    warnings: list[str] = []
    levels: int | None = None
    """Tasks on the longest chain of needs. Lists leave it out, and what follows."""
    critical_path: list[str] = []
    """The chain of tasks that is expected to take longest, first to last, its first 100."""
    critical_path_s: float | None = None
    """Expected time along all of it."""


class WorkflowPage(msgspec.Struct, kw_only=True):
    """Workflows, newest first. `next` is the cursor of the next page, None at the end."""

    workflows: list[WorkflowView]
    next: str | None = None


class WorkflowCreated(msgspec.Struct, kw_only=True):
    """Answer to a submission."""

    id: str
    warnings: list[str] = []


class PriorityRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/workflows/{id}/priority`."""

    priority: Annotated[int, msgspec.Meta(ge=0, le=limits.PRIORITY_MAX)]
    """Higher goes first."""


class CachedResultView(msgspec.Struct, kw_only=True):
    """A result that may stand for those of equal tasks."""

    key: str
    size: int
    """Bytes of the result."""
    workflow_id: str
    """Of the task that made it, and that task's id."""
    task_id: str
    made_at: str
    used_at: str
    hits: int
    """Tasks that it stood for."""


class CachePage(msgspec.Struct, kw_only=True):
    """Cached results in order of the keys. `next` is the cursor of the next page, None at the end."""

    entries: list[CachedResultView]
    total: int
    """Of all cached results, listed or not; `bytes` too, with what surrounds them."""
    bytes: int
    next: str | None = None


class CacheCleared(msgspec.Struct, kw_only=True):
    """How many cached results were forgotten."""

    cleared: int


class KindView(msgspec.Struct, kw_only=True):
    """What was learnt of a kind of tasks: what the next one is expected to take and to use."""

    kind: str
    count: int
    """Attempts that it is learnt from."""
    mean_s: float
    deviation_s: float
    cpu_s: float | None = None
    peak_mib: int | None = None
    learnt_at: str


class KindList(msgspec.Struct, kw_only=True):
    """Every kind of which something was learnt, in order of the names."""

    kinds: list[KindView]


class AttemptView(msgspec.Struct, kw_only=True):
    """One attempt of a task."""

    attempt: int
    fence: int
    agent: str
    outcome: str | None = None
    """None while it is queued or running."""
    exit_code: int | None = None
    error: str = ""
    assigned_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    index: int | None = None
    """Place in the log of the decision that made it; None while it is not known."""
    usage: UsageView | None = None
    """Of an attempt that runs, as its agent last told the leader."""


class UsageView(msgspec.Struct, kw_only=True):
    """What a running attempt uses."""

    cpu_ms: int
    memory_mib: int
    peak_mib: int
    progress: float | None
    """0 to 1, None if the task does not tell."""
    age_s: float
    """How long ago the leader was told."""


class TaskView(msgspec.Struct, kw_only=True):
    """What `task list` and `task show` print. Lists leave `history` empty."""

    id: str
    state: Literal["waiting", "ready", "running", "succeeded", "failed", "cancelled"]
    attempt: int
    """Number of the present or last attempt; 0 before the first."""
    agent: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    result: Any = None
    detail: str = ""
    """For a person: `queued on a1`, `next attempt at ...`, `stopping`."""
    needs: list[str] = []
    history: list[AttemptView] = []
    usage: UsageView | None = None
    """Of the present attempt while it runs; lists leave it out."""
    cached: bool = False
    """It succeeded by the result of an equal task."""
    backup: bool = False
    """A second attempt may start beside one that is late: then it may run twice at the same time."""


class TaskPage(msgspec.Struct, kw_only=True):
    """Tasks in document order."""

    tasks: list[TaskView]
    next: str | None = None


WaitingKind = Literal[
    "", "needs", "equal-task", "back-off", "paused", "no-agent", "never-fits", "agents-away", "max-parallel",
    "exclusive", "reserved", "avoids", "no-room", "next", "queued",
]  # fmt: skip
"""What a task waits for, empty if it does not wait.

    needs         other tasks of its workflow
    equal-task    an equal task whose result it will take
    back-off      the pause after a failed attempt
    paused        its workflow goes on
    no-agent      any agent at all
    never-fits    an agent with such labels, as much of a resource, or all of it at once: none that is up has
    agents-away   those that could run it take no new work: draining, quarantined, suspect
    max-parallel  its workflow has as many tasks under way as it may
    exclusive     an agent on which nothing runs
    reserved      an agent is kept for it until it fits, or those with room are kept for another task
    avoids        another agent than the one with which it was lost
    no-room       room on an agent
    next          the next decision: an agent has room
    queued        those before it in the queue of its agent
"""


class CandidateView(msgspec.Struct, kw_only=True):
    """An agent as a task saw it when it was placed."""

    agent: str
    where: Literal["run", "queue", "no"]
    score: list[int]
    """Compared one after the other, the least is best."""
    why: str


class TaskExplanation(msgspec.Struct, kw_only=True):
    """Why a task is where it is."""

    id: str
    state: str
    reason: str
    waits_for: list[str] = []
    waiting: WaitingKind = ""
    agent: str | None = None
    """Where its present or last attempt was placed."""
    index: int | None = None
    """Index in the log of the decision that placed it."""
    candidates: list[CandidateView] = []
    """Best first; as far as the leader remembers them."""


class TaskLog(msgspec.Struct, kw_only=True):
    """A piece of an attempt's output. It begins and ends at the border of a character."""

    attempt: int
    agent: str
    stream: Literal["stdout", "stderr"]
    offset: int
    """Byte of the stream at which the piece begins."""
    text: str
    """Bytes that are no UTF-8 are replaced."""
    data: bytes | None = None
    """The bytes of the piece, base64 in JSON; null if they are exactly `text` in UTF-8."""
    skipped: int = 0
    """Bytes right before the piece that are not kept, from the offset that was asked for on."""
    next: int | None = None
    """Offset to ask for next."""
    size: int
    """Bytes that the attempt has written so far, kept or not."""
    truncated: bool
    """True if bytes of the stream are not kept."""
    complete: bool
    """True if the attempt has ended."""

    def content(self) -> bytes:
        """Return the bytes of the piece."""
        return self.text.encode() if self.data is None else self.data


# --- agents


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
    """The same for every process that holds the same work directory: whoever holds it takes the place of the process
    before it. Any other agent under a name that lives is refused (`name-in-use`)."""
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
        "succeeded", "failed", "timeout", "cancelled", "abandoned", "released", "outgrown", "agent_fault"
    ]
    """`outgrown`: it used more memory than its demand and was stopped. `agent_fault`: the agent
    could not do its part."""
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


class AgentLoad(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Load of the agent's machine, whoever causes it; stays in the leader's memory."""

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
    """If set, only the offset is wanted at which output begins that came at this time or later, in ms since 1970."""


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


AgentWord = Literal["up", "suspect", "unfit", "returned", "quarantine", "draining", "lost", "left"]
"""State of an agent, as users see it."""


class AgentView(msgspec.Struct, kw_only=True):
    """What `agent list` prints."""

    id: str
    name: str
    state: AgentWord
    """As the replicas know it; and as the leader alone knows it, in place of `up`: `suspect` while it has been silent
    for a good part of its lease, `unfit` while it says that it can run nothing (`trouble`), and `returned` from its
    return after a loss to its first success."""
    incarnation: int
    resources: dict[str, float]
    allocated: dict[str, float]
    labels: dict[str, str] = {}
    running: int = 0
    queued: int = 0
    pid: int | None = None
    version: str = ""
    last_seen_s: float | None = None
    """Seconds since its last poll, as the leader knows; None elsewhere."""
    load: AgentLoad | None = None
    drain_deadline: str | None = None
    """When what still runs on a draining agent is moved; None for never, and when that was ordered."""
    quarantine_until: str | None = None
    """When it gets work again by itself; `resume` ends it at once."""
    losses: int = 0
    """How often it was lost in short succession; an hour without a loss forgets it."""
    faults_per_mille: int = 0
    """How many of its last attempts, some sixteen, failed there or vanished with it."""
    drained: bool = False
    """An operator drained it and has not resumed it since. It stays drained when it is lost, leaves or returns."""
    trouble: str = ""
    """Why it is unfit, as it told the leader; empty if it is fit."""

    @property
    def up(self) -> bool:
        """True if the replicas know it as up, whatever the leader thinks of it."""
        return self.state in {"up", "suspect", "unfit", "returned"}


class DrainRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/agents/{id}/drain`; the body may be left out."""

    deadline_s: Annotated[float, msgspec.Meta(ge=0.001, le=366 * 24 * 3600)] | None = None
    """How long running attempts may go on before they are moved to other agents; None for as long as they take."""


class ForgottenAgent(msgspec.Struct, kw_only=True):
    """Answer of `POST /v1/agents/{id}/forget`."""

    name: str


class AgentList(msgspec.Struct, kw_only=True):
    """Every agent that is known."""

    agents: list[AgentView]


# --- ledger, audit, status


class LedgerLine(msgspec.Struct, kw_only=True):
    """One agent's account."""

    name: str
    capacity: dict[str, float]
    allocated: dict[str, float]


class LedgerView(msgspec.Struct, kw_only=True):
    """What `ledger show` prints."""

    index: int
    agents: list[LedgerLine]


class LedgerCheck(msgspec.Struct, kw_only=True):
    """What `ledger verify` prints: every invariant of the machine, checked on one replica at one index."""

    ok: bool
    index: int
    problems: list[str]
    replica: str = ""


class AuditTransition(msgspec.Struct, frozen=True, array_like=True):
    """A task that moved."""

    workflow_id: str
    task_id: str
    before: str
    """Name of the state in lower case, internal ones (`delayed`, `queued`) included."""
    event: str
    after: str
    attempt: int = 0
    fence: int = 0
    agent: str = ""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One applied command. `chain` covers every field and the record before, so equal chains mean equal histories."""

    index: int
    position: int
    """Of the command in its log entry."""
    term: int
    at_ms: int
    actor: str
    command: str
    """The command's tag."""
    subject: str
    """Id of the workflow or agent that it is about; empty for batches."""
    request_id: str
    outcome: str
    """`ok`, `repeated` (a remembered reply), or the rejection's code."""
    detail: str = ""
    """For a person: a rejection's message, stale reports."""
    transitions: tuple[AuditTransition, ...] = ()
    chain: bytes = b""
    """32 bytes; hex in JSON listings."""


class AuditLine(msgspec.Struct, kw_only=True):
    """An audit record as the API lists it."""

    index: int
    position: int
    term: int
    at: str
    actor: str
    command: str
    subject: str
    request_id: str
    outcome: str
    detail: str
    transitions: list[AuditTransition]
    chain: str


class AuditPage(msgspec.Struct, kw_only=True):
    """Audit records of one replica in log order."""

    records: list[AuditLine]
    next: int | None = None
    """Index to go on from, None at the end."""
    replica: str = ""


class AuditCheck(msgspec.Struct, kw_only=True):
    """What `audit verify` finds on one replica."""

    ok: bool
    replica: str
    records: int
    first_index: int
    last_index: int
    chain: str
    """Hex chain hash after `last_index`."""
    gaps: list[list[int]]
    """[from, to] of indexes that a snapshot brought in place of entries."""
    problems: list[str]
    anchor_index: int = 0
    """Records up to this index were dropped, as the file has a limit; the chain is verified from the hash there."""
    before_gaps: list[tuple[int, str]] = []
    """Index of the last record before each gap, and the hex chain hash there; of the newest gaps only."""


class PeerView(msgspec.Struct, kw_only=True):
    """Another member, as this replica sees it."""

    name: str
    connected: bool
    match_index: int | None = None
    lag: int | None = None


class MemberView(msgspec.Struct, kw_only=True):
    """A replica of the cluster."""

    name: str
    peer: str
    """Where other replicas reach it, `host:port`."""
    url: str
    """Where clients and agents reach it."""
    voting: bool = True
    """False while it is being caught up: it holds data but does not count for majorities."""
    leader: bool = False
    connected: bool = False
    match_index: int | None = None
    """Highest entry known to be on its disk; only the leader knows it."""
    lag: int | None = None


class MemberList(msgspec.Struct, kw_only=True):
    """`GET /v1/members`: who belongs to the cluster, as the replica that answers knows it."""

    replica: str
    """Who answers."""
    leader: str | None
    term: int
    members: list[MemberView]
    removed: list[str] = []
    """Names that were members once and can never be again."""


class AddMemberRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/members`: a replica that runs on an empty disk with `join = true` becomes a member."""

    name: Name
    peer: Annotated[
        str, msgspec.Meta(max_length=limits.ADDRESS_CHARS_MAX, extra_json_schema={"pattern": ADDRESS_PATTERN})
    ]
    """Where other replicas reach it, `host:port`."""
    url: Annotated[str, msgspec.Meta(max_length=limits.URL_CHARS_MAX, extra_json_schema={"pattern": URL_PATTERN})]
    """Where clients and agents reach it."""


class TransferRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/members/transfer`: hand leadership over."""

    to: Name | None = None
    """A voting member; without it the most caught-up one."""


class LeaderNotice(msgspec.Struct, kw_only=True):
    """`GET /v1/leader`: who leads, as far as this replica knows."""

    leader: str | None
    """None while this replica knows of no leader: it has not heard one for about an election timeout."""
    url: str | None
    """Where clients and agents reach the leader."""
    term: int
    """The term in which it leads; of two answers that name a leader the one of the higher term is right."""


class HealthView(msgspec.Struct, kw_only=True):
    """`GET /healthz` and `GET /readyz`."""

    ok: bool
    name: str
    role: str


class ReplicaStatus(msgspec.Struct, kw_only=True):
    """`GET /v1/status`: this replica."""

    name: str
    cluster: str
    role: Literal["leader", "follower", "candidate"]
    leader: str | None
    leader_url: str | None
    term: int
    last_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    ready: bool
    digest: str
    """Hex audit chain after `digest_index`: equal indexes must show equal digests."""
    digest_index: int
    pid: int
    version: str
    feature_level: int = 1
    """The cluster's level, as of the state machine; see `domain.features`."""
    feature_level_max: int = 1
    """The highest level that this replica understands."""
    uptime_s: float
    peers: list[PeerView]
