"""What must hold when a run has come to rest: equal replicas, a replay of the log, and all that was acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.features import NEXT_LEVEL
from raftflow.machine.machine import Machine
from raftflow.simulation.checkers.reads import answer, is_torn
from raftflow.simulation.world.replica_builder import STEP_LIMITS

if TYPE_CHECKING:
    from raftflow.simulation.checkers.history import RunHistory
    from raftflow.simulation.checkers.reads import Read
    from raftflow.simulation.world.host import SimHost


def check_acknowledged(history: RunHistory, hosts: list[SimHost]) -> None:
    """Look whether what was acknowledged is there, with the reply that was given."""
    for host in hosts:
        if host.replica is None:
            continue
        requests = host.replica.machine.tables.requests
        lost = [
            request_id
            for request_id, reply in history.acknowledged.items()
            if (known := requests.get(request_id)) is None or known.reply != reply
        ]
        if lost:
            history.violation("lost", f"{host.name} lacks {len(lost)} acknowledged commands, {lost[0]} for one")


def check_end(history: RunHistory, hosts: list[SimHost]) -> None:
    """Compare the replicas with each other, with a replay of the log, and with what was acknowledged."""
    machines = [(host.name, host.replica.machine) for host in hosts if host.replica is not None]
    check_acknowledged(history, hosts)
    false = [request_id for request_id in history.refused if request_id in history.index_of]
    if false:
        history.violation("refused and applied", f"{len(false)} entries were, {false[0]} for one")
    replay = _replay(history)
    for name, machine in machines:
        if (machine.applied_index, machine.chain) != (replay.applied_index, replay.chain):
            history.violation("diverged", f"{name} is at {machine.applied_index}, the log at {replay.applied_index}")
        history.check_invariants(name, machine)
        if b"".join(machine.snapshot()) != b"".join(replay.snapshot()):
            history.violation("diverged", f"{name} holds another state than the log gives")
        _check_submitted(history, name, machine)
        history.steps.check_end(name, machine)
        history.spending.check_end(name, machine)
        history.children.check_end(name, machine)
        history.outside.check_end(name, machine)
        history.waits.check_end(name, machine)
        open_ = [workflow.id for workflow in machine.tables.workflows.values() if not workflow.finished_ms]
        if open_:
            history.violation("no rest", f"{len(open_)} workflows never finished, {open_[0]} for one")
        if machine.tables.agenda:
            history.violation("no rest", f"{name} has {len(machine.tables.agenda)} jobs on its agenda")
        if machine.tables.uploads:
            history.violation("no rest", f"uploads that nobody will finish: {', '.join(machine.tables.uploads)}")


def _check_submitted(history: RunHistory, name: str, machine: Machine) -> None:
    """What clients were told is there is what they submitted, all of it."""
    for workflow_id, spec in history.submitted.items():
        workflow = machine.tables.workflows.get(workflow_id)
        if workflow_id in history.retired:
            if workflow is not None:
                history.violation("diverged", f"{name} has the workflow {workflow_id}, which was retired")
        elif workflow is None:
            history.violation("lost", f"{name} lacks the workflow {workflow_id}")
        elif [
            (task.id, tuple(workflow.tasks[need].id for need in task.needs))
            for task in workflow.tasks
            if task.origin is None
        ] != [(task.id, task.needs) for task in spec.tasks]:
            history.violation("lost", f"{name} has another graph of {workflow_id} than was submitted")


def _replay(history: RunHistory) -> Machine:
    """Apply the log to a fresh machine, and ask it what the reads were told."""
    machine = Machine(level_max=NEXT_LEVEL, limits=STEP_LIMITS)
    reads = sorted(history.reads, key=lambda read: read.at)
    position = 0
    for index in sorted(history.entries):
        while position < len(reads) and reads[position].at < index:
            _check_read(history, machine, reads[position])
            position += 1
        known = history.entries[index]
        machine.apply(index, known.term, known.entry)
        if machine.chain != known.chain:
            history.violation("diverged", f"{known.by} came to another state at {index} than a replay does")
            break
    for read in reads[position:]:
        _check_read(history, machine, read)
    return machine


def _check_read(history: RunHistory, machine: Machine, read: Read) -> None:
    if is_torn(machine, read.query):
        history.violation("torn read", f"{read.query} at {read.at} saw a part of what a command does")
    if answer(machine, read.query) != read.content:
        history.violation("wrong read", f"{read.query} at {read.at} was told what the log does not say")
