"""Fetches pieces of an attempt's output from its agent.

Replicas never connect to agents. The request travels with the answer to the agent's poll, the piece with its next
poll.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Literal

from raftflow.domain import limits
from raftflow.domain.contract.views import LogPiece, LogWanted

TIMEOUT_S = 10.0
PIECE_BYTES_MAX = limits.LOG_PIECE_BYTES_MAX
"""Bytes of one piece. As base64 it fits into a poll together with the rest."""
WINDOW_BYTES = 384 * 1024
"""Bytes that are requested from one agent at a time. As base64 they are half of what a poll may carry."""
WANTED_PER_AGENT_MAX = 64


class LogUnavailableError(Exception):
    """The agent did not deliver. Says why."""


class LogLostError(LogUnavailableError):
    """The agent answered that it does not have the output. Says why."""


class LogRelay:
    """The open requests for output, by agent."""

    def __init__(
        self, wake: Callable[[str], None], *, timeout_s: float = TIMEOUT_S, token: Callable[[], str] | None = None
    ) -> None:
        self._wake = wake
        self._timeout_s = timeout_s
        self._token = token or (lambda: secrets.token_hex(8))
        self._wanted: dict[str, dict[str, LogWanted]] = {}
        self._answers: dict[str, asyncio.Future[LogPiece]] = {}
        self._unsent: dict[str, set[str]] = {}

    async def request_log(
        self,
        agent: str,
        fence: int,
        stream: Literal["stdout", "stderr"],
        offset: int,
        bytes_max: int,
        *,
        workflow_id: str = "",
        since_ms: int | None = None,
    ) -> LogPiece:
        """Ask the agent and wait for the piece; see `LogWanted`.

        Raises `LogUnavailableError`, of which `LogLostError` lasts.
        """
        wanted = self._wanted.setdefault(agent, {})
        if len(wanted) >= WANTED_PER_AGENT_MAX:
            raise LogUnavailableError(
                f"{len(wanted)} pieces are requested from agent {agent} already; try again later"
            )
        request = self._token()
        answer: asyncio.Future[LogPiece] = asyncio.get_running_loop().create_future()
        wanted[request] = LogWanted(
            request=request,
            fence=fence,
            stream=stream,
            offset=offset,
            bytes_max=min(bytes_max, PIECE_BYTES_MAX),
            workflow_id=workflow_id,
            since_ms=since_ms,
        )
        self._unsent.setdefault(agent, set()).add(request)
        self._answers[request] = answer
        self._wake(agent)
        try:
            async with asyncio.timeout(self._timeout_s):
                piece = await answer
        except TimeoutError:
            raise LogUnavailableError(
                f"agent {agent} did not send the output within {self._timeout_s:g} s; it may be busy or cut off"
            ) from None
        finally:
            self._forget(agent, request)
            if self.has_unsent(agent):  # there is room for the next request
                self._wake(agent)
        if piece.error:
            raise LogLostError(f"agent {agent}: {piece.error[:1000]}")
        return piece

    def has_unsent(self, agent: str) -> bool:
        """Return True if there is a request that the agent should be sent now and was not sent yet."""
        unsent = self._unsent.get(agent)
        return unsent is not None and any(each.request in unsent for each in self._window(agent))

    def pending_requests(self, agent: str) -> list[LogWanted]:
        """Return the open requests for the answer that is sent now. Later answers repeat them."""
        window = self._window(agent)
        unsent = self._unsent.get(agent)
        if unsent:
            unsent.difference_update(each.request for each in window)
        return window

    def _window(self, agent: str) -> list[LogWanted]:
        """Return the oldest open requests, as many as one poll can answer."""
        window: list[LogWanted] = []
        size = 0
        for each in self._wanted.get(agent, {}).values():
            size += each.bytes_max
            if size > WINDOW_BYTES and window:
                break
            window.append(each)
        return window

    def deliver(self, agent: str, pieces: list[LogPiece]) -> None:
        """Hand over the pieces of a poll. Pieces for which no reader waits are dropped."""
        wanted = self._wanted.get(agent, {})
        for piece in pieces:
            answer = self._answers.get(piece.request)
            if piece.request in wanted and answer is not None and not answer.done():
                answer.set_result(piece)
                self._forget(agent, piece.request)

    def fail_all(self, reason: str) -> None:
        """End every wait: agents no longer poll this replica."""
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(LogUnavailableError(reason))

    def _forget(self, agent: str, request: str) -> None:
        self._answers.pop(request, None)
        for table in (self._wanted, self._unsent):
            entry = table.get(agent)
            if entry is None:
                continue
            if isinstance(entry, dict):
                entry.pop(request, None)
            else:
                entry.discard(request)
            if not entry:
                del table[agent]
