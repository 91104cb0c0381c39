"""All kinds of faults, and which of them are possible on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftflow.chaos.nemesis import corruption, data, disks, emptied, machine, network, operations, processes
from raftflow.chaos.nemesis.kinds import ChaosFault
from raftflow.chaos.testbed import Testbed

FAULTS: Final[tuple[ChaosFault, ...]] = (
    *processes.KINDS,
    *network.KINDS,
    *machine.KINDS,
    *disks.KINDS,
    *data.KINDS,
    *emptied.KINDS,
    *corruption.KINDS,
    *operations.KINDS,
)
NAMES: Final = tuple(fault.name for fault in FAULTS)


def possible_faults(bed: Testbed, wanted: Sequence[str]) -> tuple[list[ChaosFault], dict[str, str]]:
    """Return the kinds that are possible here, of those that are wanted, and the others with the reason."""
    impossible: dict[str, str] = {}
    possible: list[ChaosFault] = []
    for fault in FAULTS:
        if wanted and fault.name not in wanted:
            continue
        reason = bed.why_not(fault.needs)
        if reason is None:
            possible.append(fault)
        else:
            impossible[fault.name] = reason
    return possible, impossible


def needs_disks(wanted: Sequence[str]) -> bool:
    """Tell whether replicas and agents need file systems of their own for the kinds that are wanted."""
    return any(fault.needs in {"images", "memory-disks"} for fault in FAULTS if not wanted or fault.name in wanted)
