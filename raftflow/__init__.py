"""raftflow: a consensus-backed coordinator for workflows.

The names that programs use are here: `raftflow.task`, `raftflow.Client` and so on. Each is imported when it is used
first, so `import raftflow` is cheap. `__init__.pyi` lists them for type checkers.
"""

__version__ = "0.1.0"

_MODULES = {
    "AsyncClient": "raftflow.client",
    "AsyncRun": "raftflow.client",
    "AsyncWorkflowRun": "raftflow.client",
    "BadAnswer": "raftflow.client.errors",
    "CallRefused": "raftflow.sdk.attempt_socket",
    "ChildHandle": "raftflow.sdk.children",
    "ChildFailed": "raftflow.sdk.children",
    "Client": "raftflow.client",
    "ClientError": "raftflow.sdk.errors",
    "Context": "raftflow.sdk.context",
    "NoLeader": "raftflow.client.errors",
    "NotFound": "raftflow.client.errors",
    "OutcomeUnknown": "raftflow.client.errors",
    "Refused": "raftflow.client.errors",
    "Run": "raftflow.client",
    "TaskFailed": "raftflow.client.errors",
    "TaskFunction": "raftflow.sdk.functions",
    "TaskParked": "raftflow.sdk.children",
    "TaskRef": "raftflow.sdk.builder",
    "Unreachable": "raftflow.client.errors",
    "UsageError": "raftflow.sdk.errors",
    "WaitTimeout": "raftflow.client.errors",
    "Workflow": "raftflow.sdk.builder",
    "WorkflowFailed": "raftflow.client.errors",
    "WorkflowRun": "raftflow.client",
    "current": "raftflow.sdk.context",
    "progress": "raftflow.sdk.context",
    "task": "raftflow.sdk.functions",
}
"""By public name: the module that has it."""


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'raftflow' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - most processes that import raftflow never need it

    value = globals()[name] = getattr(importlib.import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
