"""Feature levels: which commands and formats all replicas understand, so that versions can be mixed while upgrading.

The level is replicated state and begins at 1. A program understands every level up to its `LEVEL`. The leader
proposes to raise the cluster's level when every member has reported that it understands a higher one; until then no
replica emits a command that needs it, and `apply` refuses one. A replica that does not understand the cluster's level
stops.

| level | what it brings |
| --- | --- |
| 1 | the first release |
| 2 | the level can be raised; members of the cluster can be changed |

A new command or format: raise `LEVEL`, add a line above, and for a command one in `NEEDS`.
"""

from __future__ import annotations

from typing import Final

from raftflow.domain import commands as c

LEVEL_FIRST: Final = 1
LEVEL: Final = 2
"""The highest level that this program understands."""

MEMBERS_LEVEL: Final = 2
"""The level from which on the log may hold changes of the members."""

NEEDS: Final[dict[type[c.Command], int]] = {}
"""The level that a command needs; those of the first release are not listed."""


class FeatureLevelError(Exception):
    """The cluster is on a feature level that this program does not understand. Says what to do."""

    def __init__(self, level: int, understood: int) -> None:
        super().__init__(
            f"the cluster is on feature level {level}, but this version of raftflow understands levels up to "
            f"{understood}. Start the version that the other replicas run, or a newer one; the data is kept."
        )
