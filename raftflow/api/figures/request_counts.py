"""Counters of the API: requests and their duration, by operation and status.

They are bounded: only declared operations have counters, everything else is `other`.
"""

from __future__ import annotations

import time
from typing import Final

from raftflow.replication.histogram import DISK_BOUNDS_S, Histogram

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0)
OTHER: Final = ("other", "other")
"""Stands for method and path of a request that asks for no operation."""

now_s: Final = time.perf_counter
"""A clock for durations. The event loop's own clock does not advance during a turn."""

OperationKey = tuple[str, str]
"""Method and path as declared: `GET`, `/v1/workflows/{id}`."""


class RequestCounts:
    """Counters of one replica's API.

    Args:
        syncs: how long syncs of its disk took; its file system counts them.
    """

    def __init__(self, syncs: Histogram | None = None) -> None:
        self.syncs = syncs or Histogram(DISK_BOUNDS_S)
        self.requests: dict[tuple[OperationKey, int], Histogram] = {}
        """By operation and status."""

    def answered(self, operation: OperationKey, status: int, began_s: float) -> None:
        """Count an answer. `began_s` is when the request began, by `now_s`."""
        seen = self.requests.get((operation, status))
        if seen is None:
            seen = self.requests[operation, status] = Histogram(BOUNDS_S)
        seen.note(now_s() - began_s)
