"""Leases: the leader's memory of when each agent was last heard.

An agent stops its attempts when its lease ends, counted from when it *sent* the last poll that was answered. The
leader counts from when that poll *arrived*, and adds a margin. So it gives an agent up only after the agent has
stopped its attempts. A new leader knows nothing and gives every agent a full lease. While the removal of an agent is
under way, its polls are not answered (`leader/removals.py`).
"""

from __future__ import annotations

from collections.abc import Container

MARGIN = 0.1
"""The leader waits this share of the lease longer than the agent."""

_FALLBACK_SHARE = 0.5
"""Share of the margin that a leader without a majority may use. The rest is for delays and clocks that differ."""

SUSPICION = 0.5
"""After this share of the lease a silent agent is suspect. Healthy agents are silent for a far shorter time, unless
their polls are held for that long. Then an agent is suspect `SUSPICION_MORE` of the lease after the end of the
hold."""
SUSPICION_MORE = 0.2

STALL_S = 0.5
"""A check that is this late shows that this process was paused. Agents are not given up for that."""


def longest_fallback_s(lease_ms: int) -> float:
    """Return for how long a leader that hears no majority may go on leading: what it promises meanwhile is covered.

    It may renew leases until it steps down. A new leader gives every agent a full lease with its margin. It may begin
    as early as the moment of the last sign of the majority to the old leader.
    """
    return lease_ms / 1000 * MARGIN * _FALLBACK_SHARE


class Leases:
    """Last contact with each agent, on the event loop's clock. Times are seconds."""

    def __init__(self, lease_ms: int, poll_wait_ms: int = 0) -> None:
        lease_s = lease_ms / 1000
        self._patience_s = lease_s * (1 + MARGIN)
        self._suspicion_s = max(lease_s * SUSPICION, poll_wait_ms / 1000 + lease_s * SUSPICION_MORE)
        self._heard_s: dict[str, float] = {}

    def contact(self, name: str, now_s: float) -> None:
        """Note that the agent was heard."""
        self._heard_s[name] = now_s

    def forget(self, name: str) -> None:
        """Forget an agent that is gone."""
        self._heard_s.pop(name, None)

    def clear(self) -> None:
        """Forget everybody: another replica leads."""
        self._heard_s.clear()

    def last_heard_s(self, name: str) -> float | None:
        """Return when the agent was last heard, or None if it is not watched."""
        return self._heard_s.get(name)

    def expired(self, now_s: float) -> list[str]:
        """Return the agents whose lease and margin are over, the longest silent first."""
        over = [(heard_s, name) for name, heard_s in self._heard_s.items() if now_s >= heard_s + self._patience_s]
        return [name for _, name in sorted(over)]

    def suspects(self, now_s: float) -> list[str]:
        """Return the agents that have been silent for so long that they are suspect, with or without a lease."""
        return [name for name, heard_s in self._heard_s.items() if now_s >= heard_s + self._suspicion_s]

    def next_expiry_s(self) -> float | None:
        """Return when the next lease and its margin end if no agent is heard again, None without agents."""
        return min(self._heard_s.values()) + self._patience_s if self._heard_s else None

    def next_suspicion_s(self, known: Container[str]) -> float | None:
        """Return when the next agent becomes suspect that is not in `known`, None without one."""
        heard_s = min((heard_s for name, heard_s in self._heard_s.items() if name not in known), default=None)
        return None if heard_s is None else heard_s + self._suspicion_s

    def renew_all(self, now_s: float) -> None:
        """Give every agent a full lease again, after this process was paused and could hear none."""
        for name in self._heard_s:
            self._heard_s[name] = now_s
