# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of the agenda: large commands that are carried out in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.domain.commands import ContinueAgenda
from raftflow.machine.rules import stopping
from raftflow.machine.rules.agenda import begin_job

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.workflows import Workflow
    from raftflow.simulation.mutation.patches.common import Patch


def forget_cursors(machine: Machine) -> None:
    for job in machine.state.agenda:
        job.cursor = job.offset = 0


def hold_if_paused(workflow: Workflow) -> None:
    workflow.held = workflow.paused


def finish_early() -> Patch:
    def uncounted(step: ApplyContext, workflow: Workflow, job: Any) -> None:
        begin_job(step, workflow, job)
        workflow.jobs = 0

    return patch.object(stopping, "begin_job", uncounted)


async def leave_last_job(leader: Any) -> None:
    """Leave the last job of an agenda to nobody."""
    while len(leader._machine.tables.agenda) > 1:  # noqa: SLF001 - the fault itself
        command = ContinueAgenda(at_ms=leader._now_ms(), actor=leader._actor)  # noqa: SLF001
        await leader._submitter.propose(command)  # noqa: SLF001
