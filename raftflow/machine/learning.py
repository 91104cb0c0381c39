"""What is learnt from attempts that succeeded: how long tasks of a kind take, and what they use.

Means and deviations are moving averages as TCP keeps them of round trips (RFC 6298): a new time moves the mean by an
eighth of its distance, and the deviation by a quarter of that distance's distance. In whole microseconds, so that
every replica gets the same and nothing gets stuck. The table is bounded: kinds that were not learnt for longest go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.features import ONLINE_LEVEL
from raftflow.domain.kinds import kind_of
from raftflow.domain.limits import DURATION_MS_MAX, KINDS_MAX, RESOURCE_UNITS_MAX
from raftflow.machine.state import Learnt

if TYPE_CHECKING:
    from raftflow.machine.state import Profile, State
    from raftflow.machine.step import Step

FORGOTTEN = KINDS_MAX // 10
"""Kinds that go at once when the table is full, since to find the oldest takes a look at all."""


class Estimate(msgspec.Struct, frozen=True):
    """What the next task of a kind is expected to take and to use."""

    kind: str
    count: int
    """Attempts that it is learnt from."""
    mean_ms: int
    deviation_ms: int
    cpu_ms: int
    """CPU time; 0 if no agent has told."""
    peak_mib: int
    """Largest memory of late; 0 if no agent has told."""


def learn(step: Step, profile: Profile, duration_ms: int, cpu_ms: int = 0, peak_mib: int = 0) -> None:
    """Take in that a task with this profile succeeded. `cpu_ms` and `peak_mib` are 0 where they are not known.

    Does nothing below the feature level that brought it.
    """
    state = step.state
    if state.feature_level < ONLINE_LEVEL:
        return
    kind = kind_of_profile(profile)
    table = state.kinds_learnt
    known = table.get(kind)
    us = min(max(duration_ms, 0), DURATION_MS_MAX) * 1000
    cpu_ms = min(max(cpu_ms, 0), DURATION_MS_MAX)
    peak_mib = min(max(peak_mib, 0), RESOURCE_UNITS_MAX)
    if known is None:
        if len(table) >= KINDS_MAX:
            _forget(state)
        table[kind] = Learnt(kind, 1, us, us // 2, cpu_ms, peak_mib, step.clock_ms)
        return
    mean_us = known.mean_us
    off_us = us - mean_us
    deviation_us = known.deviation_us
    table[kind] = Learnt(
        kind,
        known.count + 1,
        mean_us + off_us // 8,
        deviation_us + (abs(off_us) - deviation_us) // 4,
        _moved(known.cpu_ms, cpu_ms) if cpu_ms else known.cpu_ms,
        max(peak_mib, _moved(known.peak_mib, peak_mib)) if peak_mib else known.peak_mib,
        step.clock_ms,
    )


def _moved(average: int, value: int) -> int:
    """Return the average after a further value; the first one is the average."""
    return average + (value - average) // 8 if average else value


def _forget(state: State) -> None:
    """Drop the kinds that were not learnt for longest."""
    oldest = sorted(state.kinds_learnt.values(), key=lambda learnt: learnt.last_ms)[:FORGOTTEN]
    for learnt in oldest:
        del state.kinds_learnt[learnt.kind]


def kind_of_profile(profile: Profile) -> str:
    """Return the kind of the tasks that share a profile."""
    return profile.kind or kind_of("", profile.python, profile.command)


def expected_ms(state: State, profile: Profile) -> int | None:
    """Return how long a task is taken to run that does not say itself: ms, at least 1, None if unknown."""
    known = state.kinds_learnt.get(kind_of_profile(profile)) if state.kinds_learnt else None
    return None if known is None else max(1, known.mean_us // 1000)


def estimate(state: State, kind: str) -> Estimate | None:
    """Return what is known of a kind, None if nothing is."""
    known = state.kinds_learnt.get(kind)
    return None if known is None else estimate_of(known)


def estimate_of(learnt: Learnt) -> Estimate:
    """Return what was learnt in units for use."""
    return Estimate(
        kind=learnt.kind,
        count=learnt.count,
        mean_ms=learnt.mean_us // 1000,
        deviation_ms=learnt.deviation_us // 1000,
        cpu_ms=learnt.cpu_ms,
        peak_mib=learnt.peak_mib,
    )
