"""Bursts of small entries, submitted directly to a replica's log to make long tails."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from raftflow.domain.commands import FireTimers, encode_entry
from raftflow.replication.log import Applied, Rejected

if TYPE_CHECKING:
    from random import Random

    from raftflow.coordinator.replica import Replica
    from raftflow.machine.machine import EntryResult
    from raftflow.simulation.checkers.history import RunHistory
    from raftflow.simulation.world.cluster import Cluster
    from raftflow.simulation.world.loop import VirtualLoop

TIMEOUT_S = 1.0


class Bursts:
    """Submits entries and tells the history what was promised about each."""

    def __init__(self, loop: VirtualLoop, rng: Random, cluster: Cluster, history: RunHistory) -> None:
        self._loop = loop
        self._rng = rng
        self._cluster = cluster
        self._history = history
        self._serial = 0

    def submit(self, name: str, count: int) -> None:
        """Submit `count` entries at once to one replica, if it serves."""
        host = self._cluster.hosts[name]
        process, replica = host.process, host.replica
        if process is None or replica is None or not host.serving:
            return
        padding = "x" * self._rng.choice((0, 0, 200, 1500))
        self._serial += 1
        serial = self._serial

        def begin() -> None:
            tasks = [self._submit(replica, f"burst-{serial}-{number}", padding) for number in range(count)]
            self._cluster.retained.append(asyncio.gather(*tasks))

        self._loop.call_soon(begin, context=process.context)

    async def _submit(self, replica: Replica, request_id: str, padding: str) -> None:
        command = FireTimers(at_ms=replica.clock.now_ms(), actor=f"leader:{padding}", request_id=request_id)
        outcome = await replica.log.submit(encode_entry((command,)), TIMEOUT_S)
        if isinstance(outcome, Applied):
            self._history.acknowledge(request_id, cast("EntryResult", outcome.reply).replies[0])
        elif isinstance(outcome, Rejected):
            self._history.refuse(request_id)
