"""What can go wrong for a client, as exceptions. Every one is a `ClientError`."""

from __future__ import annotations

from collections.abc import Mapping

from raftflow.domain.contract.views import PROBLEM_TYPE_PREFIX, Problem, WorkflowView
from raftflow.sdk.errors import ClientError, UsageError, WaitTimeout

__all__ = [
    "BadAnswer",
    "ClientError",
    "NoLeader",
    "NotFound",
    "OutcomeUnknown",
    "Refused",
    "TaskFailed",
    "Unreachable",
    "UsageError",
    "WaitTimeout",
    "WorkflowFailed",
    "describe",
    "too_late",
]

PROBLEMS_SHOWN_MAX = 20


class Unreachable(ClientError):  # noqa: N818 - a state of the world, as in NoLeader
    """No peer answered in time; the text says what happened with each.

    >>> raftflow.Client("http://127.0.0.1:1", timeout_s=0.2).workflow("wf-1")
    Traceback (most recent call last):
    raftflow.client.errors.Unreachable: ...
    """

    failures: Mapping[str, str] = {}
    """By URL of a peer: what happened."""


class NoLeader(Unreachable):
    """Peers answered, but none of them leads: a majority of the replicas is missing, or an election is under way.

    >>> issubclass(raftflow.NoLeader, raftflow.Unreachable)
    True
    """


class OutcomeUnknown(Unreachable):
    """The request may have been carried out or not. It is safe to send it again with `idempotency_key`.

    >>> document = {"name": "roots", "tasks": [{"id": "root", "python": "math:sqrt", "args": [16]}]}
    >>> def submit(key=None):
    ...     try:
    ...         return client.submit(document, idempotency_key=key)
    ...     except raftflow.OutcomeUnknown as error:
    ...         return submit(error.idempotency_key)
    >>> submit().results()
    {'root': 4.0}
    """

    def __init__(self, message: str, idempotency_key: str) -> None:
        """Keep the key of the call."""
        self.idempotency_key = idempotency_key
        super().__init__(message)


class WorkflowFailed(ClientError):  # noqa: N818 - reads as what happened
    """The workflow that was waited for has failed or was cancelled; `workflow` is how it ended.

    >>> run = client.start(time.sleep, 600)
    >>> run.cancel()
    >>> run.result()
    Traceback (most recent call last):
    raftflow.client.errors.WorkflowFailed: ... was cancelled; see `raftflow task list ...`
    """

    def __init__(self, workflow: WorkflowView) -> None:
        """Keep how it ended; the text says what to look at."""
        self.workflow = workflow
        counts = workflow.tasks
        told = f", {counts.failed} of {counts.total} tasks failed" if counts.failed else ""
        super().__init__(
            f"{workflow.id} ({workflow.name}) {'failed' if workflow.state == 'failed' else 'was cancelled'}{told}; "
            f"see `raftflow task list {workflow.id}`"
        )


class TaskFailed(ClientError):  # noqa: N818 - reads as what happened
    """A call of a function failed on the cluster, and no retry is left.

    >>> try:
    ...     client.map(math.sqrt, [4, -1])
    ... except raftflow.TaskFailed as failure:
    ...     print(failure.index, failure.error.splitlines()[-1])
    1 ValueError: math domain error
    """

    def __init__(self, workflow_id: str, task_id: str, error: str, *, name: str, index: int | None = None) -> None:
        """Keep which call it was; `index` is that of its item in a map. `error` is that of the last attempt."""
        self.workflow_id = workflow_id
        self.task_id = task_id
        self.error = error
        self.index = index
        which = name if index is None else f"{name}: item {index}"
        super().__init__(f"{which} failed ({workflow_id}): {error or 'without an error text'}")


class BadAnswer(ClientError):  # noqa: N818 - reads as what happened
    """The answer is not one of a raftflow replica of a compatible version.

    >>> issubclass(raftflow.BadAnswer, raftflow.ClientError)
    True
    """


class Refused(ClientError):  # noqa: N818 - reads as what happened
    """The coordinator refused; `problem` says why and what to do.

    >>> try:
    ...     client.submit({"name": "empty", "tasks": []})
    ... except raftflow.Refused as refusal:
    ...     print(refusal.kind, refusal.lasting)
    invalid-document True
    """

    def __init__(self, problem: Problem) -> None:
        """Keep the problem; the text shows all of it."""
        self.problem = problem
        super().__init__(describe(problem))

    @property
    def kind(self) -> str:
        """The stable word of the problem's type, such as `conflict`."""
        return self.problem.type.removeprefix(PROBLEM_TYPE_PREFIX)

    @property
    def lasting(self) -> bool:
        """Whether the same request would be refused again."""
        return 400 <= self.problem.status < 500 and self.problem.status not in (408, 425, 429)


class NotFound(Refused):
    """There is no such workflow, task or agent.

    >>> client.workflow("wf-none")
    Traceback (most recent call last):
    raftflow.client.errors.NotFound: ...
    """


def describe(problem: Problem) -> str:
    """Return a problem as text: what, why, and one line for each fault."""
    # The detail of a broken document repeats its first fault, for readers who see no list.
    repeated = bool(problem.errors) and problem.errors[0].message in problem.detail
    first = f"{problem.title}: {problem.detail}" if problem.detail and not repeated else problem.title
    lines = [f"  {fault.path}: {fault.message}" if fault.path else f"  {fault.message}" for fault in problem.errors]
    if len(lines) > PROBLEMS_SHOWN_MAX:
        lines[PROBLEMS_SHOWN_MAX:] = [f"  and {len(lines) - PROBLEMS_SHOWN_MAX} more"]
    return "\n".join([first, *lines])


def too_late(view: WorkflowView, timeout_s: float | None) -> WaitTimeout:
    """Return the error of a workflow that did not end in time."""
    return WaitTimeout(f"{view.id} has not ended within {timeout_s:g} s; it is {view.state}")
