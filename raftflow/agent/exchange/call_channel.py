"""Carries what attempts ask to the leader: many calls of many attempts in one request, beside the polls.

A call that comes alone leaves in the same turn of the loop. While a request is under way, calls wait and share the
next one: so many tasks at once share commits. A second request leaves beside one that takes longer than a commit
should. What a request could not deliver is sent again, to the next leader if need be: every call comes to the same
when it arrives twice. A call is dropped when its attempt is over, and answered as stale when its incarnation is.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.agent.exchange.backoff import Backoff
from raftflow.agent.exchange.leader import LeaderNotFoundError, RefusedError, StaleIncarnationError
from raftflow.domain.contract.views import RefusedCall
from raftflow.domain.limits import CALLS_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.domain.contract.views import AnyAnswer, AnyCall, CallsResponse

_log = logging.getLogger("raftflow.agent.calls")

IN_FLIGHT_MAX: Final = 2
PATIENCE_S: Final = 0.05
"""How long calls wait for a request under way before they get one of their own."""
REQUEST_BYTES_MAX: Final = 512 * 1024
"""Bytes of one request, as far as it holds more than one call."""

_encode = msgspec.json.Encoder().encode
_GIVEN_UP = "the agent has lost its lease or registered again, so the attempt is over: it records nothing any more"


class _WaitingCall(msgspec.Struct, eq=False):
    """A call without an answer."""

    fence: int
    incarnation: int
    encoded: bytes
    told: Any
    """Gets the answer."""


class CallChannel:
    """Sends calls of attempts (`calls.attempt.Channel`).

    Args:
        post: sends the body of a request for an agent, and returns the answer. Raises what `LeaderClient.calls` does.
    """

    def __init__(self, post: Callable[[str, bytes], Awaitable[CallsResponse]]) -> None:
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._agent = ""
        self._incarnation = 0
        self._waiting: deque[_WaitingCall] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._live: dict[int, int] = {}
        """Calls without an answer, by the fence of their attempt."""
        self._pump_scheduled = False
        self._sent_s = 0.0
        """When the last request left."""
        self._patience: asyncio.TimerHandle | None = None
        self._clock_ms = 0
        self._clock_read_s = 0.0

    def begin(self, agent: str, incarnation: int) -> None:
        """Send for this incarnation from now on."""
        self._agent, self._incarnation = agent, incarnation

    def send(self, call: AnyCall, told: Callable[[AnyAnswer], None]) -> None:
        """Send a call; `told` gets its answer."""
        self._live[call.fence] = self._live.get(call.fence, 0) + 1
        self._waiting.append(_WaitingCall(call.fence, self._incarnation, _encode(call), told))
        self._schedule_pump()

    def forget(self, fence: int) -> None:
        """Drop the calls of an attempt."""
        self._live.pop(fence, None)

    def now_ms(self) -> int:
        """Return the cluster's clock, as the last answer told it."""
        return self._clock_ms + int((self._loop.time() - self._clock_read_s) * 1000)

    async def close(self) -> None:
        """Drop everything."""
        self._waiting.clear()
        self._live.clear()
        if self._patience is not None:
            self._patience.cancel()
        for task in self._in_flight:
            task.cancel()
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    # --- requests

    def _schedule_pump(self) -> None:
        # In the next turn of the loop, so that everything that this turn brings shares a request.
        if not self._pump_scheduled and self._patience is None and len(self._in_flight) < IN_FLIGHT_MAX:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        while self._waiting and len(self._in_flight) < IN_FLIGHT_MAX:
            if self._in_flight and (wait_s := self._sent_s + PATIENCE_S - self._loop.time()) > 0:
                self._patience = self._loop.call_later(wait_s, self._pump)
                return
            batch = self._take_batch()
            if not batch:
                return
            self._sent_s = self._loop.time()
            task = self._loop.create_task(self._deliver(batch))
            self._in_flight.add(task)
            task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error  # a bug: the loop's handler reports it
        self._pump()

    def _take_batch(self) -> list[_WaitingCall]:
        """Take what the next request carries: calls of one incarnation."""
        batch: list[_WaitingCall] = []
        size = 0
        while self._waiting and len(batch) < CALLS_MAX:
            call = self._waiting[0]
            if call.fence not in self._live:
                self._waiting.popleft()
                continue
            size += len(call.encoded)
            if batch and (size > REQUEST_BYTES_MAX or call.incarnation != batch[0].incarnation):
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _deliver(self, batch: list[_WaitingCall]) -> None:
        """Send calls until they have answers, or nobody waits for them."""
        backoff = Backoff()
        while batch := [call for call in batch if call.fence in self._live]:
            if batch[0].incarnation != self._incarnation:
                self._tell_all(batch, RefusedCall(type="stale", detail=_GIVEN_UP))
                return
            # Each call is encoded already: these are the bytes of a `CallsRequest`.
            calls = b",".join([call.encoded for call in batch])
            body = b'{"incarnation":%d,"calls":[%s]}' % (batch[0].incarnation, calls)
            try:
                response = await self._post(self._agent, body)
            except LeaderNotFoundError as error:
                _log.debug("calls of attempts are sent again: %s", error)
                await asyncio.sleep(backoff.note_failure(error.retry_after_s))
            except StaleIncarnationError:
                self._tell_all(batch, RefusedCall(type="stale", detail=_GIVEN_UP))
                return
            except RefusedError as error:
                if len(batch) == 1:
                    self._tell_all(batch, RefusedCall(type="invalid", detail=str(error)))
                    return
                half = len(batch) // 2  # one of them is to blame, and the others must not pay for it
                await self._deliver(batch[:half])
                batch = batch[half:]
            else:
                self._clock_ms, self._clock_read_s = response.now_ms, self._loop.time()
                for call, answer in zip(batch, response.answers, strict=True):
                    self._tell(call, answer)
                return

    def _tell_all(self, batch: list[_WaitingCall], answer: AnyAnswer) -> None:
        for call in batch:
            self._tell(call, answer)

    def _tell(self, call: _WaitingCall, answer: AnyAnswer) -> None:
        count = self._live.get(call.fence)
        if count is None:  # the attempt is over
            return
        if count == 1:
            del self._live[call.fence]
        else:
            self._live[call.fence] = count - 1
        call.told(answer)
