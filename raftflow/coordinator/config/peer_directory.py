"""Addresses of the other replicas: from the configuration file, then from the replicated list of members."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from raftflow.coordinator.config.addresses import parse_address
from raftflow.coordinator.config.values import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.replication.members.membership import MembershipVersion

_log = logging.getLogger(__name__)

FAREWELL_S: Final = 30.0
"""A removed replica is linked for this time, so that it hears of its removal."""


class PeerDirectory:
    """Keeps the links' peers in step with the members.

    A replica in the file is linked at the address given there, member or not, unless it was removed. The log gives
    the addresses of all others. A replica that was away while all others were replaced is dialled by them
    (`replication/members/introductions.py`).

    Args:
        config: of this replica.
        set_peers: takes the addresses, by name.
    """

    def __init__(self, config: CoordinatorConfig, set_peers: Callable[[Mapping[str, tuple[str, int]]], None]) -> None:
        self._name = config.name
        self._set_peers = set_peers
        self._named = {member.name: (member.peer.host, member.peer.port) for member in config.members}
        self._known = dict(self._named)
        self._leaving: set[str] = set()
        self._followed = False

    def follow(self, version: MembershipVersion) -> None:
        """Follow the list of members in the log."""
        membership = version.members
        for member in (*membership.voters, *membership.learners):
            if member.name not in self._named and member.peer:
                try:
                    address = parse_address(member.peer, f"peer address of member {member.name}")
                except ConfigError as error:
                    _log.error("%s: it cannot be reached unless this replica's file names it", error)
                    continue
                self._known[member.name] = (address.host, address.port)
        if not self._followed:
            self._followed = True
            for name in version.removed:  # removed before this process started
                self._known.pop(name, None)
                self._named.pop(name, None)
        for name in membership.removed:
            if name in self._known and name not in self._leaving:
                self._leaving.add(name)
                asyncio.get_running_loop().call_later(FAREWELL_S, self._forget, name)
        self._tell()

    def _forget(self, name: str) -> None:
        self._known.pop(name, None)
        self._named.pop(name, None)
        self._tell()

    def _tell(self) -> None:
        self._set_peers({name: self._known[name] for name in sorted(self._known) if name != self._name})
