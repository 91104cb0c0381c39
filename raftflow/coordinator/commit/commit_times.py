"""How long commits take, for the metrics."""

from __future__ import annotations

from raftflow.replication.histogram import Histogram


class CommitTimes(Histogram):
    """How long commits took."""

    __slots__ = ("commands",)

    BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)

    def __init__(self) -> None:
        super().__init__(self.BOUNDS_S)
        self.commands = 0

    def add(self, seconds: float, commands: int) -> None:
        """Count one committed entry."""
        self.note(seconds)
        self.commands += commands
