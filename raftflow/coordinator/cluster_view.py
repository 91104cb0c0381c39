"""Who belongs to the cluster and who leads it, as one replica knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.contract.views import LeaderNotice, MemberList, MemberView
from raftflow.domain.tasks.peer_urls import tell_peers
from raftflow.replication.members.membership import MemberInfo, Membership

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.replication.log import ReplicatedLog


class ClusterView:
    """Members, their addresses, and the leader.

    Args:
        config: of this replica.
        log: knows the members of the cluster and who leads.
        serves: returns True if this replica leads and has begun to serve.
    """

    def __init__(self, config: CoordinatorConfig, log: ReplicatedLog, serves: Callable[[], bool]) -> None:
        self._config = config
        self._log = log
        self._serves = serves
        self._peer_urls = ""
        self._peer_urls_of: Membership | None = None
        """The list of members of which `_peer_urls` was made."""

    def leader_notice(self) -> LeaderNotice:
        """Return who leads. This replica names itself only once it serves."""
        stamp = self._log.stamp()
        name = stamp.leader
        if name == self._config.name and not self._serves():
            name = None
        return LeaderNotice(leader=name, url=self.url_of(name), term=stamp.term)

    def find_leader(self) -> tuple[str, str] | None:
        """Return (name, url) of another replica that leads, or None."""
        name = self._log.status().leader
        if name is None or name == self._config.name:
            return None
        url = self.url_of(name)
        return None if url is None else (name, url)

    def url_of(self, name: str | None) -> str | None:
        """Return where clients reach a member: as this replica's file says, else as the list in the log says."""
        url = self._config.url_of(name)
        members = self._log.status().members
        if url is None and name is not None and members is not None:
            member = members.find(name)
            url = None if member is None else member.url or None
        return url

    def members(self) -> MemberList:
        """Return the members of the cluster."""
        config, log = self._config, self._log.status()
        known = {peer.name: peer for peer in log.peers}
        listed = log.members or Membership(tuple(self._configured(member.name) for member in config.members))
        views = []
        for member in sorted((*listed.voters, *listed.learners)):
            configured = self._configured(member.name)
            view = MemberView(
                name=member.name,
                peer=configured.peer or member.peer,
                url=configured.url or member.url,
                voting=member.name in listed.voter_names,
                leader=member.name == log.leader,
                connected=member.name == config.name,
            )
            peer = known.get(member.name)
            if peer is not None:
                view.connected, view.match_index, view.lag = peer.connected, peer.match_index, peer.lag
            views.append(view)
        return MemberList(
            replica=config.name, leader=log.leader, term=log.term, members=views, removed=list(listed.removed)
        )

    def voting_members(self) -> list[MemberView]:
        """Return the members that vote."""
        return [member for member in self.members().members if member.voting]

    def peer_urls(self) -> str:
        """Return the members' URLs for the header of answers. It is made once for each list of members."""
        members = self._log.stamp().members
        if not self._peer_urls or members is not self._peer_urls_of:
            self._peer_urls_of = members
            self._peer_urls = tell_peers(member.url or "" for member in self.voting_members())
        return self._peer_urls

    def _configured(self, name: str) -> MemberInfo:
        """Return a member as this replica's file describes it; without addresses if it does not."""
        member = next((each for each in self._config.members if each.name == name), None)
        return MemberInfo(name) if member is None else MemberInfo(name, str(member.peer), member.url)
