"""Calls of clients and agents to replicas, as over HTTP: late, lost, or answered by a replica that then dies.

A call is served by the methods that the API's routes use, in the replica's own process. What travels is encoded, so
that no object is shared. A call whose answer is lost fails for the caller though it may have been carried out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from raftflow.coordinator.commit.submitter import (
    BusyError,
    NoLeaderError,
    NotLeaderError,
    OutcomeUnknownError,
    ProposeError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from raftflow.coordinator.replica import Replica
    from raftflow.simulation.world.loop import Process, VirtualLoop
    from raftflow.simulation.world.network import Network

T = TypeVar("T")
CONNECT_S: Final = 1.0
"""A call to a machine without power, or behind a cut, fails after this time without a connection, as agents do it."""
__all__ = [
    "BusyError",
    "CallFailed",
    "Calls",
    "NoLeaderError",
    "NotLeaderError",
    "OutcomeUnknownError",
    "ProposeError",
]


class CallFailed(Exception):  # noqa: N818 - as in "the call failed"
    """No answer came: the request may have been carried out or not."""


class Server:
    """A replica that serves, in one process."""

    def __init__(self, replica: Replica, process: Process) -> None:
        self.replica = replica
        self.process = process
        self.pending: dict[int, _Pending] = {}
        """Calls that are being served."""


class _Pending:
    """A call that is not answered yet."""

    def __init__(self, caller: Process, source: str, target: str, future: asyncio.Future[Any]) -> None:
        self.caller = caller
        self.source = source
        self.target = target
        self.future = future


class Calls:
    """Carries calls from clients and agents to replicas, and their answers."""

    def __init__(self, loop: VirtualLoop, rng: Random, network: Network, delay: Callable[[], float]) -> None:
        self._loop = loop
        self._rng = rng
        self._network = network
        self._delay = delay
        self._serial = 0
        self.servers: dict[str, Server] = {}
        """The replicas that serve now, by name."""
        self.off: set[str] = set()
        """Machines without power: they do not even refuse a connection."""
        self.lost_answers = 0
        self.lose_answers = 0.0
        """Share of answers that get lost."""
        self._open: set[_Pending] = set()
        """Requests that may still be carried out, whether or not the caller still waits."""

    def under_way(self, source: str) -> bool:
        """Return True while a request of `source` is on its way to a replica, or a replica works on it."""
        return any(pending.source == source for pending in self._open)

    async def call(
        self,
        caller: Process,
        target: str,
        serve: Callable[[Replica], Awaitable[T]],
        limit: float | asyncio.Timeout,
    ) -> T:
        """Let `target` serve a request. Raises what `serve` raised there, or `CallFailed`.

        `limit` is how long it may take, in seconds, or a time-out that the caller may move.
        """
        pending = _Pending(caller, caller.name, target, self._loop.create_future())
        self._open.add(pending)
        self._loop.call_later(self._delay(), self._arrive, pending, serve)
        try:
            async with limit if isinstance(limit, asyncio.Timeout) else asyncio.timeout(limit):
                return await pending.future  # type: ignore[no-any-return]  # what `serve` returned
        except TimeoutError:
            raise CallFailed(f"{target} does not answer") from None

    def _arrive(self, pending: _Pending, serve: Callable[[Replica], Awaitable[Any]]) -> None:
        if not self._network.passes(pending.source, pending.target) or pending.target in self.off:
            self._open.discard(pending)
            error = CallFailed(f"no connection to {pending.target}")
            self._loop.call_later(CONNECT_S, _resolve, pending.future, error, None, context=pending.caller.context)
            return
        server = self.servers.get(pending.target)
        if server is None:
            self._open.discard(pending)
            self._answer(pending, CallFailed(f"{pending.target} refuses the connection"), None)
            return
        self._serial += 1
        server.pending[self._serial] = pending
        self._loop.call_soon(self._serve, server, self._serial, serve, context=server.process.context)

    def _serve(self, server: Server, serial: int, serve: Callable[[Replica], Awaitable[Any]]) -> None:
        self._loop.create_task(self._run(server, serial, serve), context=server.process.context)

    async def _run(self, server: Server, serial: int, serve: Callable[[Replica], Awaitable[Any]]) -> None:
        """Serve one call, inside the replica's process."""
        error: Exception | None = None
        result: Any = None
        try:
            result = await serve(server.replica)
        except (ProposeError, CallFailed) as problem:
            error = problem
        pending = server.pending.pop(serial, None)
        if pending is not None:
            self._open.discard(pending)
            self._answer(pending, error, result)

    def _answer(self, pending: _Pending, error: Exception | None, result: Any) -> None:
        if self._rng.random() < self.lose_answers:
            self.lost_answers += 1
            return
        self._loop.call_later(self._delay(), self._return, pending, error, result)

    def _return(self, pending: _Pending, error: Exception | None, result: Any) -> None:
        if self._network.passes(pending.target, pending.source):
            self._loop.call_soon(_resolve, pending.future, error, result, context=pending.caller.context)

    def died(self, name: str, *, silently: bool) -> None:
        """A replica ended: calls that it was serving fail, unless its whole machine lost power."""
        server = self.servers.pop(name, None)
        if server is None:
            return
        self._open.difference_update(server.pending.values())
        if not silently:
            for pending in server.pending.values():
                self._answer(pending, CallFailed(f"{name} closed the connection"), None)


def _resolve(future: asyncio.Future[Any], error: Exception | None, result: Any) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
        future.exception()  # the caller may just have timed out
