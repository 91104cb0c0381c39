# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of the agent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.agent.exchange.core import ExchangeCore
from raftflow.agent.exchange.leader_watch import LeaderWatch
from raftflow.agent.workdir import inputs as agent_inputs
from raftflow.agent.workdir.inputs import InputsFetcher
from raftflow.simulation.world.agents import executor as sim_executor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.agent.exchange.instructions import PollRefused
    from raftflow.simulation.mutation.patches.common import Patch


def watch_nobody() -> Patch:
    async def wait_for_ever(_self: LeaderWatch) -> None:
        """Ask no other replica who leads."""
        await asyncio.Event().wait()

    return patch.object(LeaderWatch, "run", wait_for_ever)


def take_first_piece_for_all() -> Patch:
    async def hasty(_self: InputsFetcher, fence: int, _count: int, inputs: Any) -> None:
        passes = agent_inputs._ReplicaPasses(_self._source, fence, _self._patience_s, {})  # noqa: SLF001
        await inputs.add((await passes.piece(_self._agent, 0)).inputs)  # noqa: SLF001

    return patch.object(InputsFetcher, "_fetch", hasty)


@contextlib.contextmanager
def agents_without_lease() -> Iterator[None]:
    with (
        patch.object(ExchangeCore, "_check_lease", lambda _self: None),
        patch.object(sim_executor.SimExecutor, "lease", lambda _self, _until_ns: None),
    ):
        yield


def refused_again(self: ExchangeCore, event: PollRefused) -> None:
    """Send the same poll again, whatever it was refused for."""
    self._polls.pop(event.request.seq, None)
    self._back_off(f"the coordinator refuses the poll: {event.why}")
    self._schedule()
