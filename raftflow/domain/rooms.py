"""What a task wants and what an agent has: the one feasibility test that the scheduler and the ledger share.

The scheduler proposes with these functions and `apply` checks again with the same ones, so a proposal made from a
fresh view is never refused for another reading of "fits".
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Shape(msgspec.Struct, frozen=True, array_like=True, cache_hash=True, weakref=True):
    """What placement needs to know about a task. Tasks of equal shape are interchangeable for it.

    Demand and labels are sorted by name and hold no zero amounts, so equal wishes are equal shapes. Amounts are
    integer units (`raftflow.domain.resources`).
    """

    demand: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, str], ...] = ()
    exclusive: bool = False
    """It wants an agent on which nothing else runs."""


def shape_of(resources: Mapping[str, int], labels: Mapping[str, str], *, exclusive: bool = False) -> Shape:
    """Return the shape of a demand, the labels that the agent must carry, and whether it wants an agent alone."""
    return Shape(
        tuple((name, resources[name]) for name in sorted(resources) if resources[name]),
        tuple(sorted(labels.items())),
        exclusive,
    )


def fits_in(shape: Shape, free: Mapping[str, int]) -> bool:
    """Tell whether the demand fits into `free`. A resource that is not named there is not there."""
    for name, amount in shape.demand:  # noqa: SIM110 - a loop is twice as fast as all() here, and this is the hot path
        if amount > free.get(name, 0):
            return False
    return True


def suits(shape: Shape, capacity: Mapping[str, int], labels: Mapping[str, str]) -> bool:
    """Tell whether an agent could ever run this: when empty, and with the labels that it carries."""
    return all(labels.get(key) == value for key, value in shape.labels) and fits_in(shape, capacity)


class AgentRoom(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent that takes work has left. The scheduler's picture of it."""

    name: str
    incarnation: int
    capacity: dict[str, int]
    free: dict[str, int]
    labels: dict[str, str] = {}
    queued: int = 0
    """Attempts that wait in its queue. While there are any, a new attempt joins them and does not run at once."""
    prefetch: int = 0
    """How many may wait there."""


class ReadyTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task that may be placed, with all that orders it."""

    workflow_id: str
    task: int
    """Position in its workflow."""
    shape: Shape
    priority: int = 50
    rank: int = 0
    """Upward rank: expected ms from its start to the end of its workflow."""
    number: int = 0
    """Number of its workflow in order of submission."""
