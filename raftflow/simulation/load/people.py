"""People who are asked: they resolve effects that are uncertain, decide approvals, and send signals that tasks want.

For an effect they look at the service outside.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.domain.commands import DecideApproval, ResolveEffect
from raftflow.machine.read.effects import list_effects
from raftflow.machine.read.waits import approval_page
from raftflow.simulation.load.signals import SignalSender
from raftflow.simulation.world.agents.wait_program import CHOICES

if TYPE_CHECKING:
    from random import Random

    from raftflow.domain.contract.tasks import EffectView
    from raftflow.domain.contract.waits.approvals import ApprovalView
    from raftflow.domain.tasks.effects import EffectResolution
    from raftflow.machine.machine import Machine
    from raftflow.simulation.checkers.history import RunHistory
    from raftflow.simulation.load.clients import SimClient
    from raftflow.simulation.world.agents.outside_service import OutsideService
    from raftflow.simulation.world.cluster import Cluster

_LOOK_S: Final = 0.1
_FAIL_SHARE: Final = 0.2
_BOTH_SHARE: Final = 0.3
"""Share of the effects and approvals that two people resolve at the same time."""
_NOW_SHARE: Final = 0.2
"""Share of the approvals that are decided, and of the wanted signals that are sent, at each look."""
_PAGE: Final = 10
_LATE_S: Final = (0.0, 0.0, 0.3)
"""How long people think before they decide. Meanwhile the approval may end."""


class People:
    """What they do. Their requests are those of a client, repeated until they are answered."""

    def __init__(
        self, *, rng: Random, cluster: Cluster, client: SimClient, service: OutsideService, history: RunHistory
    ) -> None:
        self._rng = rng
        self._cluster = cluster
        self._client = client
        self._service = service
        self._history = history
        self._signals = SignalSender(client, rng, "person")
        self._serial = 0

    async def run(self) -> None:
        """Look, and do what is asked for, until this is cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for effect in self._uncertain():
                await self._resolve(effect)
            for approval in self._undecided():
                await self._answer(approval)
            for workflow_id, name in self._history.waits.wanted:
                if self._rng.random() < _NOW_SHARE:
                    await self._signals.send(workflow_id, name)

    def _machine(self) -> Machine | None:
        """Return what the leader has, None without one."""
        name = self._cluster.leader()
        replica = None if name is None else self._cluster.hosts[name].replica
        return None if replica is None else replica.machine

    def _undecided(self) -> list[ApprovalView]:
        """Return some of the approvals that are open."""
        machine = self._machine()
        found = [] if machine is None else approval_page(machine, "open", _PAGE, None).approvals
        return [approval for approval in found if self._rng.random() < _NOW_SHARE]

    async def _answer(self, approval: ApprovalView) -> None:
        """Decide an approval, perhaps too late, and perhaps two at the same time."""
        await asyncio.sleep(self._rng.choice(_LATE_S))
        if self._rng.random() < _BOTH_SHARE:
            await asyncio.gather(*[self._choose(approval, choice) for choice in CHOICES])
        else:
            await self._choose(approval, self._rng.choice(CHOICES))

    async def _choose(self, approval: ApprovalView, choice: str) -> None:
        self._serial += 1
        request_id = f"person-{self._serial}"
        await self._client.propose(
            request_id,
            lambda replica: DecideApproval(
                at_ms=replica.clock.now_ms(),
                actor="client:person",
                request_id=request_id,
                number=int(approval.id),
                choice=choice,
                comment=request_id,
            ),
        )

    def _uncertain(self) -> list[EffectView]:
        machine = self._machine()
        found = [] if machine is None else list_effects(machine, unresolved=True)
        return [effect for effect in found if effect.state == "uncertain"]

    async def _resolve(self, effect: EffectView) -> None:
        """Tell what the service knows. The call is over: nobody holds an intent that is uncertain."""
        result = self._service.find(effect.idempotency_key)
        if result is not None:
            await self._decide(effect, "done", result)
        elif self._rng.random() < _BOTH_SHARE:
            await asyncio.gather(self._decide(effect, "retry"), self._decide(effect, "fail"))
        else:
            await self._decide(effect, "fail" if self._rng.random() < _FAIL_SHARE else "retry")

    async def _decide(self, effect: EffectView, resolution: EffectResolution, result: str = "") -> None:
        self._serial += 1
        request_id = f"person-{self._serial}"
        await self._client.propose(
            request_id,
            lambda replica: ResolveEffect(
                at_ms=replica.clock.now_ms(),
                actor="client:person",
                request_id=request_id,
                number=effect.id,
                resolution=resolution,
                result=b'"%s"' % result.encode() if result else b"",
            ),
        )
