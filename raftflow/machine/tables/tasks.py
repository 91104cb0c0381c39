"""Rows of tasks: a task, its attempts, and what tasks run and need.

Rows that exist by the million are structs outside the garbage collector. They hold no reference back to what
holds them (a task names its agent, an agent's table of live attempts holds the tasks), so there are no cycles to
find. There is not much to walk either: tuples and tables of such rows are outside as well. A full collection would
walk long lists and stop the replica meanwhile.

Rows are encoded as they are into snapshots, so a new field goes to the end and gets a default.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from sys import maxsize
from typing import NamedTuple

import msgspec

from raftflow.domain.tasks.children import ParkMode, Positions
from raftflow.domain.tasks.feasibility import Shape
from raftflow.domain.tasks.program import Program, TaskWait
from raftflow.domain.tasks.states import AttemptOutcome, TaskState
from raftflow.domain.values.rates import Rates

ORDER_NONE = 0
ORDER_RELEASE = 1
"""The agent is asked to give the queued attempt back if it has not started."""
ORDER_STOP = 2
"""The agent is told to end the attempt."""
ORDER_MOVE = 3
"""The agent is told to end the running attempt, and the task runs elsewhere at no cost."""


class Attempt(msgspec.Struct, array_like=True, gc=False, eq=False):
    """One try to run a task on one agent. Live until `outcome` is set."""

    number: int
    """From 1, per task."""
    fence: int
    """Grows over all attempts of all tasks."""
    agent: str
    incarnation: int
    assigned_ms: int
    started_ms: int = 0
    """When its demand was allocated; 0 while it waits in the queue."""
    deadline_ms: int = 0
    """When the machine gives up on it; 0 for never."""
    order: int = ORDER_NONE
    finished_ms: int = 0
    outcome: AttemptOutcome | None = None
    exit_code: int | None = None
    error: str = ""
    index: int = 0
    """Place in the log of the decision that made it."""

    @property
    def ordered(self) -> bool:
        """True if its agent was told to stop it, to give it back or to move it."""
        return self.order != ORDER_NONE


class LossHistory(msgspec.Struct, array_like=True, gc=False, eq=False):
    """What only few tasks have: agents lost while they ran, and a second attempt with what came of it."""

    agents_lost: int = 0
    """Agents that were lost while it ran there, since it was submitted or retried (`attempts`)."""
    paired: bool = False
    """Its present attempt has a backup, or had one, or is one: it gets no other (`backups`)."""
    failed: bool = False
    """The attempt beside its present one failed, which counts if that one ends without success."""
    grown: int | None = None
    """The attempt beside its present one outgrew its memory: the profile of the next attempt."""
    agent_faults: int = 0
    """Attempts that were the fault of their agents, since it was submitted or retried (`attempts`)."""


class SpawnOrigin(msgspec.Struct, array_like=True, gc=False, eq=False):
    """Where a child comes from."""

    parent: int
    """Position of its parent, which is smaller than its own."""
    depth: int
    """Number of its ancestors."""
    profile: int
    """The profile with which it was spawned: an equal child of this key is the same child."""
    previous: int
    """Position of the child that its parent spawned before it, -1 for the first."""
    handled: bool = False
    """That it failed or was cancelled is its parent's matter: its parent was open then, or cancelled it."""


class Family(msgspec.Struct, array_like=True, gc=False, eq=False):
    """The children of a task."""

    last: int = -1
    """Position of the newest child: the beginning of the chain `SpawnOrigin.previous`."""
    count: int = 0
    open: int = 0
    """Those that have not ended."""


class Parking(msgspec.Struct, array_like=True, gc=False, eq=False):
    """Open waits of a task, and what it waits for while it is parked."""

    open: tuple[int, ...] = ()
    """Numbers of its open waits, oldest first, whether it is parked or not."""
    waits: tuple[int, ...] = ()
    """Those of them that the parked task waits for: it goes on when one has ended."""
    awaits: Positions = ()
    """Children that the parked task waits for: ranges of positions. Other tasks in them do not count."""
    mode: ParkMode = "all"
    """Whether it waits for all of them, for the first, or for the first that does not succeed."""
    awaited: int = 0
    """Children in these ranges."""
    awaited_open: int = 0
    """Those of them that have not ended."""
    idle_parks: int = 0
    """Times in a row that it parked although nothing that it waited for was open."""
    asked_ms: int = 0
    """How long it was parked for waits, since the first of the attempts in a row that parked."""


class Task(msgspec.Struct, array_like=True, gc=False, eq=False):
    """A task and where it is in its life."""

    id: str
    position: int
    profile: int
    """Index in the workflow's profiles: what it runs and what it wants."""
    needs: tuple[int, ...]
    """Positions of the tasks that it needs."""
    rank: int
    state: TaskState
    open_needs: int
    """Needs that have not succeeded."""
    attempts: int = 0
    """Number of the present or last attempt."""
    failures: int = 0
    """Failed attempts since the workflow was submitted or retried."""
    losses: int = 0
    """Attempts in a row that were taken away without its own fault, or so it seems."""
    due_ms: int = 0
    """End of the back-off while delayed."""
    finished_ms: int = 0
    last: Attempt | None = None
    """The present or last attempt."""
    history: tuple[Attempt, ...] = ()
    """Attempts before `last`, oldest first, bounded."""
    result: bytes = b""
    detail: str = ""
    """Why it failed or was cancelled."""
    backup: Attempt | None = None
    """A second live attempt, which started after `last` and may overtake it. Only a running task has one."""
    claim: str = ""
    """Among equal tasks one runs and the others wait for it: what they are known by (`rules/cache.py`). Empty for a
    task
    that is not cached, whose needs are not met, or that has ended."""
    cached: bool = False
    """It succeeded by the result of an equal task."""
    waits: tuple[int, ...] | None = None
    """Those of its needs that it waits for, where some are redundant (`domain.preparation`); None for all."""
    mishaps: LossHistory | None = None
    """None while there is nothing to tell."""
    origin: SpawnOrigin | None = None
    """None for a task that came with the workflow."""
    family: Family | None = None
    """None for a task without children."""
    parking: Parking | None = None
    """None for a task that waits for nothing of that kind."""

    @property
    def waited(self) -> tuple[int, ...]:
        """Positions of the tasks whose success it waits for."""
        return self.needs if self.waits is None else self.waits


def is_awaited(parking: Parking, position: int) -> bool:
    """Tell whether a position is in the ranges that a parked task waits for."""
    awaits = parking.awaits
    found = bisect_right(awaits, (position, maxsize)) - 1
    return found >= 0 and position <= awaits[found][1]


_SUCCEEDED, _FAILED, _CANCELLED = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED


class ChildCounts(NamedTuple):
    """Children in some ranges of positions."""

    all: int
    open: int
    succeeded: int


def is_over(mode: ParkMode, found: ChildCounts) -> bool:
    """Tell whether what a task waits for has happened."""
    ended = found.all - found.open
    return not found.open or (mode == "any" and ended > 0) or (mode == "succeeded" and ended > found.succeeded)


def count_children(tasks: Sequence[Task], parent: int, ranges: Positions) -> ChildCounts:
    """Count the children of the task at `parent` in these ranges."""
    found = ended = succeeded = 0
    # By identity: one call of `apply` may look at 100,000 tasks, and to look a member of an enum up takes long.
    for first, last in ranges:
        for child in tasks[first : last + 1]:
            origin = child.origin
            if origin is not None and origin.parent == parent:
                found += 1
                state = child.state
                if state is _SUCCEEDED:
                    succeeded += 1
                elif state is _FAILED or state is _CANCELLED:
                    ended += 1
    return ChildCounts(found, found - succeeded - ended, succeeded)


def attempt_of(task: Task, fence: int) -> Attempt:
    """Return the live attempt of a task that an agent's table holds under `fence`."""
    attempt = task.last
    if attempt is None or attempt.fence != fence:
        attempt = task.backup
    assert attempt is not None and attempt.fence == fence  # noqa: S101, PT018 - what is in the table is one of the two
    return attempt


def attempts_of(task: Task) -> list[Attempt]:
    """Return the remembered attempts of a task, live ones included, in order of their numbers."""
    attempts = [*task.history]
    if task.last is not None:
        attempts.append(task.last)
    if task.backup is not None:
        attempts.append(task.backup)
    attempts.sort(key=lambda attempt: attempt.number)
    return attempts


class Profile(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """What a task runs and wants: everything of its spec but id and needs. Equal ones of a workflow are shared."""

    program: Program
    env: dict[str, str]
    cwd: str | None
    shape: Shape
    retries: int
    retry_delay_ms: int
    retry_delay_max_ms: int
    timeout_ms: int | None
    grace_ms: int
    kind: str | None = None
    """By what durations and use are learnt; None if it has none (`domain.tasks.kinds`)."""
    cache: str | None = None
    """Template of the key of its result, empty for the automatic one, None if it is not cached."""
    memory_max_mib: int | None = None
    backup: bool = False
    """A second attempt may start beside one that is late."""
    rates: Rates = ()
    """Units that each attempt takes of rate limits when it is placed."""


def is_admitted(profile: Profile) -> bool:
    """Tell whether a task whose needs are met may do something else than run: reuse a result, or wait (`cache`).

    Until then it is waiting, also without needs.
    """
    return profile.cache is not None or type(profile.program) is TaskWait
