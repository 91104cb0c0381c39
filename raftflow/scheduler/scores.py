"""Scores: which of the agents that could take a task is best for it.

A score is a row of integers, compared one after the other. The lowest is best. In this order, and each number counts
only if all before it are equal:

1. agents that the task must never use (`ReadyTask.avoid_hard`) are not candidates;
2. scarce resources: how many custom resources of the agent, a GPU say, the task would block without using them;
3. agents on which the task has failed before come last (`ReadyTask.avoid`);
4. the weight that the policy gives the agent: its pressure, its faults, its speed, its cost (`PlacementRule.weigh`);
5. locality: an agent that holds inputs of the task (`ReadyTask.near`);
6. what would be left over, the least first (best fit) or the most first (spread);
7. the agent that was given least so far, or the name.

For a place in a queue, 4 and 6 are replaced by how long the task would wait there: places in the queue, divided by
the agent's speed and stretched by its pressure and faults (what fails at once empties a queue fastest).

2, 4 and 6 are equal for all tasks of a shape. Only tasks with preferences of their own (3, 5) are scored alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from raftflow.domain.tasks.feasibility import AgentRoom, Shape
from raftflow.domain.tasks.resources import CPU, MEMORY

PER_MILLE: Final = 1_000
SCARCE_SHIFT: Final = 32
"""The first number of a score holds 2 above this many bits and 4 below."""
_WEIGHT_MAX: Final = (1 << SCARCE_SHIFT) - 1
_FAULTS_SHIFT: Final = 16
_PRESSURE_SHIFT: Final = 24
_SPEED_STEPS: Final = 4
"""Speeds within an eighth of the nominal one count as equal."""
_SLOWNESS_MAX: Final = (1 << _FAULTS_SHIFT) - 1
_QUEUE_UNIT: Final = 4


class PlacementRule(msgspec.Struct, frozen=True, kw_only=True):
    """How a policy compares agents that could all run a task."""

    weigh: Callable[[AgentRoom], int]
    """What speaks against an agent, for any task. Below 2**32."""
    fit: int
    """1: the least left over is best (best fit). -1: the most. 0: it does not count."""
    locality: bool = True
    """Whether an agent that holds inputs of the task is preferred."""
    balance: bool = True
    """Whether equal agents take turns by what they were given; otherwise the first name wins."""
    ranks: bool = True
    """Whether ready tasks are ordered by rank. The coordinator always does; a simulated trace follows this."""


def trouble_weight(room: AgentRoom) -> int:
    """Weigh the pressure and the faults of an agent."""
    return (room.pressure << _PRESSURE_SHIFT) | (room.faults << _FAULTS_SHIFT)


def trouble_and_speed_weight(room: AgentRoom) -> int:
    """Weigh pressure and faults, then how slow the agent is."""
    steps = (room.speed * _SPEED_STEPS + PER_MILLE // 2) // PER_MILLE
    return trouble_weight(room) | (_SLOWNESS_MAX - min(steps, _SLOWNESS_MAX))


def cost_weight(room: AgentRoom) -> int:
    """Weigh what a second of work costs on the agent: a slow agent takes longer for it."""
    return min(room.cost * PER_MILLE // max(1, room.speed), _WEIGHT_MAX)


def scarce(shape: Shape, capacity: dict[str, int]) -> int:
    """Count the custom resources that a task of this shape would keep others from without using them."""
    demanded = {name for name, _ in shape.demand}
    return sum(
        1 for name, amount in capacity.items() if amount and name not in {CPU, MEMORY} and name not in demanded
    )


def wait_in_queue(room: AgentRoom, queued: int) -> int:
    """Return how long a task would wait behind `queued` others, in thousandths of a quarter of a turn."""
    return (queued + 1) * (_QUEUE_UNIT + room.pressure + room.faults) * PER_MILLE // max(1, room.speed)


def share(amounts: dict[str, int], capacity: dict[str, int]) -> int:
    """Return amounts as thousandths of the capacity, summed over the resources."""
    total = 0
    for name, amount in amounts.items():  # a loop, because every decision computes this for every agent
        if amount:
            total += amount * PER_MILLE // capacity[name]
    return total
