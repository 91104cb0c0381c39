"""The Python SDK: sync and async clients that know the peers."""

from raftflow.client.aio import AsyncClient
from raftflow.client.builder import TaskRef, Workflow
from raftflow.client.client import Client
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
)

__all__ = [
    "AsyncClient",
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
]
