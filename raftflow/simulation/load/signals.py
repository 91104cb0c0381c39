"""Signals that simulated clients and people send: before a wait begins and after, and some of them again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from raftflow.coordinator.calls.schemas import SCHEMA_TRIES
from raftflow.domain.commands import SendSignal
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.machine.read.waits import schema_for
from raftflow.simulation.world.agents.wait_program import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from raftflow.coordinator.replica import Replica
    from raftflow.simulation.load.money import ProposingClient

_TURNS_SHARE: Final = 0.25
"""Share of the turns of a client in which it sends a signal."""
_NEWEST: Final = 3
"""So many of the newest workflows get signals."""
_AGAIN_SHARE: Final = 0.2
"""Share of the signals that are an earlier one, sent again under its key."""
_BOTH_SHARE: Final = 0.2
"""Share of the signals that are sent twice at the same time, under one key."""
_KEYLESS_SHARE: Final = 0.2
_SENT_MAX: Final = 8


class _SentSignal(NamedTuple):
    """A signal. No two have the same payload."""

    workflow_id: str
    name: str
    payload: bytes
    key: str


class SignalSender:
    """Sends signals for one client."""

    def __init__(self, client: ProposingClient, rng: Random, name: str) -> None:
        self._client = client
        self._rng = rng
        self._name = name
        self._serial = 0
        self._sent: list[_SentSignal] = []

    async def send_some(self, known: Sequence[str]) -> None:
        """In some turns, send a signal to one of the newest workflows, or one that was sent before."""
        if not known or self._rng.random() >= _TURNS_SHARE:
            return
        if self._sent and self._rng.random() < _AGAIN_SHARE:
            await self._propose(self._rng.choice(self._sent))
        else:
            await self.send(self._rng.choice(known[-_NEWEST:]), self._rng.choice(SIGNALS))

    async def send(self, workflow_id: str, name: str) -> None:
        """Send a new signal."""
        self._serial += 1
        told = f"{self._name}-signal-{self._serial}"
        key = "" if self._rng.random() < _KEYLESS_SHARE else told
        signal = _SentSignal(workflow_id, name, b'"%s"' % told.encode(), key)
        if key:
            self._sent.append(signal)
            del self._sent[:-_SENT_MAX]
        if key and self._rng.random() < _BOTH_SHARE:
            await asyncio.gather(self._propose(signal), self._propose(signal))
        else:
            await self._propose(signal)

    async def _propose(self, signal: _SentSignal) -> None:
        """Send it in a request of its own: the cluster does not know the request, only the key of the signal.

        As the API does, name the wait with whose schema the payload was compared, and repeat if that is another one.
        """
        self._serial += 1
        request_id = f"{self._name}-send-{self._serial}"

        def command(replica: Replica) -> SendSignal:
            found = schema_for(replica.machine, signal.workflow_id, signal.name)
            return SendSignal(
                at_ms=replica.clock.now_ms(),
                actor="client:api",
                request_id=request_id,
                workflow_id=signal.workflow_id,
                name=signal.name,
                payload=signal.payload,
                key=signal.key,
                checked=0 if found is None else found.wait,
            )

        for _ in range(SCHEMA_TRIES):
            reply = await self._client.propose(request_id, command)
            if not (isinstance(reply, Rejection) and reply.code is RejectionCode.PENDING):
                return
