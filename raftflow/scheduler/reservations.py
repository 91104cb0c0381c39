"""Reserved agents: no task that could run waits forever.

A task with a large demand finds no agent with enough room while small tasks keep coming: when a small one ends, the
next small one takes its room. Queues of agents keep the order, but agents without prefetch, or with full queues, have
no such order. So a shape gets a reserved agent when none of its tasks could be placed for `WAIT_MS` while tasks later
in order were placed. It is the agent on which the shape is expected to fit first. That agent takes nothing else until
a task of the shape was placed, there or elsewhere.

This is memory of the leader and not replicated: a new leader starts without it. Time comes from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from raftflow.domain.tasks.feasibility import AgentRoom, Shape, fits_in, suits
from raftflow.scheduler.place import Decision

WAIT_MS: Final = 30_000
"""How long a shape is overtaken before an agent is reserved for it."""
RESERVED_SHARE: Final = 10
"""One agent of this many may be reserved, and at least one."""


ReservedUse = tuple[int, tuple[tuple[str, int], ...]]
"""When a running attempt is expected to end (ms), and what it holds until then."""
ReservedUsesOf = Callable[[str], Sequence[ReservedUse]]
"""Returns what runs on the agent with a name."""


class Reservations:
    """Since when shapes are overtaken, and which agents are reserved for them."""

    def __init__(self) -> None:
        self._since_ms: dict[Shape, int] = {}
        """Shapes of which no task was placed since others overtook them, in order of the times."""
        self._reserved: dict[Shape, str] = {}

    @property
    def idle(self) -> bool:
        """True if no shape is overtaken, so that no agent is reserved."""
        return not self._since_ms

    def note(self, now_ms: int, decision: Decision, waiting: Mapping[Shape, object]) -> None:
        """Note a decision. `waiting` are the shapes that still wait; the others are forgotten."""
        for shape in decision.placed:
            self._since_ms.pop(shape, None)
        for shape in decision.overtaken:
            self._since_ms.setdefault(shape, now_ms)
        for shape in [shape for shape in self._since_ms if shape not in waiting]:
            del self._since_ms[shape]
        for shape in [shape for shape in self._reserved if shape not in self._since_ms]:
            del self._reserved[shape]

    def next_ms(self) -> int | None:
        """Return when the next shape without an agent will have waited long enough, None without such a shape."""
        return min(
            (since + WAIT_MS for shape, since in self._since_ms.items() if shape not in self._reserved), default=None
        )

    def choose(self, now_ms: int, rooms: Mapping[str, AgentRoom], holdings_of: ReservedUsesOf) -> dict[str, Shape]:
        """Return the reserved agents, with the shape that each is reserved for.

        `rooms` are all agents that are up, with room or without.
        """
        for shape in [shape for shape, name in self._reserved.items() if name not in rooms or rooms[name].suspect]:
            del self._reserved[shape]
        reserved_max = max(1, len(rooms) // RESERVED_SHARE)
        reserved = {name: shape for shape, name in self._reserved.items()}
        for shape, since_ms in self._since_ms.items():
            if len(reserved) >= reserved_max:
                break
            if shape not in self._reserved and now_ms - since_ms >= WAIT_MS:
                able = [
                    room
                    for room in rooms.values()
                    if room.name not in reserved and not room.suspect and suits(shape, room.capacity, room.labels)
                ]
                if able:
                    room = min(able, key=lambda room: (fits_at_ms(shape, room, holdings_of(room.name)), room.name))
                    self._reserved[shape] = room.name
                    reserved[room.name] = shape
        return reserved


def fits_at_ms(shape: Shape, room: AgentRoom, holdings: Sequence[ReservedUse]) -> int:
    """Return when a shape is expected to fit on an agent that gets nothing more; 0 if it does now.

    An agent that does not have the room even when everything known has ended counts as the last one.
    """
    if not shape.exclusive and fits_in(shape, room.free):
        return 0
    free = dict(room.free)
    end_ms = 0
    for end_ms, demand in sorted(holdings):
        for name, amount in demand:
            free[name] = free.get(name, 0) + amount
        if not shape.exclusive and fits_in(shape, free):
            return end_ms
    return end_ms if shape.exclusive or fits_in(shape, free) else _NEVER_MS


_NEVER_MS: Final = 1 << 62
