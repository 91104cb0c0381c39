"""Removals of agents, from the decision to its outcome.

An agent may be heard again in that moment. An answer to its poll would renew its lease, and it might start an attempt
that the removal moves to another agent. So its polls wait until the removal is settled: the log has it, or certainly
never will.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal

from raftflow.coordinator.clock import WallClock
from raftflow.coordinator.commit.submitter import OutcomeUnknownError, ProposeError, Submitter
from raftflow.domain.commands import RemoveAgent

_log = logging.getLogger(__name__)

RETRY_S: Final = 0.05
"""Pause before a removal whose outcome is unknown is proposed again."""


class PendingRemovals:
    """Removes agents, with one removal at a time for each incarnation. Only the leader uses it.

    Args:
        actor: who removes, for the audit.
        on_bug: told about an exception that is none of the expected ones.
    """

    def __init__(
        self, *, actor: str, submitter: Submitter, clock: WallClock, on_bug: Callable[[BaseException], None]
    ) -> None:
        self._actor = actor
        self._submitter = submitter
        self._clock = clock
        self._on_bug = on_bug
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """Return how many removals are under way."""
        return len(self._tasks)

    def __contains__(self, key: tuple[str, int]) -> bool:
        """Return True if the removal of an agent's incarnation is under way."""
        return key in self._tasks

    def begin(self, name: str, incarnation: int, *, together: bool = False) -> None:
        """Remove an agent that was silent for longer than its lease, unless its removal is under way.

        `together`: many agents were silent at the same time, so the loss counts against none of them.
        """
        key = (name, incarnation)
        if key in self._tasks:
            return
        _log.warning("agent %s (incarnation %d) was silent for longer than its lease", name, incarnation)
        task = self._tasks[key] = asyncio.get_running_loop().create_task(
            self._remove(name, incarnation, "lost_together" if together else "lost")
        )
        task.add_done_callback(lambda done: self._done(key, done))

    async def wait_settled(self, name: str, incarnation: int) -> bool:
        """Wait for the removal of an incarnation, if one is under way. Returns True if there was one.

        Afterwards the removal is settled, or this replica no longer leads.
        """
        waited = False
        while (task := self._tasks.get((name, incarnation))) is not None:
            waited = True
            await asyncio.wait((task,))
        return waited

    def stop(self) -> None:
        """Stop: this replica no longer leads. The next leader may still commit what is in flight."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _remove(self, name: str, incarnation: int, reason: Literal["lost", "lost_together"]) -> None:
        """Propose a removal until it is known whether it is in the log."""
        while True:
            command = RemoveAgent(
                at_ms=self._clock.now_ms(), actor=self._actor, name=name, incarnation=incarnation, reason=reason
            )
            try:
                await self._submitter.propose(command)
            except OutcomeUnknownError as error:
                # It may still be committed. A second one follows it in the log, and its reply (perhaps a refusal)
                # tells.
                _log.info("agent %s: it is not known whether it was removed: %s", name, error)
                await asyncio.sleep(RETRY_S)
            except ProposeError as error:
                # Unless the agent was heard meanwhile, the next check of the leases decides again.
                _log.info("agent %s could not be removed yet: %s", name, error)
                return
            else:
                return

    def _done(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(error)
