"""What an attempt takes of rate limits. The leader says that it may go on, or when to ask again.

An attempt that waits keeps its slot: it waits in place, and sees nothing of the exchanges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from raftflow.agent.calls.requests import TakeUnits, accept, refuse
from raftflow.domain.contract.views import RateWait, RefusedCall, TakeRate

if TYPE_CHECKING:
    from raftflow.agent.calls.channel import Channel, Write
    from raftflow.domain.contract.views import AnyAnswer, KnownStep

RATE_FUNCTION = "raftflow:rate"
"""What the records of taken units name as their function, as in the state machine."""

FindRecord = Callable[[TakeUnits, str, "Write", Callable[[int, "KnownStep | None"], None]], None]
"""Begins a step and looks for its record; see `CallingAttempt`."""


class RateRequests:
    """Answers requests of one attempt that take from rate limits.

    Args:
        find: begins a step and looks for its record.
        give_back: lets the next step of a name have the occurrence of one that was refused.
    """

    def __init__(
        self, fence: int, channel: Channel, find: FindRecord, give_back: Callable[[tuple[str, int]], object]
    ) -> None:
        self._fence = fence
        self._channel = channel
        self._find = find
        self._give_back = give_back
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[tuple[str, int], asyncio.TimerHandle] = {}

    def end(self) -> None:
        """The attempt is over: nothing is asked again."""
        for timer in self._waiting.values():
            timer.cancel()
        self._waiting.clear()

    def take(self, request: TakeUnits, write: Write) -> None:
        """Take units, or find that an earlier attempt has taken them."""
        if not request.name:
            request = msgspec.structs.replace(request, name=f"raftflow.rate.{request.limit}")

        def found(occurrence: int, known: KnownStep | None) -> None:
            if known is not None:
                write(accept(request.id, {}))
            else:
                self._ask(request, occurrence, write)

        self._find(request, RATE_FUNCTION, write, found)

    def _ask(self, request: TakeUnits, occurrence: int, write: Write) -> None:
        key = (request.name, occurrence)
        self._waiting.pop(key, None)
        call = TakeRate(
            fence=self._fence,
            name=request.name,
            occurrence=occurrence,
            limit=request.limit,
            count=request.count,
        )

        def told(answer: AnyAnswer) -> None:
            if isinstance(answer, RateWait):
                ask = partial(self._ask, request, occurrence, write)
                self._waiting[key] = self._loop.call_later(answer.wait_ms / 1000, ask)
            elif isinstance(answer, RefusedCall):
                self._give_back(key)
                write(refuse(request.id, answer.type, answer.detail))
            else:
                write(accept(request.id, {}))

        self._channel.send(call, told)
