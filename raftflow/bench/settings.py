"""The settings of benchmarks, and their errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class BenchError(Exception):
    """The benchmark does not exist, or cannot be run. Says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run. A benchmark ignores those that it does not use."""

    directory: Path
    """Where clusters keep their files: the disk counts."""
    runs: int
    tasks: int
    """Size of the work: tasks, hops, connections or rounds, as the benchmark says."""
    slots: int = 4
    """Tasks that run at the same time, over all agents."""
    agents: int = 2
    prefetch: int = 256
    """Tasks that may wait at each agent for a free slot."""
    seconds: float = 5.0
    """How long each measurement of a rate goes on."""
    at_once: int = 100
    """Tasks with durable steps that run at the same time."""
    steps_each: int = 20
    """The durable steps of each of them."""
    how: str = "kill"
    """What becomes of a leader that fails: `kill`, `silent` or `stop`."""
    versus: tuple[str, ...] = ()
    """Other systems to run in the same run."""

    def __post_init__(self) -> None:
        if self.slots % self.agents:
            raise BenchError(f"{self.slots} slots cannot be shared evenly by {self.agents} agents")
