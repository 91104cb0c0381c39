"""Linearizable reads without the log: Raft's ReadIndex.

A leader that has committed an entry of its term notes its commit index and asks its peers whether they are still in
its term. When a majority (itself included) has said so *after* the read began, no newer leader can have committed
anything before the read began, so a state with everything up to that index applied answers the read. Reads that
begin while a round is under way share the next one. A lost leadership or message costs a repeat, never a wrong
answer.

No clock here: the driver calls `repeat` at each heartbeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.replication.errors import NoQuorumError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable


class ReadRounds:
    """The reads that wait for confirmation, and the rounds of probes that confirm them.

    Args:
        peers: names of the other voters.
        send_probe: sends `read_probe` with this number to every peer that can be reached.
    """

    def __init__(self, peers: Iterable[str], send_probe: Callable[[int], None]) -> None:
        names = sorted(peers)
        self._send_probe = send_probe
        self._needed = (len(names) + 1) // 2
        self._answered = dict.fromkeys(names, 0)
        self._sent = 0
        self._confirmed = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def set_peers(self, peers: Iterable[str]) -> None:
        """Follow a change of the voters: only their answers count."""
        names = sorted(peers)
        self._needed = (len(names) + 1) // 2
        self._answered = {name: self._answered.get(name, 0) for name in names}

    def begin(self, future: asyncio.Future[None]) -> None:
        """Resolve `future` once a majority confirms the leadership by an answer to a probe sent from now on."""
        if self._needed == 0:
            future.set_result(None)
            return
        self._waiting.append((self._sent + 1, future))
        if self._sent == self._confirmed:
            self._next_round()

    def answer(self, peer: str, seq: int) -> None:
        """Count a peer's answer. The caller has checked that it carries the present term."""
        if not self._answered.get(peer, seq) < seq <= self._sent:
            return
        self._answered[peer] = seq
        confirmed = sorted(self._answered.values(), reverse=True)[self._needed - 1]
        if confirmed <= self._confirmed:
            return
        self._confirmed = confirmed
        left: list[tuple[int, asyncio.Future[None]]] = []
        for number, future in self._waiting:
            if future.done():
                continue
            if number <= confirmed:
                future.set_result(None)
            else:
                left.append((number, future))
        self._waiting = left
        if left and self._sent == self._confirmed:
            self._next_round()

    def repeat(self) -> None:
        """Send another probe if reads wait: an answer may be lost with its link."""
        self._waiting = [(number, future) for number, future in self._waiting if not future.done()]
        if self._waiting:
            self._next_round()

    def stop(self, reason: str) -> None:
        """Leadership is lost: end every waiting read with `NoQuorumError(reason)`."""
        waiting, self._waiting = self._waiting, []
        for _number, future in waiting:
            if not future.done():
                future.set_exception(NoQuorumError(reason))
        # Answers of the term that ended do not count in a later term.
        self._confirmed = self._sent

    def _next_round(self) -> None:
        self._sent += 1
        self._send_probe(self._sent)
