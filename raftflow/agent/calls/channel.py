"""The way from an attempt's requests to the leader, as those who answer the requests see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from raftflow.domain.contract.views import AnyAnswer, AnyCall

Told = Callable[["AnyAnswer"], None]
"""Is told the answer to a call."""
Write = Callable[[bytes], None]
"""Sends a line to the attempt."""


class Channel(Protocol):
    """Carries calls to the leader."""

    def send(self, call: AnyCall, told: Told) -> None:
        """Send a call. It is sent again until there is an answer, or `forget` is called for its fence."""

    def forget(self, fence: int) -> None:
        """Drop the calls of an attempt that is over. Nobody is told."""

    def now_ms(self) -> int:
        """Return the cluster's clock, as the last answer told it. There was one."""
