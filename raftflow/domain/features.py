"""Feature levels: which commands and formats all replicas understand, so that versions can be mixed while upgrading.

The level is replicated state and begins at 1. A program understands every level up to its `LEVEL`. The leader
proposes to raise the cluster's level when every member has reported that it understands a higher one. Until then no
replica emits a command that needs the higher level, and `apply` refuses one. A replica that does not understand the
cluster's level stops.

| level | what it brings |
| --- | --- |
| 1 | the first release |

To add a command, a field or a value of a field: raise `LEVEL`, add a line to the table above, and a line to `NEEDS`
(a command) or to `FIELD_NEEDS` (the rest). An older replica cannot even read an entry that holds one. The tests of
`tests/compat` fail if the line is missing: golden data of level N lacks whatever needs a level above N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from raftflow.domain import commands as c

LEVEL_FIRST: Final = 1
LEVEL: Final = 1
"""The highest level that this program understands."""

NEXT_LEVEL: Final = LEVEL + 1
"""The level of a version that does not exist yet. Tests and simulations upgrade to it (`play_next_version`)."""

NEEDS: dict[type[c.Command], int] = {}
"""The level that a command needs; those of the first release are not listed."""


class FieldNeed(NamedTuple):
    """A field or a value of a command that came after the command."""

    level: int
    is_used: Callable[[Any], bool]
    """Takes the command."""


FIELD_NEEDS: dict[type[c.Command], tuple[FieldNeed, ...]] = {}
"""The levels that fields and values of a command need. Those that came with the command are not listed."""


def level_of(command: c.Command) -> int:
    """Return the level that the cluster must be on for this command: that of its kind, and of what it holds."""
    needed = NEEDS.get(type(command), LEVEL_FIRST)
    for need in FIELD_NEEDS.get(type(command), ()):
        if need.level > needed and need.is_used(command):
            needed = need.level
    return needed


def highest_need() -> int:
    """Return the highest level that any command can need. From that level on no command has to be looked at."""
    of_fields = [need.level for needs in FIELD_NEEDS.values() for need in needs]
    return max([LEVEL_FIRST, *NEEDS.values(), *of_fields])


NEXT_VERSION: Final[Mapping[type[c.Command], int]] = {c.ForgetAgent: NEXT_LEVEL}
"""What a version of `NEXT_LEVEL` would add to `NEEDS`, were this command new."""


def play_next_version() -> None:
    """Make this process one of a cluster whose newest version is on `NEXT_LEVEL`. For tests of upgrades alone.

    Call it before any machine is made. Each replica is told the level that it understands.
    """
    NEEDS.update(NEXT_VERSION)


class FeatureLevelError(Exception):
    """The cluster is on a feature level that this program does not understand. Says what to do."""

    def __init__(self, level: int, understood: int) -> None:
        super().__init__(
            f"the cluster is on feature level {level}, but this version of raftflow understands levels up to "
            f"{understood}. Start the version that the other replicas run, or a newer one; the data is kept."
        )
