"""Kills and starts of replicas whose data directories were changed meanwhile."""

from __future__ import annotations

import signal
from typing import Final

from raftflow.chaos.testbed import Testbed
from raftflow.local import processes

SETTLES_S: Final = 20.0
"""A replica is ready, or has refused to start, within this time."""


def kill(bed: Testbed, name: str) -> None:
    """Kill a replica and wait until it is gone."""
    bed.cluster.signal(name, signal.SIGKILL)
    bed.cluster.stop(name)


def starts_or_refuses(bed: Testbed, name: str) -> str:
    """Start a replica and wait until it is ready or has ended; returns which."""
    bed.start_process(name)
    record = bed.process_of(name)

    def settled() -> bool:
        status = bed.cluster.status_of(name)
        return not processes.alive(record) or (status is not None and status.ready)

    if not bed.wait_for(settled, SETTLES_S):
        return "not ready"
    return "ready" if processes.alive(record) else "refused"
