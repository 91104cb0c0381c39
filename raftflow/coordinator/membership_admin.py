"""Members are added and removed here, on the leader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raftflow.replication.log import ChangeableLog
from raftflow.replication.members.membership import (
    VOTERS_MIN,
    ChangeRefusedError,
    MemberInfo,
    Membership,
    NotReadyError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.coordinator.bundles.replication import BundleReplication
    from raftflow.coordinator.cluster_view import ClusterView
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.coordinator.leader.leader_loop import LeaderLoop
    from raftflow.replication.log import ReplicatedLog

CHANGE_S = 20.0
"""How long one request to change the members may take; it can be repeated."""


class MembershipAdmin:
    """Changes the members of the cluster.

    Args:
        name: of this replica.
        bundles: the code bundles, which a majority of the voters must have before the members change.
        transfer: hands leadership to the named replica, or to any; returns whether another one leads then.
    """

    def __init__(
        self,
        *,
        name: str,
        log: ReplicatedLog,
        submitter: Submitter,
        leader: LeaderLoop,
        cluster: ClusterView,
        bundles: BundleReplication,
        transfer: Callable[[str | None], Awaitable[bool]],
    ) -> None:
        self._name = name
        self._log = log
        self._submitter = submitter
        self._leader = leader
        self._cluster = cluster
        self._bundles = bundles
        self._transfer = transfer

    async def add(self, member: MemberInfo) -> None:
        """Send a new replica the log until it has caught up, then make it a voter.

        Raises `ChangeRefusedError`, `NotReadyError`, `ProposeError`s.
        """
        log = self._changeable_log()
        await log.add_member(member, await self._keep_bundles())

    async def remove(self, name: str) -> None:
        """Remove a replica for ever. A leader that is asked to go hands leadership over first, and leads no longer.

        Raises `ChangeRefusedError`, `NotReadyError`, `ProposeError`s.
        """
        log = self._changeable_log()
        if name == self._name and name not in (log.status().members or Membership()).removed:
            voters = len(self._cluster.voting_members())
            if voters <= VOTERS_MIN:
                raise ChangeRefusedError(f"{voters - 1} voting members would be left; add another replica first")
            if not await self._transfer(None):
                raise ChangeRefusedError(f"{name} leads, and no other replica took leadership over in time")
            raise self._submitter.no_leader_error()  # the new leader carries it out
        await log.remove_member(name, await self._keep_bundles())

    async def _keep_bundles(self) -> float:
        """See that no change takes away the last replicas that have a code bundle.

        Returns how many seconds are left for the change. Raises `NotReadyError`, `NoLeaderError`.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + CHANGE_S
        try:
            async with asyncio.timeout(CHANGE_S / 2):
                await self._bundles.spread()
        except TimeoutError:
            told = "code bundles are being copied to a majority of the replicas: repeat the command"
            raise NotReadyError(told) from None
        except OSError as error:
            raise NotReadyError(f"the disk of {self._name} does not take a code bundle: {error}") from error
        return until_s - loop.time()

    def _changeable_log(self) -> ChangeableLog:
        if not self._leader.leading:
            raise self._submitter.no_leader_error()
        if not isinstance(self._log, ChangeableLog):
            raise ChangeRefusedError("the members of this log cannot be changed")
        return self._log
