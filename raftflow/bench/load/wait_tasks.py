"""Tasks of the benchmark of waits."""

from __future__ import annotations

import time

import raftflow


def woken_at(name: str) -> float:
    """Wait for a signal, and return when the line behind the wait ran."""
    raftflow.current().wait(name)
    return time.time()
