"""Waiting for a leader: a request that finds none is tried again for a moment, while one is elected."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from raftflow.api.forwarding.forwarder import LeaderUnreachableError
from raftflow.coordinator.commit.submitter import NoLeaderError, NotLeaderError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

LEADER_WAIT_S = 1.0
"""How long a request waits for an election that is under way before it is answered with 503."""
LEADER_LOOK_S = 0.02

Retried = tuple[type[Exception], ...]

NO_LEADER: Final[Retried] = (NoLeaderError,)
"""Retried by a request that this replica answers itself or not at all."""
ANY_LEADER: Final[Retried] = (NoLeaderError, NotLeaderError, LeaderUnreachableError)
"""Retried by a request that may go to any leader. `NotLeaderError` means that leadership was lost on the way: the
command is in no log, so it can be sent to the new leader."""


async def wait_for_leader(attempt: Callable[[], Awaitable[T]], retried: Retried) -> T:
    """Return what `attempt` returns. Repeat it while it raises an error of `retried`, for `LEADER_WAIT_S` at most."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + LEADER_WAIT_S
    while True:
        try:
            return await attempt()
        except retried as error:
            if isinstance(error, LeaderUnreachableError) and error.replaced:
                until_s = loop.time() + LEADER_WAIT_S
            if loop.time() >= until_s:
                raise
        await asyncio.sleep(LEADER_LOOK_S)
