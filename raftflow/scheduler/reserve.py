"""Kept agents: nothing that could run waits for ever.

A task that wants much of an agent finds none with enough room as long as others that want little come after it: each
end of a small one is followed by the next small one. Queues of agents keep the order and so need no more; agents
without prefetch, or with full queues, have none. So a shape of which no task could be placed for `WAIT_MS`, while
tasks that come after it in order were, gets an agent kept for it: the one on which it is expected to fit first. That
agent takes nothing else until a task of the shape was placed, there or elsewhere.

Memory of the leader, not replicated: a new leader waits anew. Time comes from the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from raftflow.domain.tasks.feasibility import AgentRoom, Shape, fits_in, suits
from raftflow.scheduler.place import Decision

WAIT_MS: Final = 30_000
"""A shape is overtaken for so long before an agent is kept for it."""
KEPT_PART: Final = 10
"""Of so many agents one may be kept, and at least one at all."""


Holding = tuple[int, tuple[tuple[str, int], ...]]
"""When a running attempt is expected to end (ms), and what it holds until then."""
HoldingsOf = Callable[[str], Sequence[Holding]]
"""What runs on the agent of a name."""


class Reservations:
    """Which shapes were overtaken since when, and which agents are kept for them."""

    def __init__(self) -> None:
        self._since_ms: dict[Shape, int] = {}
        """Shapes of which no task was placed since others overtook them, in the order in which that began."""
        self._kept: dict[Shape, str] = {}

    @property
    def idle(self) -> bool:
        """True if nothing is overtaken, so that no agent is kept."""
        return not self._since_ms

    def note(self, now_ms: int, decision: Decision, waiting: Mapping[Shape, object]) -> None:
        """Take note of a decision. `waiting` are the shapes that still wait; the others are forgotten."""
        for shape in decision.placed:
            self._since_ms.pop(shape, None)
        for shape in decision.overtaken:
            self._since_ms.setdefault(shape, now_ms)
        for shape in [shape for shape in self._since_ms if shape not in waiting]:
            del self._since_ms[shape]
        for shape in [shape for shape in self._kept if shape not in self._since_ms]:
            del self._kept[shape]

    def next_ms(self) -> int | None:
        """Return when a shape that has no agent yet will have waited long enough, None if there is none."""
        return min(
            (since + WAIT_MS for shape, since in self._since_ms.items() if shape not in self._kept), default=None
        )

    def choose(self, now_ms: int, rooms: Mapping[str, AgentRoom], holdings_of: HoldingsOf) -> dict[str, Shape]:
        """Return the agents that are kept, and for which shape.

        `rooms` are all agents that are up, with room or without.
        """
        for shape in [shape for shape, name in self._kept.items() if name not in rooms or rooms[name].suspect]:
            del self._kept[shape]
        most = max(1, len(rooms) // KEPT_PART)
        kept = {name: shape for shape, name in self._kept.items()}
        for shape, since_ms in self._since_ms.items():
            if len(kept) >= most:
                break
            if shape not in self._kept and now_ms - since_ms >= WAIT_MS:
                able = [
                    room
                    for room in rooms.values()
                    if room.name not in kept and not room.suspect and suits(shape, room.capacity, room.labels)
                ]
                if able:
                    room = min(able, key=lambda room: (fits_at_ms(shape, room, holdings_of(room.name)), room.name))
                    self._kept[shape] = room.name
                    kept[room.name] = shape
        return kept


def fits_at_ms(shape: Shape, room: AgentRoom, holdings: Sequence[Holding]) -> int:
    """Return when a shape is expected to fit on an agent that gets nothing more; 0 if it does now.

    An agent that still does not have the room when everything known has ended counts as the last of all.
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
