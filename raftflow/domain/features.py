"""Feature levels: which commands and formats all replicas understand, so that versions can be mixed while upgrading.

The level is replicated state and begins at 1. A program understands every level up to its `LEVEL`. The leader
proposes to raise the cluster's level when every member has reported that it understands a higher one; until then no
replica emits a command that needs it, and `apply` refuses one. A replica that does not understand the cluster's level
stops.

| level | what it brings |
| --- | --- |
| 1 | the first release |
| 2 | the level can be raised; members of the cluster can be changed |
| 3 | backup attempts, usage, moved work, quarantine, drain deadlines, cache, kinds, exclusive tasks, max_parallel |
| 4 | large workflows come in pieces |
| 5 | backup attempts where a task allows them; faults of agents that cost a task nothing; drains that last; births; |
|   | large inputs of attempts are fetched in pieces; output that was cut says where |

A new command or format: raise `LEVEL`, add a line above, and for a command one in `NEEDS`. A new field of a workflow
or a task goes into `_spec_level`: an older replica cannot even read an entry that holds it.
"""

from __future__ import annotations

from typing import Final

from raftflow.domain import commands as c
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec

LEVEL_FIRST: Final = 1
LEVEL: Final = 5
"""The highest level that this program understands."""

MEMBERS_LEVEL: Final = 2
"""The level from which on the log may hold changes of the members."""

ONLINE_LEVEL: Final = 3
"""The level from which on running work is watched and adjusted, results are cached and kinds of tasks learnt."""

PIECES_LEVEL: Final = 4
"""The level from which on large workflows come in pieces."""

FAULTS_LEVEL: Final = 5
"""The level from which on backup attempts are opt-in, and faults of agents are told apart from those of tasks."""

BIRTHS_LEVEL: Final = 5
"""The level from which on a replica tells the others whether it is fresh (`replication/members/births.py`)."""

INPUTS_LEVEL: Final = 5
"""The level from which on every replica serves the inputs of attempts in pieces, and agents fetch them."""

LOGS_LEVEL: Final = 5
"""The level from which on agents tell where a piece of output begins, for what is not kept may lie before it."""

NEEDS: Final[dict[type[c.Command], int]] = {
    c.DrainAgent: ONLINE_LEVEL,
    c.CommitBackups: ONLINE_LEVEL,
    c.ReportEnds: ONLINE_LEVEL,
    c.OfferEnds: ONLINE_LEVEL,
    c.RecallAttempts: ONLINE_LEVEL,
    c.ClearCache: ONLINE_LEVEL,
    c.BeginWorkflow: PIECES_LEVEL,
    c.AddTasks: PIECES_LEVEL,
    c.FinishWorkflow: PIECES_LEVEL,
    c.DropUploads: PIECES_LEVEL,
    c.JoinAgent: FAULTS_LEVEL,
    c.ForgetAgent: FAULTS_LEVEL,
}
"""The level that a command needs; those of the first release are not listed."""

FAULTS_OUTCOMES: Final = (AttemptOutcome.AGENT_FAULT,)
"""Ends of attempts that replicas below level 5 cannot read."""

ONLINE_OUTCOMES: Final = (AttemptOutcome.OUTGROWN, AttemptOutcome.SUPERSEDED)
"""Ends of attempts that an older replica cannot read."""


def level_of(command: c.Command) -> int:
    """Return the level that the cluster must be on for this command: that of its kind, and of what it holds."""
    needed = NEEDS.get(type(command), LEVEL_FIRST)
    if isinstance(command, c.SubmitWorkflow):
        needed = max(needed, _spec_level(command.spec))
    elif isinstance(command, c.AddTasks):
        if any(profile.backup for profile in command.profiles):
            needed = FAULTS_LEVEL
    elif isinstance(command, c.ReportAttempts):
        needed = max(needed, _ends_level(command))
    elif isinstance(command, c.RemoveAgent) and command.mass:
        needed = FAULTS_LEVEL
    return needed


def _ends_level(command: c.ReportAttempts) -> int:
    outcomes = {end.outcome for end in command.ends}
    if not outcomes.isdisjoint(FAULTS_OUTCOMES):
        return FAULTS_LEVEL
    return LEVEL_FIRST if outcomes.isdisjoint(ONLINE_OUTCOMES) else ONLINE_LEVEL


def _spec_level(spec: WorkflowSpec) -> int:
    if any(task.backup for task in spec.tasks):
        return FAULTS_LEVEL
    if spec.max_parallel is not None or any(map(_is_online, spec.tasks)):
        return ONLINE_LEVEL
    return LEVEL_FIRST


def _is_online(task: TaskSpec) -> bool:
    return bool(task.kind) or task.cache is not None or task.exclusive or task.memory_max_mib is not None


class FeatureLevelError(Exception):
    """The cluster is on a feature level that this program does not understand. Says what to do."""

    def __init__(self, level: int, understood: int) -> None:
        super().__init__(
            f"the cluster is on feature level {level}, but this version of raftflow understands levels up to "
            f"{understood}. Start the version that the other replicas run, or a newer one; the data is kept."
        )
