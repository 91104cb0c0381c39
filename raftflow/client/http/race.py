"""A race of connections: the first peer that is connected gets the request.

While a peer is not connected (its name is looked up, packets are dropped, a TLS handshake hangs), one more peer is
tried every `STAGGER_S`. The first connection ends the other attempts before they send anything. So at any time at
most one peer has the request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from raftflow.client.http.responses import REQUEST_FAILURES, RetryableProblem, describe_failure

STAGGER_S: Final = 0.15
"""How long a connection to one peer may take before the next peer is tried as well."""

SendRequest = Callable[[str, float, Callable[[], None]], Coroutine[Any, Any, bytes | RetryableProblem]]
"""Sends the request to a peer within a number of seconds; calls the function when there is a connection."""


class ConnectionRace:
    """Attempts to send one request, to one peer each. The first that is connected ends the others."""

    def __init__(self, send: SendRequest) -> None:
        self._send = send
        self._attempts: dict[str, asyncio.Task[bytes | RetryableProblem]] = {}
        self.winner: str | None = None

    async def run(
        self, candidates: list[str], timeout_s: float, failures: dict[str, str]
    ) -> bytes | RetryableProblem | None:
        """Send the request to the first candidate that can be connected. Returns its answer, None if none can be.

        Removes the winner and the peers that failed before it from `candidates`, and puts the failures into
        `failures`. Raises what the attempt of the winner raises.
        """
        waiting = list(candidates)
        attempts = self._attempts
        until_s = time.monotonic() + timeout_s
        try:
            while waiting or attempts:
                if waiting and self.winner is None:
                    self._start(waiting.pop(0), until_s)
                await asyncio.wait(
                    attempts.values(),
                    timeout=STAGGER_S if waiting and self.winner is None else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for peer in [peer for peer, attempt in attempts.items() if attempt.done()]:
                    attempt = attempts.pop(peer)
                    if peer == self.winner:
                        candidates.remove(peer)
                        return attempt.result()
                    if attempt.cancelled():
                        continue  # another one was connected first
                    candidates.remove(peer)
                    error = attempt.exception()
                    if not isinstance(error, REQUEST_FAILURES):
                        raise error or AssertionError(peer)
                    failures[peer] = describe_failure(error)
            return None
        finally:
            await self._end()

    def _start(self, peer: str, until_s: float) -> None:
        left_s = max(until_s - time.monotonic(), 0.001)
        self._attempts[peer] = asyncio.ensure_future(self._send(peer, left_s, lambda: self._connected(peer)))

    def _connected(self, peer: str) -> None:
        """Note that a peer is connected, before anything is sent to it."""
        if self.winner is None:
            self.winner = peer
            for other, attempt in self._attempts.items():
                if other != peer:
                    attempt.cancel()

    async def _end(self) -> None:
        """End the attempts that still run."""
        left = [attempt for attempt in self._attempts.values() if not attempt.done()]
        for attempt in left:
            attempt.cancel()
        if left:
            await asyncio.wait(left)
        for attempt in self._attempts.values():
            if attempt.done() and not attempt.cancelled():
                attempt.exception()  # nobody else asks for it any more
