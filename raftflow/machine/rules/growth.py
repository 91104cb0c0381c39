"""Tasks that use more memory than they demand: the next attempt gets more, up to a limit.

    next demand = max(2 x demand, peak + 25 %), at most the limit
    limit       = the task's `memory_max`, by default 4 x its first demand; never more than the largest agent that
                  is up and could run it has

The limit travels with the demand: the larger profile carries it as its `memory_max`. So a task grows a few times at
most, and one that is at its limit fails as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.tasks.feasibility import suits
from raftflow.domain.tasks.resources import MEMORY

if TYPE_CHECKING:
    from raftflow.domain.tasks.feasibility import Shape
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Profile
    from raftflow.machine.tables.workflows import Workflow

GROWTH_DEFAULT = 4
"""A task without `memory_max` may get at most so many times its first demand."""

_SHARED_MAX = 64
"""Profiles, the newest, among which an equal one is looked for, so that tasks that grow alike share it."""


def memory_of(profile: Profile) -> int:
    """Return the demand for memory in MiB, 0 without one."""
    return dict(profile.shape.demand).get(MEMORY, 0)


def grow(step: ApplyContext, workflow: Workflow, profile: Profile, peak_mib: int) -> int | None:
    """Return the number of a profile with more memory, made if need be, or None if the task may not have more."""
    demand_mib = memory_of(profile)
    limit_mib = demand_mib * GROWTH_DEFAULT if profile.memory_max_mib is None else profile.memory_max_mib
    wanted_mib = max(2 * demand_mib, peak_mib + (peak_mib + 3) // 4)
    grown_mib = min(wanted_mib, limit_mib, _largest(step.state, profile.shape, limit_mib))
    if grown_mib <= demand_mib:
        return None
    shape = profile.shape
    demand = dict(shape.demand)
    demand[MEMORY] = grown_mib
    grown = msgspec.structs.replace(
        profile,
        shape=step.state.shape(msgspec.structs.replace(shape, demand=tuple(sorted(demand.items())))),
        memory_max_mib=limit_mib,
    )
    profiles = workflow.profiles
    for number in range(len(profiles) - 1, max(-1, len(profiles) - 1 - _SHARED_MAX), -1):
        if profiles[number] == grown:
            return number
    step.touch_workflow(workflow)
    workflow.add_profiles((grown,))
    return len(workflow.profiles) - 1


def _largest(state: State, shape: Shape, otherwise_mib: int) -> int:
    """Return the most memory of an agent that is up and could run this, `otherwise_mib` if there is no such agent."""
    largest = 0
    for kind in state.kinds:
        capacity = dict(kind.capacity)
        if suits(shape, capacity, dict(kind.labels)):
            largest = max(largest, capacity.get(MEMORY, 0))
    return largest or otherwise_mib
