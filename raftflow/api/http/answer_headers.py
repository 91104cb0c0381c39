"""The headers of every answer: the request's id, and the index, term, leader and members that the replica knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftflow.api.http.aiohttp_internals import rfc822_formatted_time
from raftflow.domain.contract.views import (
    HEADER_INDEX,
    HEADER_LEADER,
    HEADER_PEERS,
    HEADER_REQUEST_ID,
    HEADER_TERM,
)

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from raftflow.coordinator.replica import Replica
    from raftflow.replication.log import Stamp

_OF_THE_LEADER: Final = frozenset({HEADER_INDEX, HEADER_TERM, HEADER_LEADER})
"""A forwarded answer keeps what the leader said."""


class AnswerHeaders:
    """Makes the headers of one replica's answers."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._known: tuple[int, str, str] | None = None
        """Of what `_shared` was made."""
        self._shared: dict[str, str] = {}
        """What many answers have in common."""
        self._lines_of: tuple[str, dict[str, str]] = ("", {})
        """Of what `_lines` were made: the date, and the shared headers."""
        self._lines = ""

    def add(self, headers: MutableMapping[str, str], request_id: str, *, trusted: bool) -> None:
        """Add them to an answer of the framework, which adds the date itself.

        An answer to somebody without the token tells nothing of the cluster and of the software.
        """
        headers["Server"] = "raftflow"  # aiohttp would tell versions
        if not trusted:
            headers[HEADER_REQUEST_ID] = request_id
            return
        stamp = self._replica.log.stamp()
        own = {HEADER_REQUEST_ID: request_id, HEADER_INDEX: str(stamp.applied_index), **self._shared_headers(stamp)}
        for name, value in own.items():
            if name not in _OF_THE_LEADER or name not in headers:
                headers[name] = value

    def lines(self, request_id: str) -> str:
        """Return them as lines, with the date."""
        stamp = self._replica.log.stamp()
        shared, date = self._shared_headers(stamp), rfc822_formatted_time()
        if self._lines_of[1] is not shared or self._lines_of[0] != date:
            self._lines_of = (date, shared)
            self._lines = "".join([f"{name}: {value}\r\n" for name, value in {"Date": date, **shared}.items()])
        return f"{HEADER_REQUEST_ID}: {request_id}\r\n{HEADER_INDEX}: {stamp.applied_index}\r\n{self._lines}"

    def _shared_headers(self, stamp: Stamp) -> dict[str, str]:
        known = (stamp.term, stamp.leader or "", self._replica.cluster.peer_urls())
        if known != self._known:
            self._known = known
            term, leader, peers = known
            self._shared = {HEADER_TERM: str(term), HEADER_LEADER: leader, HEADER_PEERS: peers}
        return self._shared
