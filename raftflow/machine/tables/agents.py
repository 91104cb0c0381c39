"""Rows of agents: an agent with its account in the ledger, and what agents have in common."""

from __future__ import annotations

from collections import deque

import msgspec

from raftflow.domain.tasks.states import AgentState
from raftflow.machine.tables.tasks import Task
from raftflow.machine.tables.workflows import Workflow

DRAIN_OVER = -1
"""Instead of a drain deadline: it has passed, and what still ran was ordered to move."""

REVOKED_FENCES_MAX = 1_024
"""Fences that an agent is still told to stop although their attempts are over."""


class AgentClass(msgspec.Struct, frozen=True):
    """What agents have in common that could run the same tasks."""

    capacity: tuple[tuple[str, int], ...]
    labels: tuple[tuple[str, str], ...]


_PRESENT = frozenset({AgentState.UP, AgentState.DRAINING, AgentState.QUARANTINE})


class Agent:
    """An agent in one incarnation, its account in the ledger, and its live attempts."""

    __slots__ = (
        "alone",
        "capacity",
        "contradicted",
        "drain_deadline_ms",
        "drained",
        "faults",
        "free",
        "home",
        "incarnation",
        "instance",
        "labels",
        "live",
        "losses",
        "lost_ms",
        "name",
        "prefetch",
        "quarantine_until_ms",
        "queue",
        "state",
        "streak",
        "void",
    )

    def __init__(
        self,
        name: str,
        instance: str,
        incarnation: int,
        *,
        capacity: dict[str, int],
        labels: dict[str, str],
        prefetch: int,
        home: str = "",
        state: AgentState = AgentState.UP,
    ) -> None:
        self.name = name
        self.instance = instance
        self.home = home
        """Shared with a process that takes its place; see `RegisterAgent`."""
        self.incarnation = incarnation
        self.capacity = capacity
        self.labels = labels
        self.prefetch = prefetch
        self.state = state
        self.free = dict(capacity)
        """Capacity less the demands of the running attempts."""
        self.alone = False
        """An exclusive attempt runs on it."""
        self.live: dict[int, tuple[Workflow, Task]] = {}
        """Queued and running attempts by fence, in the order in which they were assigned."""
        self.queue: deque[int] = deque()
        """Fences of the queued ones, in order."""
        self.void: list[int] = []
        """Fences of attempts that are over here but that the agent may still run: it is told to stop them."""
        self.drain_deadline_ms = 0
        """When what runs is moved if it still drains; 0 for never, `DRAIN_OVER` once that was ordered."""
        self.drained = False
        """An operator drained it and has not resumed it since, over all incarnations."""
        self.losses = 0
        """Losses in short succession, over all incarnations. See `rules/quarantine.py`; the same holds for what
        follows."""
        self.lost_ms = 0
        """When it was lost last."""
        self.quarantine_until_ms = 0
        """0 unless it is in quarantine."""
        self.faults = 0
        """Per mille of its last attempts that were its fault, or failed there."""
        self.streak = 0
        """Attempts that failed there, one after the other, since the last success."""
        self.contradicted = 0
        """Tasks that failed there since the last success, and succeeded elsewhere."""

    @property
    def present(self) -> bool:
        """True while the agent may hold work."""
        return self.state in _PRESENT

    @property
    def timer_ms(self) -> int:
        """When something happens to it by itself: the end of its quarantine or of its drain; 0 for never."""
        return self.quarantine_until_ms or max(self.drain_deadline_ms, 0)

    def kind(self) -> AgentClass:
        """Return what it could run."""
        return AgentClass(tuple(sorted(self.capacity.items())), tuple(sorted(self.labels.items())))
