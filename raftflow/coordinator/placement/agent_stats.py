"""What the leader knows about agents beyond the log: how busy they say they are, how fast they have been.

This is memory of one leader, and it only influences preferences. A new leader begins without it. Values are rounded
to coarse steps, so that noise does not change decisions; an agent is considered again only when a step was crossed.
"""

from __future__ import annotations

import msgspec

from raftflow.domain.contract.views import AgentLoad
from raftflow.domain.tasks.feasibility import AgentRoom
from raftflow.scheduler.view import pressure_of

MEASURED_MIN_MS = 100
"""The duration of a shorter attempt says little about the speed of a machine."""
_PER_MILLE = 1_000
_SPEED_MIN, _SPEED_MAX = 50, 8_000
_SPEED_STEP = 125
_SPEED_SHARE = 4
"""A new duration counts one part in so many for an agent's speed."""
_BUSY_STEP = 250
_MEMORY_STEP_MIB = 256


class AgentStats:
    """The leader's memory of agents."""

    def __init__(self) -> None:
        self._loads: dict[str, AgentLoad] = {}
        self._speeds: dict[str, int] = {}
        self._changed: dict[str, None] = {}

    def clear(self) -> None:
        """Forget everything: another replica leads."""
        self._loads.clear()
        self._speeds.clear()
        self._changed.clear()

    def forget(self, agent: str) -> None:
        """Forget an agent that is gone."""
        self._loads.pop(agent, None)
        self._speeds.pop(agent, None)

    def take_changed(self) -> dict[str, None]:
        """Return the agents whose statistics changed enough to matter since the last call."""
        changed, self._changed = self._changed, {}
        return changed

    def note_load(self, agent: str, load: AgentLoad) -> None:
        """Note what an agent says about the load of its machine."""
        before = self._loads.get(agent)
        self._loads[agent] = load
        if before is None or _steps(before) != _steps(load):
            self._changed[agent] = None

    def note_duration(self, agent: str, expected_ms: int, duration_ms: int) -> None:
        """Note that an attempt that was expected to take `expected_ms` took `duration_ms`."""
        if min(expected_ms, duration_ms) < MEASURED_MIN_MS:
            return
        seen = max(_SPEED_MIN, min(expected_ms * _PER_MILLE // duration_ms, _SPEED_MAX))
        before = self._speeds.get(agent, _PER_MILLE)
        # A far lower speed counts at once: work on a very slow agent delays whole workflows.
        after = seen if 4 * seen < before else before + (seen - before) // _SPEED_SHARE
        self._speeds[agent] = after
        if after // _SPEED_STEP != before // _SPEED_STEP:
            self._changed[agent] = None

    def speed(self, agent: str) -> int:
        """Return how fast an agent has been, in thousandths of what was expected."""
        return self._speeds.get(agent, _PER_MILLE)

    def annotate(self, room: AgentRoom, *, suspect: bool = False) -> AgentRoom:
        """Return an agent's room with its pressure, speed and suspicion filled in."""
        load = self._loads.get(room.name)
        pressure = 0
        if load is not None:
            pressure = pressure_of(
                room,
                cpu_busy_per_mille=_known(load.cpu_busy_per_mille),
                run_queue=_known(load.run_queue),
                memory_free_mib=load.memory_free_mib if load.cpu_count else None,
            )
        speed = max(_SPEED_STEP, (self.speed(room.name) + _SPEED_STEP // 2) // _SPEED_STEP * _SPEED_STEP)
        if pressure or suspect or speed != _PER_MILLE:
            return msgspec.structs.replace(room, pressure=pressure, suspect=suspect, speed=speed)
        return room


def _known(value: int | msgspec.UnsetType) -> int | None:
    return None if isinstance(value, msgspec.UnsetType) else value


def _steps(load: AgentLoad) -> tuple[int, int, int]:
    return (
        (_known(load.cpu_busy_per_mille) or 0) // _BUSY_STEP,
        _known(load.run_queue) or 0,
        load.memory_free_mib // _MEMORY_STEP_MIB,
    )
