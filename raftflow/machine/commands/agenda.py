"""The agenda: doing the next piece of what earlier commands have begun. The rules are in `rules/agenda.py`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from raftflow.domain.replies import Done
from raftflow.machine.commands.agents import continue_removal
from raftflow.machine.commands.children import continue_children
from raftflow.machine.commands.workflows import continue_revival
from raftflow.machine.rules.agenda import end_job
from raftflow.machine.rules.cache import continue_needs
from raftflow.machine.rules.stopping import continue_downstream, continue_requeue, continue_stop
from raftflow.machine.tables.agenda import JobKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.commands import ContinueAgenda
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agenda import AgendaJob
    from raftflow.machine.tables.workflows import Workflow

_PIECES: dict[JobKind, Callable[[ApplyContext, Workflow, AgendaJob], bool]] = {
    JobKind.STOP: continue_stop,
    JobKind.REVIVE: continue_revival,
    JobKind.MEET_NEEDS: continue_needs,
    JobKind.CANCEL_DOWNSTREAM: continue_downstream,
    JobKind.REQUEUE: continue_requeue,
    JobKind.CANCEL_CHILDREN: continue_children,
}
"""For each kind of job of a workflow: what does its next piece, and tells whether that was the last."""


def continue_agenda(step: ApplyContext, command: ContinueAgenda) -> Done:  # noqa: ARG001 - the state says what is next
    """Do the next piece. An empty agenda is not an error: a leader may propose one piece too many."""
    step.budget = step.limits.piece_max
    changed = bool(len(step.state.agenda))
    _work(step)
    return Done(changed=changed)


def work_off(step: ApplyContext) -> None:
    """Do everything that is on the agenda at once, where no replica serves the state yet."""
    step.budget = sys.maxsize
    _work(step)


def _work(step: ApplyContext) -> None:
    state = step.state
    while step.budget > 0 and (job := state.agenda.first()) is not None:
        if job.kind is JobKind.REMOVE_AGENT:
            if continue_removal(step, state.agents[job.subject], job):
                state.agenda.remove(job)
            continue
        workflow = state.workflows[job.subject]
        if _PIECES[job.kind](step, workflow, job):
            end_job(step, workflow, job)
