"""Faults of data directories that were emptied: replicas that forgot everything must not take part."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Final

from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.kinds import ChaosFault, NoEffectError
from raftflow.chaos.nemesis.restarts import SETTLES_S, kill
from raftflow.chaos.testbed import Testbed
from raftflow.chaos.undo import MoveBack

_QUIET_S: Final = 3.0
_EMPTY: Final = "this replica has no data"
"""What a replica logs that starts on an empty directory."""


def _wiped(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Start replicas on empty directories. They must not vote; the old directories come back afterwards."""
    del chance
    for name in targets:
        kill(bed, name)
    undo = [take_away(bed, name) for name in targets]
    try:
        for name in targets:
            bed.start_process(name)
        began_s = bed.history.now_s()
        left = [name for name in bed.cluster.replica_names if name not in targets]
        acknowledged = None
        if 2 * len(left) <= len(bed.cluster.replica_names):
            acknowledged = bed.history.wait_acknowledged(began_s, _QUIET_S)
        running = [name for name in targets if bed.cluster.pid_of(name) is not None]
        yield {"wiped": targets, "acknowledged_meanwhile": acknowledged is not None, "running": running}
    finally:
        for name in targets:
            kill(bed, name)
        for name, number in zip(targets, undo, strict=True):
            bring_back(bed, name, number)
        for name in targets:
            bed.start_process(name)


def take_away(bed: Testbed, name: str) -> int:
    """Put an empty directory in place of a replica's own; returns the number on the undo list."""
    directory = bed.cluster.directory / name
    kept = directory.with_name(f"{name}.kept")
    number = bed.undo.add(MoveBack(str(kept), str(directory)))
    if name in bed.images:
        bed.images[name].unmount()  # what is below the mount point is empty
    else:
        directory.rename(kept)
        directory.mkdir()
    return number


def bring_back(bed: Testbed, name: str, number: int) -> None:
    """Put a replica's own directory back. `number` is that of its undo."""
    if name in bed.images:
        shutil.rmtree(bed.cluster.directory / name)
        (bed.cluster.directory / name).mkdir()
        bed.images[name].mount()
    bed.undo.undo(number)


def _wiped_apart(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Start a majority on empty directories while the others are down. They must not found a new cluster."""
    del chance
    for name in bed.cluster.replica_names:
        kill(bed, name)
    undo = [take_away(bed, name) for name in targets]
    said = {name: bed.log_size(name) for name in targets}
    try:
        for name in targets:
            bed.start_process(name)
        if not bed.wait_for(lambda: all(_EMPTY in bed.log_since(name, said[name]) for name in targets), SETTLES_S):
            raise NoEffectError("the replicas did not start on their empty directories")
        acknowledged = bed.history.wait_acknowledged(bed.history.now_s(), _QUIET_S)
        yield {"wiped": targets, "acknowledged_meanwhile": acknowledged is not None}
    finally:
        for name in targets:
            kill(bed, name)
        for name, number in zip(targets, undo, strict=True):
            bring_back(bed, name, number)
        bed.start_all()


KINDS: Final = (
    ChaosFault(
        "wipe-replica",
        kinds.replica,
        _wiped,
        (0.2, 1.0),
        needs=kinds.CHAOS_CLUSTER,
        about="a replica starts on an empty directory; it must refuse, and gets its directory back",
    ),
    ChaosFault(
        "wipe-majority",
        kinds.majority,
        _wiped,
        (0.1, 0.5),
        takes_quorum=True,
        alone=True,
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="a majority starts on empty directories; nothing may be acknowledged, and they get them back",
    ),
    ChaosFault(
        "wipe-majority-apart",
        kinds.majority,
        _wiped_apart,
        (0.2, 1.0),
        takes_quorum=True,
        alone=True,
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="a majority starts on empty directories while the others are down; nothing may be acknowledged",
    ),
)
