"""One program of the launcher."""

from __future__ import annotations

import resource
import time

from raftflow.agent.launcher.messages import Spawn
from raftflow.agent.output.capture import CapturedStream

_WATCH_AFTER_S = 0.005
"""From what age on a program's output is read while it runs. Most programs that end sooner have written less than a
pipe holds, and are spared four calls of the system and a wake-up; one that writes more waits for so long, once."""


class Child:
    """A program that runs, or whose cleanup runs."""

    __slots__ = (
        "cleanup",
        "cleanup_env",
        "cleanup_until_s",
        "end",
        "ended",
        "fence",
        "id",
        "lease_over",
        "pid",
        "signalled",
        "streams",
        "uncleaned",
        "watch_at_s",
    )

    def __init__(self, spawn: Spawn, pid: int, streams: list[CapturedStream]) -> None:
        self.id = spawn.id
        self.fence = spawn.env.get("RAFTFLOW_FENCE")
        self.pid = pid
        self.streams = streams
        self.watch_at_s = time.monotonic() + _WATCH_AFTER_S
        self.ended = False
        self.lease_over = False
        self.signalled = False
        self.cleanup = spawn.cleanup
        self.cleanup_env = spawn.cleanup_env
        self.uncleaned = False
        """The cleanup failed."""
        self.cleanup_until_s = 0.0
        """Until when the cleanup may run."""
        self.end: tuple[int, resource.struct_rusage] | None = None
        """How the program ended, while the cleanup runs: `pid` is that of the cleanup then."""
