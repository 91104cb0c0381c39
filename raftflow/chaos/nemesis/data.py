"""Faults of data directories: an old copy, and kills in the middle of a snapshot."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from raftflow.chaos.failpoints import KILL_PLACES
from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.disks import failpoint
from raftflow.chaos.nemesis.kinds import ChaosFault, NoEffectError
from raftflow.chaos.nemesis.restarts import SETTLES_S, kill, starts_or_refuses
from raftflow.chaos.testbed import Testbed
from raftflow.local import processes

_SNAPSHOT_S: Final = 25.0


def _old_copy(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Put an older copy of a data directory back. The replica repairs itself before it votes."""
    (name,) = targets
    directory, copy = bed.cluster.directory / name, bed.cluster.directory / f"{name}.copy"
    kill(bed, name)
    try:
        shutil.copytree(directory, copy)
        bed.start_process(name)
        bed.cluster.wait_ready()
        written_s = bed.history.now_s()
        if bed.history.wait_acknowledged(written_s, SETTLES_S) is None:
            raise NoEffectError("nothing was written after the copy")
        _sleep(bed, chance.uniform(0.3, 1.5))
        kill(bed, name)
        _replace(directory, copy)
        yield {"outcome": starts_or_refuses(bed, name)}
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        bed.start_process(name)


def _replace(directory: Path, copy: Path) -> None:
    """Replace what is in a directory, which may be the root of a file system."""
    for path in directory.iterdir():
        if path.name != "lost+found":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(copy, directory, dirs_exist_ok=True)


def _sleep(bed: Testbed, seconds: float) -> None:
    bed.wait_for(lambda: False, seconds)


# --- kills at a place of the code


def _killed_at(places: tuple[str, ...]) -> kinds.FaultRun:
    """Return a fault that kills a replica when it reaches a place."""

    def run(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
        (name,) = targets
        place = chance.choice(places)
        record = bed.process_of(name)
        try:
            with failpoint(bed, name, "kill_at", KILL_PLACES[place]):
                if not processes.wait_end(record, _SNAPSHOT_S):
                    raise NoEffectError(f"{name} did not reach {place}")
                yield {"place": place}
        finally:
            bed.start_process(name)

    return run


def _killed_in_installation(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Let a replica fall behind the log of the others, and kill it when a snapshot arrives."""
    del chance
    (name,) = targets
    status = bed.cluster.status_of(name)
    known = 0 if status is None else status.last_index
    kill(bed, name)
    try:
        if not bed.wait_for(lambda: compacted_beyond(bed, known), _SNAPSHOT_S):
            raise NoEffectError("the others did not compact their logs in time")
        with failpoint(bed, name, "kill_at", KILL_PLACES["snapshot-begun"]):
            bed.start_process(name)
            if not processes.wait_end(bed.process_of(name), _SNAPSHOT_S):
                raise NoEffectError("no snapshot arrived")
            yield {"behind_from": known}
    finally:
        bed.start_process(name)


def compacted_beyond(bed: Testbed, index: int) -> bool:
    """Tell whether the leader no longer has log entries that a replica at this index needs."""
    leader = bed.leader(1.0)
    if leader is None:
        return False
    with contextlib.suppress(OSError, ValueError):
        # The log is kept from the older of two snapshots on. Their names begin with their indexes.
        names = sorted(path.name for path in (bed.cluster.directory / leader / "snapshots").glob("*.snapshot"))
        return len(names) >= 2 and int(names[-2].partition("-")[0], 16) > index + 1
    return False


KINDS: Final = (
    ChaosFault(
        "old-copy",
        kinds.replica,
        _old_copy,
        (0.1, 0.5),
        rare=True,
        alone=True,
        needs=kinds.CHAOS_CLUSTER,
        about="an older copy of a replica's data directory is put back; it repairs itself before it votes",
    ),
    ChaosFault(
        "kill-in-snapshot",
        kinds.replica,
        _killed_at(("snapshot-begun", "snapshot-written", "snapshot-renamed")),
        (0.1, 0.5),
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="a replica is killed while it writes a snapshot",
    ),
    ChaosFault(
        "kill-in-compaction",
        kinds.replica,
        _killed_at(("compaction",)),
        (0.1, 0.5),
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="a replica is killed before it removes a segment of its journal",
    ),
    ChaosFault(
        "kill-in-installation",
        kinds.follower,
        _killed_in_installation,
        (0.1, 0.5),
        rare=True,
        alone=True,
        needs=kinds.CHAOS_CLUSTER,
        about="a follower that fell behind is killed when a snapshot arrives",
    ),
)
