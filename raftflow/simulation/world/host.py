"""The machine on which one replica lives: its disk, its wall clock, and the process of the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftflow.domain.features import NEXT_LEVEL
from raftflow.simulation.world.disk import FaultyFileSystem
from raftflow.simulation.world.loop import START_S

if TYPE_CHECKING:
    from raftflow.coordinator.replica import Replica
    from raftflow.simulation.world.loop import Process, VirtualLoop
    from raftflow.simulation.world.network import SimLinks

AHEAD_AT_START_MS_MAX: Final = 50_000
"""No clock is further ahead when a process starts: beyond the margin of a minute, deadlines of running attempts pass
before their time."""
EPOCH_MS: Final = 1_700_000_000_000


class SimClock:
    """A machine's wall clock, which may jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.offset_ms = 0

    def now_ms(self) -> int:
        """Return milliseconds since the epoch, as far as this machine knows."""
        return EPOCH_MS + int((self._loop.time() - START_S) * 1000) + self.offset_ms

    def running_s(self) -> float:
        """Return seconds that nobody can set."""
        return self._loop.time()

    def boot(self) -> None:
        """Put the clock right before a process starts: the time at that moment is believed (`ClusterClock`)."""
        self.offset_ms = min(self.offset_ms, AHEAD_AT_START_MS_MAX)


class SimHost:
    """The machine on which one replica lives."""

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.disk = FaultyFileSystem(keep_trace=False)
        self.clock = SimClock(loop)
        self.lives = 0
        self.process: Process | None = None
        """The present life, None while it is down."""
        self.replica: Replica | None = None
        self.links: SimLinks | None = None
        self.serving = False
        self.may_fail: str | None = None
        """The fault of the disk because of which this life may stop by itself."""
        self.damaged = False
        """Bits of its disk were flipped: it may refuse to start, for good."""
        self.refuse_restore = False
        """The state machine will refuse the next snapshot that is installed in this life."""
        self.kept: tuple[FaultyFileSystem, bool] | None = None
        """The disk that was taken out, and whether it was damaged, while an empty one is in its place."""
        self.refused: str | None = None
        """Why it does not start any more."""
        self.gone: str | None = None
        """Why this machine is no more: its disk was lost for good, or it heard that it was removed."""
        self.level = NEXT_LEVEL
        """The highest feature level that the version which is installed here understands."""
        self.away = False
        """It is out of service for longer: nobody starts it."""
        self.older = False
        """An older copy of its disk was put back, or is about to be."""
        self.nonces = 0
        self.join = False
        self.file: tuple[str, ...] = ()
        """The replicas in the configuration with which it was started first."""

    def new_nonce(self) -> str:
        """Return what tells one start of this replica from all others, whatever becomes of its disk."""
        self.nonces += 1
        return f"{self.name}-{self.nonces}"

    @property
    def wiped(self) -> bool:
        """Whether this replica has lost its disk, and runs on an empty one."""
        return self.kept is not None
