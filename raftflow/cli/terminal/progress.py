"""Live progress of a workflow: a bar on a terminal, nothing elsewhere, so that outputs stay readable by programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from raftflow.cli.terminal.streams import is_terminal
from raftflow.domain.contract.views import WorkflowView


class ShowProgress(Protocol):
    """Shows the present state of a workflow."""

    def __call__(self, view: WorkflowView, /) -> None:
        """Show it."""


def describe(view: WorkflowView) -> str:
    """Return a workflow's state as a line of text."""
    counts = view.tasks
    names = ("running", "ready", "waiting", "parked", "failed", "cancelled")
    parts = [f"{getattr(counts, name)} {name}" for name in names if getattr(counts, name)]
    done = f"{counts.succeeded}/{counts.total} succeeded"
    return f"{view.name}: {view.state}, {', '.join([done, *parts])}"


def _nothing(_view: WorkflowView) -> None:
    """Show nothing."""


@contextmanager
def live() -> Iterator[ShowProgress]:
    """Show progress on standard error while the block runs, if that is a terminal."""
    if not is_terminal(sys.stderr):
        yield _nothing
        return
    from rich.console import Console  # noqa: PLC0415 - heavy, and for terminals only
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("submitted", total=None)

        def update(view: WorkflowView) -> None:
            ended = view.tasks.succeeded + view.tasks.failed + view.tasks.cancelled
            bars.update(bar, total=view.tasks.total, completed=ended, description=describe(view))

        yield update
