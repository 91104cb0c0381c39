from raftflow.client import AsyncClient as AsyncClient
from raftflow.client import AsyncRun as AsyncRun
from raftflow.client import AsyncWorkflowRun as AsyncWorkflowRun
from raftflow.client import Client as Client
from raftflow.client import Run as Run
from raftflow.client import WorkflowRun as WorkflowRun
from raftflow.client.errors import BadAnswer as BadAnswer
from raftflow.client.errors import NoLeader as NoLeader
from raftflow.client.errors import NotFound as NotFound
from raftflow.client.errors import OutcomeUnknown as OutcomeUnknown
from raftflow.client.errors import Refused as Refused
from raftflow.client.errors import TaskFailed as TaskFailed
from raftflow.client.errors import Unreachable as Unreachable
from raftflow.client.errors import WaitTimeout as WaitTimeout
from raftflow.client.errors import WorkflowFailed as WorkflowFailed
from raftflow.sdk.attempt_socket import CallRefused as CallRefused
from raftflow.sdk.builder import TaskRef as TaskRef
from raftflow.sdk.builder import Workflow as Workflow
from raftflow.sdk.context import Context as Context
from raftflow.sdk.context import current as current
from raftflow.sdk.context import progress as progress
from raftflow.sdk.errors import ClientError as ClientError
from raftflow.sdk.errors import UsageError as UsageError
from raftflow.sdk.functions import TaskFunction as TaskFunction
from raftflow.sdk.functions import task as task

__version__: str
