"""What is learnt from attempts that succeeded: how long tasks of a kind take, and what they use.

Means and deviations are moving averages as TCP keeps them of round trips (RFC 6298): a new time moves the mean by an
eighth of its distance, and the deviation by a quarter of that distance's distance. In whole microseconds, so that
every replica gets the same and nothing gets stuck. The table is bounded: kinds that were not learnt for longest go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.limits import DURATION_MS_MAX, KINDS_MAX, RESOURCE_UNITS_MAX
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine.tables.kinds import Learnt

if TYPE_CHECKING:
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Profile, Task

FORGOTTEN = KINDS_MAX // 10
"""Kinds that are dropped together when the table is full, because finding the oldest means looking at all."""


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
    span_ms: int = 0
    """Of tasks with children: from the first start to the end; 0 for none."""


def learn(step: ApplyContext, profile: Profile, duration_ms: int, cpu_ms: int = 0, peak_mib: int = 0) -> None:
    """Learn from a task with this profile that succeeded. `cpu_ms` and `peak_mib` are 0 where they are not known.

    Does nothing for a task without a kind.
    """
    state = step.state
    kind = profile.kind
    if kind is None:
        return
    known = state.kinds_learnt.get(kind)
    if not 0 <= duration_ms <= DURATION_MS_MAX:
        duration_ms = min(max(duration_ms, 0), DURATION_MS_MAX)
    if known is None:
        known = _first(step, kind, duration_ms)
    else:
        # In place, and shifted: this is done for every task that succeeds.
        off_us = duration_ms * 1000 - known.mean_us
        known.mean_us += off_us >> 3
        known.deviation_us += (abs(off_us) - known.deviation_us) >> 2
        known.count += 1
        known.last_ms = step.clock_ms
    # Comparisons, for min() and max() would take as long as all the rest.
    if cpu_ms > 0:
        if cpu_ms > DURATION_MS_MAX:  # noqa: PLR1730 - see above
            cpu_ms = DURATION_MS_MAX
        before = known.cpu_ms
        known.cpu_ms = before + ((cpu_ms - before) >> 3) if before else cpu_ms
    if peak_mib > 0:
        if peak_mib > RESOURCE_UNITS_MAX:  # noqa: PLR1730
            peak_mib = RESOURCE_UNITS_MAX
        before = known.peak_mib
        known.peak_mib = before + ((peak_mib - before) >> 3) if before > peak_mib else peak_mib


def learn_span(step: ApplyContext, profile: Profile, task: Task) -> None:
    """Learn how long a task with children took, which succeeds now: from the first of the attempts that parked.

    The time in which it waited for a signal or a person is not in it: the next task waits for somebody else. Call
    `learn` before.
    """
    known = None if profile.kind is None else step.state.kinds_learnt.get(profile.kind)
    if known is None or task.last is None:
        return
    began_ms = task.last.started_ms
    for earlier in reversed(task.history):
        if earlier.outcome is not AttemptOutcome.PARKED:
            break
        began_ms = earlier.started_ms
    asked_ms = task.parking.asked_ms if task.parking is not None and began_ms != task.last.started_ms else 0
    least_ms = max(step.clock_ms - task.last.started_ms, 1)  # of a long row the first attempts are not remembered
    span_us = min(max(step.clock_ms - began_ms - asked_ms, least_ms), DURATION_MS_MAX) * 1000
    known.span_us = known.span_us + ((span_us - known.span_us) >> 3) if known.span_us else span_us


def _first(step: ApplyContext, kind: str, duration_ms: int) -> Learnt:
    """Begin a kind with its first time."""
    table = step.state.kinds_learnt
    if len(table) >= KINDS_MAX:
        _forget(step.state)
    table[kind] = first = Learnt(kind, 1, duration_ms * 1000, duration_ms * 500, 0, 0, step.clock_ms)
    return first


def _forget(state: State) -> None:
    """Drop the kinds that were not learnt for longest."""
    oldest = sorted(state.kinds_learnt.values(), key=lambda learnt: learnt.last_ms)[:FORGOTTEN]
    for learnt in oldest:
        del state.kinds_learnt[learnt.kind]


def expected_ms(state: State, profile: Profile) -> int | None:
    """Return the expected duration of a task whose document has none: ms, at least 1, None if unknown.

    Of a task with children it is the whole time until its end, also while it was parked: what needs it waits so long.
    """
    known = None if profile.kind is None else state.kinds_learnt.get(profile.kind)
    return None if known is None else _expected_ms(known)


def expected_times(state: State) -> dict[str, int]:
    """Return the default expected duration of the tasks of each known kind, as `expected_ms` does."""
    return {kind: _expected_ms(known) for kind, known in state.kinds_learnt.items()}


def _expected_ms(known: Learnt) -> int:
    return max(1, (known.span_us or known.mean_us) // 1000)


def estimate(state: State, kind: str | None) -> Estimate | None:
    """Return what is known of a kind, None if nothing is."""
    known = None if kind is None else state.kinds_learnt.get(kind)
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
        span_ms=learnt.span_us // 1000,
    )
