"""raftflow: a consensus-backed coordinator for workflows.

The names that programs use are here: `raftflow.task`, `raftflow.Client` and so on. Each is imported when it is used
first, so `import raftflow` is cheap. `__init__.pyi` lists them for type checkers.
"""

__version__ = "0.1.0"

_MODULES = {
    "Approval": "raftflow.sdk.waits",
    "AsyncClient": "raftflow.client",
    "AsyncRun": "raftflow.client",
    "AsyncWorkflowRun": "raftflow.client",
    "BadAnswer": "raftflow.client.errors",
    "CallRefused": "raftflow.sdk.attempt_socket",
    "ChildFailed": "raftflow.sdk.children",
    "ChildHandle": "raftflow.sdk.children",
    "Client": "raftflow.client",
    "ClientError": "raftflow.sdk.errors",
    "Context": "raftflow.sdk.context",
    "EffectAnswer": "raftflow.sdk.effects",
    "EffectDone": "raftflow.sdk.effects",
    "EffectFailed": "raftflow.sdk.effects",
    "NoLeader": "raftflow.client.errors",
    "NOT_DONE": "raftflow.sdk.effects",
    "NotDone": "raftflow.sdk.effects",
    "NotFound": "raftflow.client.errors",
    "OutcomeUnknown": "raftflow.client.errors",
    "Refused": "raftflow.client.errors",
    "Run": "raftflow.client",
    "RunningEffect": "raftflow.sdk.effects",
    "SignalInvalid": "raftflow.sdk.waits",
    "TaskFailed": "raftflow.client.errors",
    "TaskFunction": "raftflow.sdk.functions",
    "TaskParked": "raftflow.sdk.errors",
    "TaskRef": "raftflow.sdk.builder",
    "UNKNOWN": "raftflow.sdk.effects",
    "Unreachable": "raftflow.client.errors",
    "UsageError": "raftflow.sdk.errors",
    "WaitTimeout": "raftflow.sdk.errors",
    "Workflow": "raftflow.sdk.builder",
    "WorkflowFailed": "raftflow.client.errors",
    "WorkflowRun": "raftflow.client",
    "current": "raftflow.sdk.context",
    "current_effect": "raftflow.sdk.effects",
    "done": "raftflow.sdk.effects",
    "progress": "raftflow.sdk.progress",
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
