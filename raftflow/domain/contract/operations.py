"""Every operation of the HTTP API, declared once.

The server's routes (`api.routes`), the OpenAPI document (`api.openapi`), the calls of the client (`client.aio`) and
of agents (`agent.exchange`), and the page `raftflow/api/OPERATIONS.md` are made from these declarations. Tests check
that each operation has a handler, a caller and a line on that page.
"""

from __future__ import annotations

from typing import Any, Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Param, UsedBy
from raftflow.domain.contract.views import (
    AddMemberRequest,
    AgentList,
    AgentView,
    AuditCheck,
    AuditPage,
    CacheCleared,
    CachePage,
    DrainRequest,
    ForgottenAgent,
    HealthView,
    InputsPiece,
    KindList,
    LeaderNotice,
    LedgerCheck,
    LedgerView,
    MemberList,
    PollRequest,
    PollResponse,
    PriorityRequest,
    RegisterRequest,
    RegisterResponse,
    ReplicaStatus,
    TaskExplanation,
    TaskLog,
    TaskPage,
    TaskView,
    TransferRequest,
    WorkflowCreated,
    WorkflowPage,
    WorkflowView,
)
from raftflow.domain.tasks.states import WorkflowState

_PAGE_SIZE = Param(
    "limit", "integer", "most entries of the answer", minimum=1, maximum=limits.PAGE_ENTRIES_MAX, default=100
)
_CURSOR = Param(
    "cursor",
    "string",
    "the `next` of the page before",
    pattern=limits.CURSOR_PATTERN,
    chars_max=limits.CURSOR_CHARS_MAX,
)
_PREFIX = Param("prefix", "string", "only results whose key begins with this")

# --- workflows and tasks

SUBMIT_WORKFLOW: Final = Operation(
    name="submit_workflow",
    method="POST",
    path="/v1/workflows",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Submit a workflow",
    answer=WorkflowCreated,
    status=201,
    body=dict,
    body_schema="WorkflowDocument",
    extra_problems=(problems.TOO_LARGE,),
)
LIST_WORKFLOWS: Final = Operation(
    name="list_workflows",
    method="GET",
    path="/v1/workflows",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List workflows, newest first",
    answer=WorkflowPage,
    params=(Param("state", "string", "only workflows in this state", tuple(WorkflowState)), _PAGE_SIZE, _CURSOR),
)
SHOW_WORKFLOW: Final = Operation(
    name="show_workflow",
    method="GET",
    path="/v1/workflows/{id}",
    answered_by=AnsweredBy.LEADER_READ,
    summary="Show a workflow",
    answer=WorkflowView,
    params=(
        Param(
            "wait_ms",
            "integer",
            "hold the answer until the workflow has ended, but no longer than this; the answer may come earlier",
            maximum=limits.WORKFLOW_WAIT_MS_MAX,
            default=0,
        ),
    ),
)


def _control_workflow(action: str, summary: str, *, verb: str = "", body: Any = None) -> Operation[WorkflowView]:
    return Operation(
        name=f"{verb or action}_workflow",
        method="POST",
        path=f"/v1/workflows/{{id}}/{action}",
        answered_by=AnsweredBy.LEADER_WRITE,
        summary=summary,
        answer=WorkflowView,
        body=body,
        extra_problems=(problems.CONFLICT,),
    )


CANCEL_WORKFLOW: Final = _control_workflow("cancel", "Cancel what has not ended; running attempts are told to stop")
PAUSE_WORKFLOW: Final = _control_workflow("pause", "Start nothing new; running attempts continue")
RESUME_WORKFLOW: Final = _control_workflow("resume", "Continue after a pause")
RETRY_WORKFLOW: Final = _control_workflow("retry", "Run the failed and cancelled tasks of a finished workflow again")
PRIORITIZE_WORKFLOW: Final = _control_workflow(
    "priority", "Change the priority of a workflow that has not ended", verb="prioritize", body=PriorityRequest
)
LIST_TASKS: Final = Operation(
    name="list_tasks",
    method="GET",
    path="/v1/workflows/{id}/tasks",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List a workflow's tasks in document order",
    answer=TaskPage,
    params=(_PAGE_SIZE, _CURSOR),
)
SHOW_TASK: Final = Operation(
    name="show_task",
    method="GET",
    path="/v1/workflows/{id}/tasks/{task}",
    answered_by=AnsweredBy.LEADER_READ,
    summary="Show a task with its attempts",
    answer=TaskView,
)
EXPLAIN_TASK: Final = Operation(
    name="explain_task",
    method="GET",
    path="/v1/workflows/{id}/tasks/{task}/explain",
    answered_by=AnsweredBy.LEADER_READ,
    summary="Explain why a task is in its state",
    answer=TaskExplanation,
)
FETCH_TASK_LOG: Final = Operation(
    name="fetch_task_log",
    method="GET",
    path="/v1/workflows/{id}/tasks/{task}/logs",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Fetch a piece of an attempt's output",
    answer=TaskLog,
    params=(
        Param("stream", "string", "which output", ("stdout", "stderr"), default="stdout"),
        Param("attempt", "integer", "number of the attempt; the last one by default", minimum=1),
        Param("offset", "integer", "byte of the stream to begin at", default=0),
        Param(
            "limit",
            "integer",
            "most bytes; one character always comes whole",
            minimum=1,
            maximum=limits.LOG_PIECE_BYTES_MAX,
            default=limits.LOG_PIECE_BYTES_MAX,
        ),
        Param(
            "since_ms",
            "integer",
            "ms since 1970: the answer has no text, and its `next` is where output of that time or later begins",
        ),
    ),
    extra_problems=(problems.CONFLICT, problems.LOG_UNAVAILABLE),
)

# --- agents

REGISTER_AGENT: Final = Operation(
    name="register_agent",
    method="POST",
    path="/v1/agents",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Register an agent, or a new instance of one",
    answer=RegisterResponse,
    used_by=UsedBy.AGENT,
    body=RegisterRequest,
    extra_problems=(problems.CONFLICT, problems.NAME_IN_USE, problems.TOO_LARGE),
)
LIST_AGENTS: Final = Operation(
    name="list_agents",
    method="GET",
    path="/v1/agents",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List agents",
    answer=AgentList,
)
SHOW_AGENT: Final = Operation(
    name="show_agent",
    method="GET",
    path="/v1/agents/{id}",
    answered_by=AnsweredBy.LEADER_READ,
    summary="Show an agent",
    answer=AgentView,
)
POLL: Final = Operation(
    name="poll",
    method="POST",
    path="/v1/agents/{id}/poll",
    answered_by=AnsweredBy.LEADER_POLL,
    summary="Report, renew the lease and fetch work. A report of stale attempts alone is answered with 200 and "
    "verdicts; one of a stale incarnation is refused as a whole",
    answer=PollResponse,
    used_by=UsedBy.AGENT,
    body=PollRequest,
    extra_problems=(problems.STALE_INCARNATION, problems.TOO_LARGE),
)
DRAIN_AGENT: Final = Operation(
    name="drain_agent",
    method="POST",
    path="/v1/agents/{id}/drain",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Give an agent no new work until it is resumed, even if it is lost or leaves meanwhile. With a deadline, "
    "work that still runs then is moved to other agents",
    answer=AgentView,
    body=DrainRequest,
    body_required=False,
    extra_problems=(problems.CONFLICT,),
)
RESUME_AGENT: Final = Operation(
    name="resume_agent",
    method="POST",
    path="/v1/agents/{id}/resume",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Let a draining agent work again, whether it is present or not",
    answer=AgentView,
    extra_problems=(problems.CONFLICT,),
)
FORGET_AGENT: Final = Operation(
    name="forget_agent",
    method="POST",
    path="/v1/agents/{id}/forget",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Remove an agent that is lost or has left from the list, with its drain and the history of its faults",
    answer=ForgottenAgent,
    extra_problems=(problems.CONFLICT,),
)
FETCH_INPUTS: Final = Operation(
    name="fetch_inputs",
    method="GET",
    path="/v1/agents/{id}/attempts/{fence}/inputs",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Fetch inputs of an attempt that are too large to come with its assignment. Any replica that knows the "
    "attempt answers; one that is behind says so with 503",
    answer=InputsPiece,
    used_by=UsedBy.AGENT,
    params=(
        Param(
            "first",
            "integer",
            "position of the need to begin with: 0, and then the `next` of the piece before",
            maximum=limits.NEEDS_PER_TASK_MAX,
            default=0,
        ),
    ),
    extra_problems=(problems.CONFLICT, problems.BEHIND),
)

# --- the cluster

SHOW_STATUS: Final = Operation(
    name="show_status",
    method="GET",
    path="/v1/status",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Show this replica: role, term, leader, indexes",
    answer=ReplicaStatus,
)
SHOW_LEADER: Final = Operation(
    name="show_leader",
    method="GET",
    path="/v1/leader",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Name the leader that this replica knows; with `wait_ms`, as soon as that is the leader of a later term. "
    "A client that waits for a silent leader learns from another replica that there is a new one",
    answer=LeaderNotice,
    params=(
        Param("term", "integer", "a leader of this term, or of an earlier one, is not news", default=0),
        Param("wait_ms", "integer", "how long to wait for news", maximum=limits.LEADER_WAIT_MS_MAX, default=0),
    ),
)
SHOW_LEDGER: Final = Operation(
    name="show_ledger",
    method="GET",
    path="/v1/ledger",
    answered_by=AnsweredBy.LEADER_READ,
    summary="Show the account of every agent",
    answer=LedgerView,
)
VERIFY_LEDGER: Final = Operation(
    name="verify_ledger",
    method="GET",
    path="/v1/ledger/verify",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Check this replica's invariants",
    answer=LedgerCheck,
)
LIST_AUDIT: Final = Operation(
    name="list_audit",
    method="GET",
    path="/v1/audit",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="List this replica's audit records in log order",
    answer=AuditPage,
    params=(
        Param("from", "integer", "log index to begin at", default=0),
        Param(
            "limit",
            "integer",
            "about how many records; those of one log entry stay together",
            minimum=1,
            maximum=limits.AUDIT_PAGE_RECORDS_MAX,
            default=100,
        ),
    ),
)
VERIFY_AUDIT: Final = Operation(
    name="verify_audit",
    method="GET",
    path="/v1/audit/verify",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Check this replica's audit file",
    answer=AuditCheck,
)
CHECK_HEALTH: Final = Operation(
    name="check_health",
    method="GET",
    path="/healthz",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Tell whether the process is alive",
    answer=HealthView,
    access=Access.OPEN,
    used_by=UsedBy.TOOL,
)
CHECK_READINESS: Final = Operation(
    name="check_readiness",
    method="GET",
    path="/readyz",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Tell whether this replica serves",
    answer=HealthView,
    access=Access.OPEN,
    used_by=UsedBy.TOOL,
    extra_problems=(problems.NO_LEADER,),
)
SHOW_METRICS: Final = Operation(
    name="show_metrics",
    method="GET",
    path="/metrics",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Figures as Prometheus text",
    answer=bytes,
    media_type="text/plain",
    used_by=UsedBy.TOOL,
)

# --- members

LIST_MEMBERS: Final = Operation(
    name="list_members",
    method="GET",
    path="/v1/members",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List the replicas of the cluster",
    answer=MemberList,
)
ADD_MEMBER: Final = Operation(
    name="add_member",
    method="POST",
    path="/v1/members",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Add a replica that runs with `join = true`: it receives the log until it has caught up, and votes from "
    "then on",
    answer=MemberList,
    body=AddMemberRequest,
    extra_problems=(problems.CONFLICT,),
)
REMOVE_MEMBER: Final = Operation(
    name="remove_member",
    method="POST",
    path="/v1/members/{name}/remove",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Remove a replica for ever; a leader hands leadership over first",
    answer=MemberList,
    extra_problems=(problems.CONFLICT,),
)
TRANSFER_LEADERSHIP: Final = Operation(
    name="transfer_leadership",
    method="POST",
    path="/v1/members/transfer",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Hand leadership to another replica",
    answer=MemberList,
    body=TransferRequest,
    extra_problems=(problems.NOT_FOUND, problems.CONFLICT),
)

# --- what the cluster remembers of finished work

LIST_CACHE: Final = Operation(
    name="list_cache",
    method="GET",
    path="/v1/cache",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List cached results in order of their keys",
    answer=CachePage,
    params=(_PREFIX, _PAGE_SIZE, Param("cursor", "string", "the `next` of the page before")),
)
CLEAR_CACHE: Final = Operation(
    name="clear_cache",
    method="DELETE",
    path="/v1/cache",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Forget cached results: one, those with a prefix, or all",
    answer=CacheCleared,
    params=(Param("key", "string", "only the result with this key"), _PREFIX),
    extra_problems=(problems.CONFLICT,),
)
LIST_KINDS: Final = Operation(
    name="list_kinds",
    method="GET",
    path="/v1/kinds",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List what was learnt of kinds of tasks",
    answer=KindList,
)

# --- descriptions

SHOW_WORKFLOW_SCHEMA: Final = Operation(
    name="show_workflow_schema",
    method="GET",
    path="/v1/schema/workflow.json",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Give out the JSON Schema of workflow documents",
    answer=dict[str, Any],
    media_type="application/schema+json",
    access=Access.OPEN,  # editors send no token, and the schema says nothing about the cluster
    used_by=UsedBy.TOOL,
)
DESCRIBE_API: Final = Operation(
    name="describe_api",
    method="GET",
    path="/v1/openapi.json",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Describe this API",
    answer=dict[str, Any],
)

OPERATIONS: Final[tuple[Operation[Any], ...]] = (
    SUBMIT_WORKFLOW,
    LIST_WORKFLOWS,
    SHOW_WORKFLOW,
    CANCEL_WORKFLOW,
    PAUSE_WORKFLOW,
    RESUME_WORKFLOW,
    RETRY_WORKFLOW,
    PRIORITIZE_WORKFLOW,
    LIST_TASKS,
    SHOW_TASK,
    EXPLAIN_TASK,
    FETCH_TASK_LOG,
    REGISTER_AGENT,
    LIST_AGENTS,
    SHOW_AGENT,
    POLL,
    DRAIN_AGENT,
    RESUME_AGENT,
    FORGET_AGENT,
    FETCH_INPUTS,
    SHOW_STATUS,
    SHOW_LEADER,
    SHOW_LEDGER,
    VERIFY_LEDGER,
    LIST_AUDIT,
    VERIFY_AUDIT,
    CHECK_HEALTH,
    CHECK_READINESS,
    SHOW_METRICS,
    LIST_MEMBERS,
    ADD_MEMBER,
    REMOVE_MEMBER,
    TRANSFER_LEADERSHIP,
    LIST_CACHE,
    CLEAR_CACHE,
    LIST_KINDS,
    SHOW_WORKFLOW_SCHEMA,
    DESCRIBE_API,
)
"""All of them, in the order of the API's description."""
