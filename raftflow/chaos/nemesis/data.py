"""Faults of data directories: flipped bits, an old copy, wiped disks, and kills in the middle of a snapshot."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from raftflow.chaos.failpoints import KILL_PLACES
from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.disks import failpoint
from raftflow.chaos.nemesis.kinds import ChaosFault, NoEffectError
from raftflow.chaos.testbed import Testbed
from raftflow.chaos.undo import MoveBack, WriteBytes
from raftflow.local import processes
from raftflow.local.cluster_file import LocalClusterError

_SETTLES_S: Final = 20.0
_QUIET_S: Final = 3.0
_SNAPSHOT_S: Final = 25.0


def _kill(bed: Testbed, name: str) -> None:
    bed.cluster.signal(name, signal.SIGKILL)
    bed.cluster.stop(name)


def _starts_or_refuses(bed: Testbed, name: str) -> str:
    """Start a replica and wait until it is ready or has ended; returns which."""
    bed.start_process(name)
    record = bed.process_of(name)

    def settled() -> bool:
        status = bed.cluster.status_of(name)
        return not processes.alive(record) or (status is not None and status.ready)

    if not bed.wait_for(settled, _SETTLES_S):
        return "not ready"
    return "ready" if processes.alive(record) else "refused"


def _used(data: bytes) -> int:
    """Return where the zeros at the end of a file begin: a segment of the journal is filled with them."""
    return len(data.rstrip(b"\0"))


def _flipped_bit(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Flip one bit of a replica's journal or snapshot while it is down. It refuses or repairs itself."""
    (name,) = targets
    directory = bed.cluster.directory / name
    _kill(bed, name)
    try:
        files = [*(directory / "journal").iterdir(), *(directory / "snapshots").glob("*.snapshot")]
        path = chance.choice(sorted(path for path in files if path.is_file()))
        data = path.read_bytes()
        used = _used(data)
        if used == 0:
            raise NoEffectError(f"{path.name} is empty")
        offset, bit = chance.randrange(used), 1 << chance.randrange(8)
        number = bed.undo.add(WriteBytes(str(path), offset, data[offset : offset + 1]))
        flipped = bytes([data[offset] ^ bit])
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(flipped)
        outcome = _starts_or_refuses(bed, name)
        if outcome != "refused":
            bed.undo.drop(number)  # it repairs itself, or the bit is not needed: its files are its own again
        try:
            yield {"file": f"{path.parent.name}/{path.name}", "offset": offset, "outcome": outcome}
        finally:
            bed.undo.undo(number)
    finally:
        bed.start_process(name)


def _old_copy(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Put an older copy of a data directory back. The replica repairs itself before it votes."""
    (name,) = targets
    directory, copy = bed.cluster.directory / name, bed.cluster.directory / f"{name}.copy"
    _kill(bed, name)
    try:
        shutil.copytree(directory, copy)
        bed.start_process(name)
        bed.cluster.wait_ready()
        written_s = bed.history.now_s()
        if bed.history.wait_acknowledged(written_s, _SETTLES_S) is None:
            raise NoEffectError("nothing was written after the copy")
        _sleep(bed, chance.uniform(0.3, 1.5))
        _kill(bed, name)
        _replace(directory, copy)
        yield {"outcome": _starts_or_refuses(bed, name)}
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


def _wiped(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Start replicas on empty directories. They must not vote; the old directories come back afterwards."""
    del chance
    for name in targets:
        _kill(bed, name)
    undo = [_take_away(bed, name) for name in targets]
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
            _kill(bed, name)
        for name, number in zip(targets, undo, strict=True):
            _bring_back(bed, name, number)
        for name in targets:
            bed.start_process(name)


def _take_away(bed: Testbed, name: str) -> int:
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


def _bring_back(bed: Testbed, name: str, number: int) -> None:
    if name in bed.images:
        shutil.rmtree(bed.cluster.directory / name)
        (bed.cluster.directory / name).mkdir()
        bed.images[name].mount()
    bed.undo.undo(number)


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
    _kill(bed, name)
    try:
        if not bed.wait_for(lambda: _compacted_beyond(bed, known), _SNAPSHOT_S):
            raise NoEffectError("the others did not compact their logs in time")
        with failpoint(bed, name, "kill_at", KILL_PLACES["snapshot-begun"]):
            bed.start_process(name)
            if not processes.wait_end(bed.process_of(name), _SNAPSHOT_S):
                raise NoEffectError("no snapshot arrived")
            yield {"behind_from": known}
    finally:
        bed.start_process(name)


def _compacted_beyond(bed: Testbed, index: int) -> bool:
    """Tell whether the leader has no log entries any more that a replica at this index needs."""
    leader = bed.leader(1.0)
    if leader is None:
        return False
    with contextlib.suppress(LocalClusterError, OSError):
        # The log is kept from the older of two snapshots on.
        names = sorted((bed.cluster.directory / leader / "snapshots").glob("*.snapshot"))
        status = bed.cluster.status_of(leader)
        return status is not None and len(names) >= 2 and status.snapshot_index > index + _KEPT_BEHIND
    return False


_KEPT_BEHIND: Final = 250
"""Entries behind the newest snapshot that a leader may still have: those since the snapshot before."""

KINDS: Final = (
    ChaosFault(
        "flip-bits",
        kinds.replica,
        _flipped_bit,
        (0.1, 0.4),
        needs=kinds.CHAOS_CLUSTER,
        about="one bit of a killed replica's journal or snapshot is flipped; it refuses or repairs itself",
    ),
    ChaosFault(
        "old-copy",
        kinds.replica,
        _old_copy,
        (0.1, 0.5),
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="an older copy of a replica's data directory is put back; it repairs itself before it votes",
    ),
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
        needs=kinds.CHAOS_CLUSTER,
        about="a follower that fell behind is killed when a snapshot arrives",
    ),
)
