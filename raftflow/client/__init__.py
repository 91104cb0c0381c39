"""The Python SDK: sync and async clients that know the peers."""

from raftflow.client.aio import AsyncClient
from raftflow.client.client import Client, Run, WorkflowRun
from raftflow.client.errors import (
    BadAnswer,
    ClientError,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Refused,
    TaskFailed,
    Unreachable,
    UsageError,
    WaitTimeout,
    WorkflowFailed,
)
from raftflow.client.function_calls import AsyncRun
from raftflow.client.workflow_calls import AsyncWorkflowRun
from raftflow.sdk.builder import TaskRef, Workflow

__all__ = [
    "AsyncClient",
    "AsyncRun",
    "AsyncWorkflowRun",
    "BadAnswer",
    "Client",
    "ClientError",
    "NoLeader",
    "NotFound",
    "OutcomeUnknown",
    "Refused",
    "Run",
    "TaskFailed",
    "TaskRef",
    "Unreachable",
    "UsageError",
    "WaitTimeout",
    "Workflow",
    "WorkflowFailed",
    "WorkflowRun",
]
