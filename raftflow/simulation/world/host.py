"""The machine of one replica: its disk, its wall clock, and its present process."""

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
"""No clock is further ahead when a process starts. Beyond the margin of a minute, deadlines of running attempts pass
too early."""
EPOCH_MS: Final = 1_700_000_000_000


class SimClock:
    """A machine's wall clock, which may jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.offset_ms = 0

    def now_ms(self) -> int:
        """Return milliseconds since the epoch, by this machine's clock."""
        return EPOCH_MS + int((self._loop.time() - START_S) * 1000) + self.offset_ms

    def running_s(self) -> float:
        """Return seconds of a clock that cannot be set."""
        return self._loop.time()

    def boot(self) -> None:
        """Correct the clock before a process starts: the time at that moment is trusted (`ClusterClock`)."""
        self.offset_ms = min(self.offset_ms, AHEAD_AT_START_MS_MAX)


class SimHost:
    """The machine of one replica."""

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.disk = FaultyFileSystem(keep_trace=False)
        self.clock = SimClock(loop)
        self.lives = 0
        self.process: Process | None = None
        """The present process, None while it is down."""
        self.replica: Replica | None = None
        self.links: SimLinks | None = None
        self.serving = False
        self.may_fail: str | None = None
        """The fault of the disk because of which this process may stop by itself."""
        self.damaged = False
        """Bits of its disk were flipped: it may refuse to start from now on."""
        self.refuse_restore = False
        """The state machine refuses the next snapshot that is installed in this process."""
        self.kept: tuple[FaultyFileSystem, bool] | None = None
        """The disk that was taken out, and whether it was damaged, while an empty disk is in its place."""
        self.refused: str | None = None
        """Why it no longer starts."""
        self.gone: str | None = None
        """Why this machine is gone: its disk was lost, or it was told that it was removed."""
        self.patience = 1.0
        """How many times as long as usual its configured election timeouts are."""
        self.level = NEXT_LEVEL
        """The highest feature level that the installed version understands."""
        self.away = False
        """It is out of service: it is not started."""
        self.older = False
        """An older copy of its disk was put back, or will be soon."""
        self.nonces = 0
        self.join = False
        self.file: tuple[str, ...] = ()
        """The replicas in the configuration with which it was started first."""

    def new_nonce(self) -> str:
        """Return a value that identifies one start of this replica, even if its disk is replaced."""
        self.nonces += 1
        return f"{self.name}-{self.nonces}"

    @property
    def pre_votes(self) -> bool:
        """Whether the installed version asks before an election; the older versions of a run do not."""
        return self.level >= NEXT_LEVEL

    @property
    def wiped(self) -> bool:
        """Whether this replica has lost its disk and runs on an empty one."""
        return self.kept is not None
