"""Faults of processes: killed, stopped, frozen."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.kinds import ChaosFault, FaultRun, NoEffectError
from raftflow.chaos.testbed import LEASE_MS, Testbed
from raftflow.chaos.undo import RestartMember, ResumeProcesses, signal_tree
from raftflow.local import processes
from raftflow.local.processes import ProcessRecord

_ENDS_S: Final = 20.0
"""Longer than a graceful stop may take."""


def state_of(record: ProcessRecord) -> str:
    """Return the state of a process as the kernel has it: `T` is stopped, empty is gone."""
    try:
        text = Path(f"/proc/{record.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def _restart(bed: Testbed, targets: list[str]) -> None:
    for name in targets:
        bed.start_process(name)


def _killed(signum: signal.Signals, *, tree: bool = False) -> FaultRun:
    """Return a fault that ends processes with a signal and starts them again."""

    def run(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
        del chance
        records = {name: bed.process_of(name) for name in targets}
        undo = [bed.undo.add(RestartMember(str(bed.cluster.directory), name)) for name in targets]
        children = {
            name: signal_tree(record, signum) if tree else _send(record, signum) for name, record in records.items()
        }
        try:
            gone = [name for name, record in records.items() if processes.wait_end(record, _ENDS_S)]
            if len(gone) < len(targets):
                raise NoEffectError(f"only {gone} of {targets} ended")
            yield {"signal": signum.name, "processes": children}
        finally:
            _restart(bed, targets)
            for number in undo:
                bed.undo.drop(number)

    return run


def _send(record: ProcessRecord, signum: signal.Signals) -> list[int]:
    return [record.pid] if processes.send(record, signum) else []


def _paused(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Stop the processes alone, not what they have started."""
    del chance
    records = [bed.process_of(name) for name in targets]
    undo = [bed.undo.add(ResumeProcesses(record)) for record in records]
    try:
        for record in records:
            processes.send(record, signal.SIGSTOP)
        if not bed.wait_for(lambda: all(state_of(record) == "T" for record in records), _ENDS_S):
            raise NoEffectError(f"the processes are {[state_of(record) for record in records]}, not stopped")
        yield {"states": {name: state_of(record) for name, record in zip(targets, records, strict=True)}}
    finally:
        for number in undo:
            bed.undo.undo(number)


def _frozen(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Stop an agent with everything that it has started, as a hypervisor does, for longer than its lease."""
    del chance
    (name,) = targets
    record = bed.process_of(name)
    undo = bed.undo.add(ResumeProcesses(record))
    try:
        pids = signal_tree(record, signal.SIGSTOP)
        if not bed.wait_for(lambda: state_of(record) == "T", _ENDS_S):
            raise NoEffectError("the agent is not stopped")
        attempts = bed.loop.call(_freeze(bed, name))
        yield {"processes": len(pids), "attempts": attempts}
    finally:
        bed.undo.undo(undo)
        bed.loop.begin(bed.collector.thaw(name))


async def _freeze(bed: Testbed, name: str) -> int:
    return bed.collector.freeze(name)


_LONGER_THAN_LEASE: Final = (LEASE_MS / 1000 * 1.3, LEASE_MS / 1000 * 1.8)

KINDS: Final = (
    ChaosFault("kill-leader", kinds.leader, _killed(signal.SIGKILL), about="SIGKILL of the leader"),
    ChaosFault("kill-follower", kinds.follower, _killed(signal.SIGKILL), about="SIGKILL of a follower"),
    ChaosFault(
        "kill-majority",
        kinds.majority,
        _killed(signal.SIGKILL),
        (0.2, 1.0),
        takes_quorum=True,
        alone=True,
        about="SIGKILL of a majority of the replicas at once",
    ),
    ChaosFault(
        "kill-all",
        kinds.all_replicas,
        _killed(signal.SIGKILL),
        (0.1, 0.6),
        takes_quorum=True,
        alone=True,
        about="SIGKILL of all replicas at once",
    ),
    ChaosFault(
        "kill-agent",
        kinds.agent,
        _killed(signal.SIGKILL),
        about="SIGKILL of an agent whose tasks run",
    ),
    ChaosFault(
        "kill-agent-machine",
        kinds.agent,
        _killed(signal.SIGKILL, tree=True),
        about="SIGKILL of an agent, its launcher and its tasks",
    ),
    ChaosFault("stop-leader", kinds.leader, _killed(signal.SIGTERM), (0.1, 0.5), about="SIGTERM of the leader"),
    ChaosFault("pause-leader", kinds.leader, _paused, about="SIGSTOP of the leader, then SIGCONT"),
    ChaosFault("pause-follower", kinds.follower, _paused, about="SIGSTOP of a follower, then SIGCONT"),
    ChaosFault(
        "pause-majority",
        kinds.majority,
        _paused,
        takes_quorum=True,
        alone=True,
        about="SIGSTOP of a majority of the replicas, then SIGCONT",
    ),
    ChaosFault(
        "pause-all",
        kinds.all_replicas,
        _paused,
        takes_quorum=True,
        alone=True,
        about="SIGSTOP of all replicas, then SIGCONT",
    ),
    ChaosFault(
        "pause-agent",
        kinds.agent,
        _paused,
        _LONGER_THAN_LEASE,
        about="SIGSTOP of an agent's own process for longer than its lease; its tasks and launcher go on",
    ),
    ChaosFault(
        "freeze-agent",
        kinds.agent,
        _frozen,
        _LONGER_THAN_LEASE,
        about="SIGSTOP of an agent with everything that it has started, for longer than its lease",
    ),
)
