"""What a decision is made from: an immutable picture of ready tasks and of agents with room."""

from __future__ import annotations

import msgspec

from raftflow.domain.rooms import AgentRoom, ReadyTask, Shape


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Ready tasks of one shape, the one that should run first in front."""

    shape: Shape
    tasks: tuple[ReadyTask, ...]


class PlacementView(msgspec.Struct, frozen=True, kw_only=True):
    """Input of `place`."""

    agents: tuple[AgentRoom, ...]
    """Agents that are up."""
    groups: tuple[Group, ...]
    placements_max: int
    """Most placements that one decision may make."""


def has_room(room: AgentRoom) -> bool:
    """Tell whether an agent could take anything at all: nothing is worth asking of one that cannot."""
    if room.queued < room.prefetch:
        return True
    return room.queued == 0 and (not room.free or any(room.free.values()))
