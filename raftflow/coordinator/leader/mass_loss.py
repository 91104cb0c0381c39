"""How fast agents are given up when many fall silent at once.

A single lost agent is given up at once. When a good part of the fleet vanishes in the same moment, the likely reason
is the network, or this replica's own place in it. To move all that work within a second would be useless load. So
removals are then proposed at a bounded rate, and an agent that is heard again meanwhile is kept. Every suspect counts
when the first lease ends: agents that vanished together are all suspect by then.

`LostTogether` says whether a loss counts against an agent. When many agents vanish together (in a small fleet: more
than half of it), the loss counts against none of them. The loss of a single agent always counts, even of the only
one: what it ran may be the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

ALONE_MAX = 2
ALONE_PERCENT = 20
"""More silent agents than `ALONE_MAX`, and more than this share of those present, are a mass loss."""

FIRST_PER_S = 5
"""Removals per second in the first second. Later it is `THEN_PERCENT` of the fleet per second, if that is more."""
THEN_PERCENT = 10


def is_mass(silent: int, present: int) -> bool:
    """Return True if so many silent agents are a mass loss, which is given up slowly."""
    return silent > max(ALONE_MAX, present * ALONE_PERCENT // 100)


class LostTogether:
    """The agents that fell silent together, until they are heard again or gone."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def __contains__(self, name: str) -> bool:
        """Return True if an agent was lost together with many others."""
        return name in self._names

    def __len__(self) -> int:
        """Count them."""
        return len(self._names)

    def note(self, silent: Collection[str], present: int) -> None:
        """Take in the agents that are silent when a lease ends, if they are many."""
        count = len(silent)
        if is_mass(count, present) or (count > 1 and 2 * count > present):
            self._names.update(dict.fromkeys(silent))

    def forget(self, name: str) -> None:
        """Forget an agent that was heard again or is gone."""
        self._names.pop(name, None)

    def clear(self) -> None:
        """Forget everybody: another replica leads."""
        self._names.clear()


class MassLossThrottle:
    """Bounds how many removals are proposed. Times are seconds on the event loop's clock."""

    def __init__(self) -> None:
        self.begun = 0
        """Mass losses so far."""
        self.held_back = 0
        """Agents whose lease is over and that are kept for now."""
        self._since_s: float | None = None
        self._rate = 0.0
        self._given = 0

    @property
    def active(self) -> bool:
        """True during a mass loss."""
        return self._since_s is not None

    def reset(self) -> None:
        """Forget a mass loss: it is over, or another replica leads."""
        self._since_s = None
        self.held_back = 0

    def grant(self, wanted: int, *, silent: int, present: int, now_s: float) -> int:
        """Return how many of `wanted` removals may be proposed.

        Args:
            wanted: agents whose lease is over and whose removal is not under way.
            silent: agents that are suspect, those to be removed included.
            present: all agents that are present.
            now_s: the present time.
        """
        if self._since_s is None:
            if not is_mass(silent, present):
                return wanted
            self.begun += 1
            self._since_s = now_s
            self._rate = max(FIRST_PER_S, present * THEN_PERCENT / 100)
            self._given = 0
        elapsed_s = now_s - self._since_s
        allowed = 1 + int(FIRST_PER_S * min(elapsed_s, 1.0) + self._rate * max(elapsed_s - 1.0, 0.0))
        granted = min(wanted, allowed - self._given)
        self._given += granted
        self.held_back = wanted - granted
        return granted
