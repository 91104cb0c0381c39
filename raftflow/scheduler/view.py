"""The input of a decision: an immutable view of ready tasks and of agents with room."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from raftflow.domain.tasks.feasibility import AgentRoom, ReadyTask, Shape
from raftflow.domain.tasks.resources import CPU, MEMORY
from raftflow.scheduler.order import OrderKey
from raftflow.scheduler.policies import DEFAULT_POLICY

NO_BUDGETS: Mapping[str, int] = MappingProxyType({})
NO_RESERVATIONS: Mapping[str, Shape] = MappingProxyType({})

PRESSURE_MAX = 4
_PER_MILLE = 1_000


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Ready tasks of one shape, the one that should run first in front."""

    shape: Shape
    keys: tuple[OrderKey, ...]
    """The sort key of each task, comparable over all groups."""
    tasks: tuple[ReadyTask, ...]


class PlacementView(msgspec.Struct, frozen=True, kw_only=True):
    """Input of `place`."""

    agents: tuple[AgentRoom, ...]
    """Agents that are up, at least those with room."""
    groups: tuple[Group, ...]
    placements_max: int
    """Most placements that one decision may make."""
    policy: str = DEFAULT_POLICY
    """A name in `policies.PLACEMENT_RULES`."""
    full: tuple[AgentRoom, ...] = ()
    """Agents that are up and have no room. They only count as agents that could ever run a task which avoids another
    agent."""
    budgets: Mapping[str, int] = NO_BUDGETS
    """How many tasks may be placed now of each workflow that limits itself."""
    rate_units: Mapping[str, int] = NO_BUDGETS
    """Units that rate limits have now, by name. Tasks take them when they are placed."""
    reserved: Mapping[str, Shape] = NO_RESERVATIONS
    """Agents that are reserved for a shape which could run nowhere for a while; see `reservations.py`."""


def has_room(room: AgentRoom) -> bool:
    """Tell whether an agent could take any task."""
    if room.queued < room.prefetch:
        return True
    return room.queued == 0 and (not room.free or any(room.free.values()))


def pressure_of(
    room: AgentRoom,
    *,
    cpu_busy_per_mille: int | None = None,
    run_queue: int | None = None,
    memory_free_mib: int | None = None,
) -> int:
    """Return how much busier an agent is than what is allocated on it explains, 0 to `PRESSURE_MAX`.

    `cpu_busy_per_mille` is of all its processors, `run_queue` counts threads that run or are runnable; None is
    unknown. A step is a quarter of the processors, or half as many waiting threads as processors. Memory that is
    offered and not available is the highest step, because the next task may be killed.
    """
    steps = 0
    cpu = room.capacity.get(CPU, 0)
    used = cpu - room.free.get(CPU, 0)
    if cpu and cpu_busy_per_mille is not None:
        steps = max(steps, (cpu_busy_per_mille - used * _PER_MILLE // cpu) * 4 // _PER_MILLE)
    if cpu and run_queue is not None:
        steps = max(steps, (run_queue * _PER_MILLE - max(cpu, used)) * 2 // cpu)
    if memory_free_mib is not None and memory_free_mib < room.free.get(MEMORY, 0) // 2:
        steps = PRESSURE_MAX
    return max(0, min(PRESSURE_MAX, steps))
