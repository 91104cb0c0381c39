"""Changing the members, one at a time, by the leader.

    add       learner logged ─► fed until it has caught up ─► voter logged ─► committed
    remove    list without the voter or learner logged ─► committed ─► the removed one is told and stops

A list of voters differs from the one before by one name at most, so that every majority of the one meets every
majority of the other (Raft's single-server change). For that to be an argument, a change is logged only when the list
in force is applied and the leader has committed an entry of its own term (M1).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.replication.members.membership import (
    LEARNERS_MAX,
    REMOVED_MAX,
    VOTERS_MAX,
    VOTERS_MIN,
    ChangeRefusedError,
    MembershipError,
    NotReadyError,
    check_command,
    command_of,
)
from raftflow.replication.raft.library_types import LibraryFailure
from raftflow.replication.raft.rules import NO_RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.members.membership import MemberInfo, Membership
    from raftflow.replication.raft.guard import GuardedTransport
    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.roles import RoleTracker

LAG_MAX: Final = 64
"""Entries that a replica may be behind what is committed and still count as caught up."""


class MemberChanges:
    """Carries out changes of the members at the leader.

    Args:
        raft: the replica.
        guard: knows which links work.
        roles: wakes the callers when something may have changed.
        append: puts a membership in the log, and tells its callback when it is applied or lost.
        disabled_rules: for tests: M1 and M6 have an effect here.
    """

    def __init__(
        self,
        raft: Raft,
        guard: GuardedTransport,
        roles: RoleTracker,
        append: Callable[[Membership, Callable[[object, int], None]], None],
        disabled_rules: frozenset[Rule] = NO_RULES,
    ) -> None:
        self._raft = raft
        self._guard = guard
        self._roles = roles
        self._append = append
        self._off = disabled_rules
        self._running = 0

    @property
    def active(self) -> bool:
        """True while a change waits for something."""
        return self._running > 0

    async def add(self, member: MemberInfo, timeout_s: float) -> Membership:
        """See `PySyncObjLog.add_member`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._counted(self._add(member))
        except TimeoutError:
            raise NotReadyError(self._why_not(member.name)) from None

    async def remove(self, name: str, timeout_s: float) -> Membership:
        """See `PySyncObjLog.remove_member`."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._counted(self._remove(name))
        except TimeoutError:
            raise NotReadyError(self._why_not(None)) from None

    async def _counted(self, change: object) -> Membership:
        self._running += 1
        try:
            return await change  # type: ignore[misc,no-any-return]
        finally:
            self._running -= 1

    async def _add(self, member: MemberInfo) -> Membership:
        while True:
            await self._until_ready()
            current = self._raft.members.current
            if member.name in current.removed:
                raise ChangeRefusedError(f"{member.name} was a member and was removed: a name is never used again")
            known = current.find(member.name)
            if known is not None and known != member:
                raise ChangeRefusedError(
                    f"{member.name} is a member already, at {known.peer or 'another address'} and {known.url or '-'}"
                )
            if member.name in current.voter_names:
                return current
            if len(current.voters) >= VOTERS_MAX:
                raise ChangeRefusedError(f"there are {len(current.voters)} voting members; at most {VOTERS_MAX}")
            if known is None and Rule.LEARN_FIRST not in self._off:
                if len(current.learners) >= LEARNERS_MAX:
                    raise ChangeRefusedError(f"{LEARNERS_MAX} replicas are catching up already; wait for them")
                await self._log(current.with_learner(member))
            elif Rule.LEARN_FIRST in self._off:
                await self._log(current.with_voter(member))
            elif self._caught_up(member.name):
                changed = current.with_voter(member)
                self._check_live(changed)
                await self._log(changed)
            else:
                await self._roles.next_change()

    async def _remove(self, name: str) -> Membership:
        await self._until_ready()
        current = self._raft.members.current
        if name in current.removed:
            return current
        if current.find(name) is None:
            raise ChangeRefusedError(f"there is no member {name}")
        if name == self._raft.name:
            raise ChangeRefusedError(f"{name} leads: hand leadership over first")
        if len(current.removed) >= REMOVED_MAX:
            raise ChangeRefusedError(f"{REMOVED_MAX} replicas were removed already; no more names can be stored")
        changed = current.without(name)
        if name in current.voter_names:
            if len(changed.voters) < VOTERS_MIN:
                raise ChangeRefusedError(
                    f"{len(changed.voters)} voting members would be left; add another replica first"
                )
            if Rule.LEARN_FIRST not in self._off:
                self._check_live(changed)
        return await self._log(changed)

    async def _until_ready(self) -> None:
        """Wait until a change may be logged (M1). Raises `NotReadyError` if this replica does not lead."""
        while True:
            if not self._raft.is_leader:
                raise NotReadyError("this replica does not lead")
            if Rule.ONE_CHANGE in self._off or (self._roles.leads(self._raft) and self._settled()):
                return
            await self._roles.next_change()

    def _settled(self) -> bool:
        """Return True if the list in force is applied here and in the log of every voter that can be reached."""
        tracker = self._raft.members
        return not tracker.pending and all(
            self._raft.match_index(peer) >= tracker.index
            for peer in self._raft.other_voters
            if self._guard.is_up(peer)
        )

    def _caught_up(self, peer: str) -> bool:
        raft = self._raft
        if peer == raft.name:
            return True
        return self._guard.is_up(peer) and 0 < raft.match_index(peer) >= raft.commit_index - LAG_MAX

    def _check_live(self, changed: Membership) -> None:
        """M6: the replicas that are connected and caught up must be a majority of the new voters."""
        live = {name for name in changed.voter_names if self._caught_up(name)}
        if 2 * len(live) <= len(changed.voters):
            raise ChangeRefusedError(
                f"of the voters {', '.join(sorted(changed.voter_names))} only {', '.join(sorted(live)) or 'none'} "
                f"can be reached and have caught up: that is not a majority, so no entry could be committed any more"
            )

    async def _log(self, changed: Membership) -> Membership:
        """Log a membership and wait until it is applied."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_result(_reply: object, error: int) -> None:
            if not done.done():
                done.set_result(error)

        try:
            check_command(command_of(changed))
        except MembershipError as error:
            raise ChangeRefusedError(f"the list of members cannot be written: {error}") from error
        self._append(changed, on_result)
        while not done.done():
            if not self._raft.is_leader:
                raise NotReadyError("leadership was lost before the change was committed")
            await self._roles.next_change()
        if done.result() != LibraryFailure.SUCCESS:
            raise NotReadyError("leadership was lost before the change was committed")
        return self._raft.members.current

    def _why_not(self, name: str | None) -> str:
        current = self._raft.members.current
        if name is not None and name in current.learner_names and not self._caught_up(name):
            reached = "it can be reached and gets data" if self._guard.is_up(name) else "it cannot be reached"
            return f"{name} has not caught up in time; {reached}. It stays a learner: repeat the command to continue"
        return "the time was up before the change was committed; check the members and repeat the command"
