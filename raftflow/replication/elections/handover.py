"""Handing leadership to another replica before this one stops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.raft.guard import GuardedTransport
    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.roles import RoleTracker

_RETRY_S = 0.1


class Handover:
    """Waits until the target has the whole log, asks it to stand for election, and waits until it leads.

    No entry is accepted meanwhile (`active`), or the target might never catch up. `send_now` sends at once what the
    target lacks.
    """

    def __init__(self, raft: Raft, guard: GuardedTransport, roles: RoleTracker, send_now: Callable[[], None]) -> None:
        self._raft = raft
        self._guard = guard
        self._roles = roles
        self._send_now = send_now
        self.active = False

    async def run(self, target: str | None, timeout_s: float, stopped: Callable[[], bool]) -> bool:
        """Hand over to `target`, or to the most caught-up voter.

        True if `target` leads afterwards, or any other replica if none was named. Another replica may be
        faster than a slow target: then this replica no longer leads, and the new leader has to be asked.
        """
        if self.active or not self._roles.leads(self._raft):
            return False
        if target is not None and target not in self._raft.other_voters:
            return False
        self.active = True
        try:
            async with asyncio.timeout(timeout_s):
                return await self._run(target, stopped)
        except TimeoutError:
            return False
        finally:
            self.active = False

    async def _run(self, target: str | None, stopped: Callable[[], bool]) -> bool:
        loop, raft = asyncio.get_running_loop(), self._raft
        term, asked_at = raft.term, float("-inf")
        self._send_now()
        while not stopped():
            if raft.term > term or not raft.is_leader:
                if raft.is_leader:
                    return False
                if raft.leader is not None:
                    return target in (None, raft.leader)
            elif loop.time() - asked_at >= _RETRY_S:
                peer = target or self._most_caught_up()
                if peer is not None and raft.match_index(peer) == raft.last_index and raft.transfer_to(peer):
                    asked_at = loop.time()
            await self._roles.next_change()
        return False

    def _most_caught_up(self) -> str | None:
        return max(
            sorted(self._guard.connected() & self._raft.other_voters), key=self._raft.match_index, default=None
        )
