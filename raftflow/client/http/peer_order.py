"""The peers of a client, and which of them is asked first.

Any replica answers any call, because a follower forwards it to the leader. Going to the leader at once saves a hop.
Answers name the cluster's members. The client follows that list. It asks configured peers that are not in it last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from raftflow.client.errors import UsageError
from raftflow.client.http.calls import checked_url
from raftflow.client.http.leader_cache import LeaderCache
from raftflow.domain.contract.views import HEADER_LEADER, HEADER_LEADER_URL, HEADER_PEERS
from raftflow.domain.tasks.peer_urls import learn_peers, order_peers

PEERS_MAX: Final = 99


class PeerOrder:
    """The members as the cluster told them last, the configured ones at first."""

    def __init__(self, peers: Sequence[str], cache_folder: Path | None) -> None:
        self.urls = [checked_url(peer) for peer in peers]
        if not 0 < len(self.urls) <= PEERS_MAX:
            raise UsageError(f"{len(self.urls)} peers were given: name 1 to {PEERS_MAX} replicas by their URLs")
        self._configured = list(self.urls)
        self._members_header = ""
        """The list of members that is followed, as a replica sent it."""
        self._preferred = 0
        self._leader_name = ""
        """As the last answer told it."""
        self._url_of: dict[str, str] = {}
        self._answered: str | None = None
        """Which peer answered last."""
        self._cache = None if cache_folder is None else LeaderCache(cache_folder, self.urls)
        if self._cache is not None:
            self.prefer(self._cache.read())

    def in_order(self) -> list[str]:
        """Return the peers, the preferred one first; configured peers that are no longer members come last."""
        members = self.urls[self._preferred :] + self.urls[: self._preferred]
        return order_peers(members[0], members, self._configured)

    def note_answer(self, headers: Mapping[str, str], peer: str) -> None:
        """Take the members and the leader from the headers of an answer."""
        self._follow(headers.get(HEADER_PEERS, ""), peer)
        self._leader_name = headers.get(HEADER_LEADER, "")
        self.prefer(headers.get(HEADER_LEADER_URL), self._url_of.get(self._leader_name), peer)
        self._answered = peer

    def learn(self, name: str, url: str) -> None:
        """Remember which peer a replica's name belongs to, because answers name the leader."""
        self._url_of[name] = url
        if name == self._leader_name:
            self.prefer(url)

    def prefer(self, *urls: str | None) -> None:
        """Begin with the first of these URLs that is a peer from now on."""
        for url in urls:
            if url in self.urls:
                self._preferred = self.urls.index(url)
                return

    def save(self) -> None:
        """Remember the leader, or the peer that answered last, for the next process."""
        if self._cache is not None and self._answered is not None:
            leader = self.urls[self._preferred]
            self._cache.write(leader if leader in self._configured else self._answered)

    def _follow(self, members: str, base: str) -> None:
        """Take the list of members that came with an answer as the peers from now on."""
        if not members or members == self._members_header:
            return
        learned = learn_peers(members, base)
        if learned is not None:
            self._members_header, self.urls, self._preferred = members, learned, learned.index(base)
