"""A leader that was paused has a majority confirm it before it answers polls (`leader/pauses.py`)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raftflow.coordinator.commit.submitter import ProposeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.coordinator.leader.pauses import PauseDetector
    from raftflow.coordinator.sessions.agent_session import Poll

_log = logging.getLogger(__name__)


class LeaderConfirmations:
    """Asks a majority once for all polls that wait for it.

    Args:
        pauses: is told of each confirmation.
        barrier: confirms that this replica leads; raises a `ProposeError` if it does not.
        look_again: continues a poll that waits.
    """

    def __init__(
        self, pauses: PauseDetector, barrier: Callable[[], Awaitable[int]], look_again: Callable[[Poll], None]
    ) -> None:
        self._pauses = pauses
        self._barrier = barrier
        self._look_again = look_again
        self._waiting: dict[Poll, None] = {}
        self._asking: asyncio.Task[None] | None = None

    def ask(self, poll: Poll) -> None:
        """Have a poll looked at again when a majority has confirmed this leader.

        Without a majority nothing happens: this replica steps down soon, which answers all polls.
        """
        self._waiting[poll] = None
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        asked_s = asyncio.get_running_loop().time()
        polls: tuple[Poll, ...] = ()
        try:
            await self._barrier()
            self._pauses.note_confirmed(asked_s)
            polls = tuple(self._waiting)
        except ProposeError as error:
            _log.info("this replica was paused, and no majority confirms that it leads: %s", error)
        finally:
            self._waiting = {}
            self._asking = None
        for poll in polls:
            self._look_again(poll)
