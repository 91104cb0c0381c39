"""What is known of workflows and their requests, compact enough for a million lines."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any, Final, NamedTuple

from raftflow.chaos.checker.search.linearizability import TimedCall

_SHORT: Final = 64


def canonical(value: Any) -> str:
    """Return a string that is equal for equal JSON values; a long one is a hash. 1 and 1.0 differ."""
    written = json.dumps(value, sort_keys=True, separators=(",", ":"))
    if len(written) <= _SHORT:
        return written
    return "sha256:" + hashlib.sha256(written.encode()).hexdigest()


HASHED: Final = "hash:"
"""Begins a result of which the history has a hash alone, made by the harness."""


def differs(one: str | None, other: str | None) -> bool:
    """Tell whether two results are known to be different."""
    if one is None or other is None or one.startswith(HASHED) != other.startswith(HASHED):
        return False
    return one != other


class SubmittedTask(NamedTuple):
    """A task as it was submitted."""

    needs: tuple[str, ...]
    backup: bool
    expect: str | None
    """The canonical form of its result."""
    ends: str
    """How it must end if nobody cancels: `succeeded`, `failed` or `any`."""
    parent: str | None = None
    """The task that spawns it; None if it is in the document. It may be missing where that has not succeeded."""


class WrittenRequest:
    """One write, however often it was sent: it takes effect once at most."""

    __slots__ = ("_unanswered", "index", "invoked", "name", "returned", "subject")

    def __init__(self, name: str, subject: str) -> None:
        self.name = name
        self.subject = subject
        self.invoked = math.inf
        """When it was first sent, sendings that certainly failed left out."""
        self.returned = math.inf
        """When it was first acknowledged."""
        self.index: int | None = None
        """Where in the log it took effect, if the answer told."""
        self._unanswered: dict[str, float] = {}

    def invoke(self, op: str, at: float) -> None:
        """It is sent."""
        self._unanswered[op] = at

    def fail(self, op: str) -> None:
        """This sending certainly did nothing."""
        del self._unanswered[op]

    def acknowledge(self, op: str, at: float) -> None:
        """This sending was acknowledged."""
        self.invoked = min(self.invoked, *self._unanswered.values())
        self.returned = min(self.returned, at)
        self._unanswered.pop(op, None)

    def forget_acknowledgement(self) -> None:
        """Its effect may have been lost with a restored cluster."""
        self.returned = math.inf

    @property
    def acknowledged(self) -> bool:
        """True if it certainly took effect."""
        return self.returned < math.inf

    @property
    def began(self) -> float:
        """When it may have taken effect first; infinite if it certainly did not."""
        return min(self.invoked, min(self._unanswered.values(), default=math.inf))

    def call(self) -> TimedCall | None:
        """Return it as one call, None if it certainly did nothing."""
        began = self.began
        return None if began == math.inf else TimedCall(began, self.returned, self.name)


class SubmittedRequest(WrittenRequest):
    """One submission."""

    __slots__ = ("tasks", "workflow", "workflow_name")

    def __init__(self, request: str, workflow_name: str | None, tasks: dict[str, SubmittedTask]) -> None:
        super().__init__("submit", request)
        self.workflow_name = workflow_name
        self.tasks = tasks
        self.workflow: str | None = None
        """The workflow that it made."""


class SeenTask(NamedTuple):
    """The newest that was read of a task."""

    attempt: int
    fence: int
    """-1 if the read did not tell."""
    state: str
    result: str | None
    invoked: float
    """When the read began."""
    returned: float


class RecordedWorkflow:
    """One workflow, as clients saw it."""

    __slots__ = ("controls", "exists", "floor", "id", "name", "reads", "restored", "submitted")

    def __init__(self, workflow: str) -> None:
        self.id = workflow
        self.submitted: SubmittedRequest | None = None
        self.name: str | None = None
        """Its name, as reads show it."""
        self.reads: list[TimedCall] = []
        self.controls: dict[tuple[str, str], WrittenRequest] = {}
        self.floor: dict[str, SeenTask] = {}
        """What a read that begins now must show at least."""
        self.exists = False
        """True if anybody was shown it, or one of its tasks ran."""
        self.restored = False
        """True if it was made before the cluster was restored: its later states may begin again."""

    def forget_submission(self) -> None:
        """It may be gone with a restored cluster."""
        self.submitted = None
        self.exists = False

    def controls_of(self, name: str) -> list[WrittenRequest]:
        """Return the requests of one verb that may have taken effect."""
        return [control for (verb, _), control in self.controls.items() if verb == name and control.began < math.inf]

    def may_be_retried_between(self, since: float, until: float) -> bool:
        """Tell whether a retry may have taken effect between two moments."""
        return any(retry.began <= until and retry.returned >= since for retry in self.controls_of("retry"))

    def cancelled_at(self) -> float:
        """Return when a cancel was first acknowledged; infinite if none was."""
        return min((cancel.returned for cancel in self.controls_of("cancel")), default=math.inf)

    def task(self, task: str) -> SubmittedTask | None:
        """Return a task as it was submitted, None if that is not known."""
        return None if self.submitted is None else self.submitted.tasks.get(task)
