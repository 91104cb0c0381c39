"""What a mutant is: a planted fault, and where it should show."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from raftflow.replication.raft.rules import Rule

SEEDS_MAX: Final = 40
"""Seeds within which a mutant must be found, unless it says otherwise."""


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """A planted fault."""

    name: str
    about: str
    plant: Any = contextlib.nullcontext
    """Returns a context manager that puts the fault into the code for one run."""
    rule: Rule | None = None
    """A rule that is switched off."""
    family: str | None = None
    """Only seeds of this family of scenarios are run; all of them are part of the normal seeds."""
    seeds_max: int = SEEDS_MAX
