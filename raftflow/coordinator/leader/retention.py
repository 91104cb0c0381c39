"""Which finished workflows are forgotten: those that finished long ago, and the oldest if there are too many."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftflow.machine.rows import WorkflowRow


class Retention(NamedTuple):
    """How long finished workflows are kept, and how many of them at most."""

    ms: int
    workflows: int
    tasks: int
    """How many tasks they may have together."""
    result_bytes: int
    """How large their results may be together."""

    def excess(self, finished: Mapping[str, WorkflowRow], now_ms: int) -> tuple[int, int]:
        """Return how many of the oldest workflows must be forgotten, and when the last of them finished.

        `finished` is in the order in which they finished.
        """
        tasks = sum([len(workflow.tasks) for workflow in finished.values()])
        size = sum([workflow.result_bytes for workflow in finished.values()])
        left = len(finished)
        last_ms = count = 0
        for workflow in finished.values():
            fits = left <= self.workflows and tasks <= self.tasks and size <= self.result_bytes
            if fits and workflow.finished_ms > now_ms - self.ms:
                break
            count += 1
            last_ms = workflow.finished_ms
            left -= 1
            tasks -= len(workflow.tasks)
            size -= workflow.result_bytes
        return count, last_ms
