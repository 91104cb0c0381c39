"""The Python SDK: sync and async clients that know the peers."""

from raftflow.client.aio import AsyncClient, AsyncWorkflowRun
from raftflow.client.client import Client, WorkflowRun
from raftflow.client.errors import (
    BadAnswer,
    ClientError,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Refused,
    Unreachable,
    UsageError,
    WaitTimeout,
    WorkflowFailed,
)
from raftflow.sdk.builder import TaskRef, Workflow

__all__ = [
    "AsyncClient",
    "AsyncWorkflowRun",
    "BadAnswer",
    "Client",
    "ClientError",
    "NoLeader",
    "NotFound",
    "OutcomeUnknown",
    "Refused",
    "TaskRef",
    "Unreachable",
    "UsageError",
    "WaitTimeout",
    "Workflow",
    "WorkflowFailed",
    "WorkflowRun",
]
