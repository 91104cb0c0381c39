"""Operations of tasks, and of what the cluster learnt of kinds of tasks."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import CURSOR, PAGE_SIZE, Access, AnsweredBy, Operation, Param, Verb
from raftflow.domain.contract.views import KindList, TaskExplanation, TaskLog, TaskPage, TaskView

LIST_TASKS: Final = Operation(
    name="list_tasks",
    method="GET",
    path="/v1/workflows/{id}/tasks",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List a workflow's tasks in document order",
    answer=TaskPage,
    items="tasks",
    params=(PAGE_SIZE, CURSOR),
    verb=Verb(
        noun="task",
        name="list",
        parts=("WORKFLOW",),
        columns={
            "ID": "id",
            "STATE": "state",
            "ATTEMPT": "attempt",
            "AGENT": "agent",
            "STARTED": "started_at",
            "FINISHED": "finished_at",
            "DETAIL": "detail",
        },
    ),
)
SHOW_TASK: Final = Operation(
    name="show_task",
    method="GET",
    path="/v1/workflows/{id}/tasks/{task}",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Show a task with its result and its attempts",
    answer=TaskView,
    verb=Verb(noun="task", name="show", by_hand=True),
)
EXPLAIN_TASK: Final = Operation(
    name="explain_task",
    method="GET",
    path="/v1/workflows/{id}/tasks/{task}/explain",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Explain why a task is in its state and place",
    answer=TaskExplanation,
    verb=Verb(noun="task", name="explain", by_hand=True),
)
FETCH_TASK_LOG: Final = Operation(
    name="fetch_task_log",
    method="GET",
    path="/v1/workflows/{id}/tasks/{task}/logs",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.READ,
    summary="Fetch a piece of an attempt's output",
    answer=TaskLog,
    params=(
        Param("stream", "string", "which output", ("stdout", "stderr"), default="stdout"),
        Param("attempt", "integer", "number of the attempt; the last one by default", minimum=1),
        Param("offset", "integer", "byte of the stream to begin at", maximum=limits.BYTE_OFFSET_MAX, default=0),
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
    answer_s=15.0,  # the replica itself waits up to 10 s for the agent
    verb=Verb(noun="task", name="logs", by_hand=True),
)
LIST_KINDS: Final = Operation(
    name="list_kinds",
    method="GET",
    path="/v1/kinds",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List what was learnt of kinds of tasks: how long they take and what they use",
    answer=KindList,
    items="kinds",
    verb=Verb(
        noun="task",
        name="kinds",
        columns={
            "KIND": "kind",
            "COUNT": "count",
            "MEAN_S": "mean_s",
            "DEVIATION_S": "deviation_s",
            "SPAN_S": "span_s",
            "CPU_S": "cpu_s",
            "PEAK_MIB": "peak_mib",
            "LEARNT": "learnt_at",
        },
    ),
)
