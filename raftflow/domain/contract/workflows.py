"""Workflows, code bundles, and what was learnt of kinds of tasks, as the API shows them."""

from __future__ import annotations

from typing import Literal

import msgspec


class TaskCounts(msgspec.Struct, kw_only=True):
    """Tasks of a workflow by public state."""

    total: int
    succeeded: int = 0
    failed: int = 0
    running: int = 0
    ready: int = 0
    waiting: int = 0
    cancelled: int = 0
    cached: int = 0
    parked: int = 0
    """Wait for children that they spawned, and hold nothing."""


class WorkflowView(msgspec.Struct, kw_only=True):
    """What `workflow show` prints."""

    id: str
    name: str
    state: Literal["pending", "running", "paused", "succeeded", "failed", "cancelled"]
    tasks: TaskCounts
    submitted_at: str
    finished_at: str | None = None
    priority: int = 50
    warnings: list[str] = []
    levels: int | None = None
    """Tasks on the longest chain of needs. Lists leave it out, and what follows."""
    critical_path: list[str] = []
    """The chain of tasks that is expected to take longest, first to last, its first 100."""
    critical_path_s: float | None = None
    """Expected time along all of it."""
    code: str | None = None
    """Digest of its code bundle."""
    pause_reason: str | None = None
    """Why it is paused, if nobody has paused it: a budget is used up."""


class WorkflowPage(msgspec.Struct, kw_only=True):
    """Workflows, newest first. `next` is the cursor of the next page, None at the end."""

    workflows: list[WorkflowView]
    next: str | None = None


class WorkflowCreated(msgspec.Struct, kw_only=True):
    """Answer to a submission."""

    id: str
    warnings: list[str] = []


class KindView(msgspec.Struct, kw_only=True):
    """What was learnt of a kind of tasks: what the next one is expected to take and to use."""

    kind: str
    count: int
    """Attempts that it is learnt from."""
    mean_s: float
    """Of one attempt."""
    deviation_s: float
    span_s: float | None = None
    """Of tasks with children: from the first start to the end, with the time in which they were parked."""
    cpu_s: float | None = None
    peak_mib: int | None = None
    learnt_at: str


class KindList(msgspec.Struct, kw_only=True):
    """Every kind of which something was learnt, in order of the names."""

    kinds: list[KindView]


class BundleView(msgspec.Struct, kw_only=True):
    """A code bundle that the cluster keeps."""

    digest: str
    """SHA-256 of its bytes, in hex."""
    size: int
    """Bytes of it."""
    workflows: int
    """Kept workflows that refer to it."""
    registered_at: str
    used_at: str
    """When it was sent last, or the last workflow that referred to it ended."""


class BundleList(msgspec.Struct, kw_only=True):
    """Code bundles, in the order in which they were registered."""

    bundles: list[BundleView]


class BundleKept(msgspec.Struct, kw_only=True):
    """Answer of a replica that has a copy of a bundle on its disk."""

    digest: str
