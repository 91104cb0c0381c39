"""Corruption that hits several voters at once, each at a place of its own, when a run has come to rest.

Damage on a minority is repaired from the intact copies. If no majority is intact, no replica may lead, because the
earlier promises are unknown (replication/RECOVERY.md, "Repair").
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.simulation.checkers.history import RunHistory
    from raftflow.simulation.nemesis.actions import FaultActions
    from raftflow.simulation.world.host import SimHost

CORRUPTED: Final = "journals corrupted at once"
REPAIRED_WITHIN_S: Final = 10.0
NO_LEADER_S: Final = 3.0
LOOK_S: Final = 0.05


class Corruption:
    """Damages the journals of a minority, or of all voters, and looks at what becomes of them.

    Args:
        flip_journal: flips a bit in the older half of a replica's journal, if it is long enough.
    """

    def __init__(self, actions: FaultActions, history: RunHistory, flip_journal: Callable[[str], bool]) -> None:
        self._actions = actions
        self._history = history
        self._flip_journal = flip_journal

    async def corrupt_at_once(self) -> None:
        """Stop all voters, damage several of them, and start all of them again."""
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
        voters = sorted(self._history.members.latest.voter_names)
        if any(cluster.hosts[name].process is None for name in voters):
            return
        minority = (len(voters) - 1) // 2
        victims = rng.sample(voters, rng.choice((minority, len(voters))))
        for name in voters:
            actions.kill(name)
        damaged = [name for name in victims if self._flip_journal(name)]
        actions.trace.fault(CORRUPTED, ",".join(damaged))
        for name in rng.sample(voters, len(voters)):
            actions.restart(name)
        hosts = [cluster.hosts[name] for name in voters]
        if 2 * len(damaged) < len(voters):
            await self._await_repair(hosts)
        else:
            await self._expect_no_leader(len(voters) - len(damaged), len(voters))

    async def _await_repair(self, hosts: list[SimHost]) -> None:
        actions, history = self._actions, self._history
        until_s = actions.loop.time() + REPAIRED_WITHIN_S
        while True:
            behind = [host.name for host in hosts if not host.refused and not self._is_whole(host)]
            if actions.cluster.leader() is not None and not behind:
                return
            if actions.loop.time() > until_s:
                history.violation("not repaired", f"{behind or 'nobody leads'}, {REPAIRED_WITHIN_S:g} s after damage")
                return
            await asyncio.sleep(LOOK_S)

    def _is_whole(self, host: SimHost) -> bool:
        """Return True if a replica votes, and has applied everything that was acknowledged."""
        replica = host.replica
        if replica is None or host.process is None or not host.serving:
            return False
        return (
            cast("Any", replica.log).parts.guard.votes
            and replica.machine.applied_index >= self._history.top_acknowledged
        )

    async def _expect_no_leader(self, intact: int, voters: int) -> None:
        actions = self._actions
        until_s = actions.loop.time() + NO_LEADER_S
        while actions.loop.time() < until_s:
            await asyncio.sleep(LOOK_S)
            leader = actions.cluster.leader()
            if leader is not None:
                self._history.violation("leads on damage", f"{leader} leads, and {intact} of {voters} are intact")
                return
