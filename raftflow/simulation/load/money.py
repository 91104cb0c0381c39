"""What simulated clients do about money: they raise budgets, and set and remove a rate limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raftflow.domain.commands import BudgetRaise, RaiseBudget, RemoveRateLimit, SetRateLimit
from raftflow.simulation.world.agents.spending_program import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from raftflow.coordinator.replica import Replica
    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.replies import AnyReply


class ProposingClient(Protocol):
    """What is needed of a client."""

    async def propose(self, request_id: str, command: Callable[[Replica], AnyCommand]) -> AnyReply | None:
        """Submit a command until there is a reply."""


async def care_for_money(client: ProposingClient, rng: Random, request_id: str, known: Sequence[str]) -> None:
    """Raise a budget, set the rate limit, or remove it."""
    chance = rng.random()
    if chance < 0.6 and known:
        await raise_budget(client, request_id, rng.choice(known), rng.choice((1, 10)))
    elif chance < 0.85:
        await set_rate_limit(client, request_id, rng.choice((2, 5, 20)))
    else:
        await client.propose(
            request_id,
            lambda replica: RemoveRateLimit(
                at_ms=replica.clock.now_ms(), actor="client:api", request_id=request_id, name=LIMIT
            ),
        )
        if rng.random() < 0.7:  # it must not be full then
            await set_rate_limit(client, f"{request_id}-again", rng.choice((2, 5)))


async def raise_budget(client: ProposingClient, request_id: str, workflow_id: str, units: int) -> None:
    """Let a workflow spend more."""
    raises = (BudgetRaise("usd", units * 1_000_000, added=True),)
    await client.propose(
        request_id,
        lambda replica: RaiseBudget(
            at_ms=replica.clock.now_ms(),
            actor="client:api",
            request_id=request_id,
            workflow_id=workflow_id,
            raises=raises,
        ),
    )


async def set_rate_limit(client: ProposingClient, request_id: str, amount: int) -> None:
    """Let so many units come in a second, and as a burst at most four."""
    await client.propose(
        request_id,
        lambda replica: SetRateLimit(
            at_ms=replica.clock.now_ms(),
            actor="client:api",
            request_id=request_id,
            name=LIMIT,
            amount=amount,
            period_ms=1_000,
            burst=min(amount, 4),
        ),
    )
