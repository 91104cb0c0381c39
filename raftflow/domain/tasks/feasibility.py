"""What a task wants and what an agent has: the one feasibility test that the scheduler and the ledger share.

The scheduler proposes with these functions and `apply` checks again with the same ones, so a proposal made from a
fresh view is never refused for another reading of "fits".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from raftflow.domain.values.rates import Rates

AGE_STEP_MS = 300_000
"""Workflows that were submitted within the same five minutes are of the same age."""
NEAR_MAX = 4
"""Agents that a task names as holding its inputs."""


class Shape(msgspec.Struct, frozen=True, array_like=True, cache_hash=True, weakref=True):
    """What placement needs to know about a task. Tasks of equal shape are interchangeable for it.

    Demand and labels are sorted by name and hold no zero amounts, so equal requirements are equal shapes. Amounts are
    integer units (`raftflow.domain.tasks.resources`).
    """

    demand: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, str], ...] = ()
    exclusive: bool = False
    """It runs alone on an agent, and holds all of its capacity."""


def shape_of(resources: Mapping[str, int], labels: Mapping[str, str], *, exclusive: bool = False) -> Shape:
    """Return the shape of a demand, the labels that the agent must carry, and whether it runs alone."""
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


def fits_now(shape: Shape, free: Mapping[str, int], *, running: int, alone: bool) -> bool:
    """Tell whether a task can start on an agent now.

    Args:
        shape: what the task wants.
        free: what is not allocated there.
        running: how many attempts run there.
        alone: whether one of them is exclusive: then nothing starts beside it, not even what demands nothing.
    """
    return not alone and not (running and shape.exclusive) and fits_in(shape, free)


def suits(shape: Shape, capacity: Mapping[str, int], labels: Mapping[str, str]) -> bool:
    """Tell whether an agent could ever run this: when empty, and with the labels that it carries."""
    return all(labels.get(key) == value for key, value in shape.labels) and fits_in(shape, capacity)


class Urgency(NamedTuple):
    """How urgent the tasks of a workflow are."""

    priority: int
    age: int
    """As in `ReadyTask`."""


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
    tail: Urgency | None = None
    """Of the last one that waits there; None if none does. Those before it are as urgent, or came before."""
    running: int = 0
    """Attempts that run there."""
    alone: bool = False
    """True if an exclusive one runs there, beside which nothing starts."""
    pressure: int = 0
    """0..4: how much busier it is than what is allocated on it explains, by its own reports. 0 if unknown."""
    speed: int = 1_000
    """How fast it has been with tasks of known length, per mille of what was expected."""
    faults: int = 0
    """0..4: the share of its late attempts that failed there, in quarters (`fault_class`)."""
    suspect: bool = False
    """True if it was not heard for so long that it may be gone: it gets nothing until it is heard again."""
    cost: int = 0
    """Thousandths that a second of use costs, for the policy of least cost."""
    given: int = 0
    """Work that it was given so far, in any unit: of agents that are equal otherwise, the one with the least comes
    first."""


def fault_class(faults_per_mille: int) -> int:
    """Put the share of attempts that failed into quarters, so that a task which fails by itself changes nothing."""
    return faults_per_mille // 250


class ReadyTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    age: int = 0
    """When its workflow was submitted, in steps of `AGE_STEP_MS` since any moment: less is older."""
    lost: bool = False
    """True if its last attempt was lost with its agent or moved away: it goes before everything that is fresh."""
    near: tuple[str, ...] = ()
    """Agents that hold what it needs, those that hold most first."""
    avoid: tuple[str, ...] = ()
    """Agents on which attempts of it failed: others are preferred."""
    avoid_hard: tuple[str, ...] = ()
    """Agents with which attempts of it were lost: not taken as long as another one that is up could ever run it."""
    limited: bool = False
    """True if its workflow limits how many of its tasks are under way at a time."""
    rates: Rates = ()
    """Units that an attempt of it takes of rate limits when it is placed."""
