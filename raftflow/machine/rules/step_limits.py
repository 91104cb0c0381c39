"""How much one command does at once."""

from __future__ import annotations

from typing import Final, NamedTuple


class StepLimits(NamedTuple):
    """How much one command does at once. All replicas of a cluster must agree on it: it is a part of the rules.

    A step is about one move of a task (1.5 microseconds on a common machine, its audit record included).
    """

    inline_max: int = 4_000
    """Steps of any other command; what is more goes on the agenda."""
    piece_max: int = 2_000
    """Steps of `ContinueAgenda`."""


ADMIT_STEPS: Final = 6
"""Steps that it takes to admit a cached task."""
ATTEMPT_STEPS: Final = 4
"""Steps that it takes to end an attempt."""
MEET_STEPS: Final = 2
"""Steps that it takes to tell a task that one of its needs has succeeded, and to report that it is ready."""

STEP_LIMITS: Final = StepLimits()
