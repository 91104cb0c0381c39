"""Faults of disks: slow, full, read-only, failing to sync, and without power."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from raftflow.chaos.failpoints import FailpointFile
from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.kinds import ChaosFault, FaultRun, NoEffectError
from raftflow.chaos.testbed import Testbed
from raftflow.chaos.undo import RemoveFile, WriteBytes
from raftflow.local import processes
from raftflow.local.faults.disk_images import DiskImage

ENDS_S: Final = 20.0
"""A replica whose disk fails ends by itself within this time."""
_BALLAST: Final = "ballast"
_SLOW_SYNC_US: Final = 300_000


@contextlib.contextmanager
def failpoint(bed: Testbed, name: str, field: str, value: int) -> Iterator[FailpointFile]:
    """Switch a failpoint of a replica on, and off at the end."""
    points = bed.points_of(name)
    off = WriteBytes(str(bed.points_path(name)), FailpointFile.offset(field), struct.pack("<q", 0))
    number = bed.undo.add(off)
    points.set(field, value)
    try:
        yield points
    finally:
        bed.undo.undo(number)


def _slow_disk(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    (name,) = targets
    delay_ms = chance.choice([20, 60, 150])
    before = bed.points_of(name).get("syncs_delayed")
    with failpoint(bed, name, "sync_delay_us", delay_ms * 1000) as points:
        if not bed.wait_for(lambda: points.get("syncs_delayed") > before, 5.0):
            raise NoEffectError("nothing was synced")
        yield {"delay_ms": delay_ms}


def _ending(field: str, counter: str, value: int, words: str) -> FaultRun:
    """Return a fault that makes a replica end by itself, with these words in its log; it is started again."""

    def run(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
        del chance
        (name,) = targets
        record = bed.process_of(name)
        before = bed.points_of(name).get(counter)
        said = bed.log_size(name)
        try:
            with failpoint(bed, name, field, value) as points:
                if not bed.wait_for(lambda: points.get(counter) > before, 5.0):
                    raise NoEffectError("nothing was written")
                if not processes.wait_end(record, ENDS_S):
                    raise NoEffectError(f"{name} goes on although its disk failed")
                yield {"log": words in bed.log_since(name, said)}
        finally:
            bed.start_process(name)

    return run


# --- file systems of their own


def _image(bed: Testbed, name: str) -> DiskImage:
    return bed.images[name]


def _remount(bed: Testbed, names: Sequence[str]) -> None:
    """Mount the file systems again, as after a repair, and start the replicas."""
    for name in names:
        bed.cluster.signal(name, signal.SIGKILL)
        bed.cluster.stop(name)
        _image(bed, name).unmount()
        _image(bed, name).mount()
    for name in names:
        bed.start_process(name)


def _read_only(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    del chance
    (name,) = targets
    record = bed.process_of(name)
    try:
        _image(bed, name).make_read_only()
        if not processes.wait_end(record, ENDS_S):
            raise NoEffectError(f"{name} goes on although its disk is read-only")
        yield {"ended": name}
    finally:
        _remount(bed, targets)


def _power_lost(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Cut the power of replicas at one moment."""
    del chance
    try:
        _cut_power(bed, targets)
        yield _prove_dead(bed, targets)
    finally:
        _remount(bed, targets)


def _power_lost_in_sync(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Cut the power of all replicas while their disks are slow, so that much is written and not synced."""
    before = {name: bed.points_of(name).get("syncs_delayed") for name in targets}
    try:
        with contextlib.ExitStack() as slow:
            for name in targets:
                slow.enter_context(failpoint(bed, name, "sync_delay_us", _SLOW_SYNC_US))
            if not bed.wait_for(
                lambda: all(bed.points_of(name).get("syncs_delayed") > before[name] for name in targets), 5.0
            ):
                raise NoEffectError("nothing was synced")
            time.sleep(chance.uniform(0.1, 1.0))
            _cut_power(bed, targets)
        yield _prove_dead(bed, targets)
    finally:
        _remount(bed, targets)


def _cut_power(bed: Testbed, targets: Sequence[str]) -> None:
    """Stop the file systems at one moment: what was not synced is gone. Raises `NoEffectError`."""
    ready = threading.Barrier(len(targets))
    errors: list[OSError] = []

    def cut(name: str) -> None:
        ready.wait()
        try:
            _image(bed, name).shut_down()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=cut, args=(name,)) for name in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise NoEffectError(str(errors[0]))
    for name in targets:
        bed.cluster.signal(name, signal.SIGKILL)
        bed.cluster.stop(name)


def _prove_dead(bed: Testbed, targets: Sequence[str]) -> Mapping[str, Any]:
    """Show that the file systems take nothing any more. Raises `NoEffectError`."""
    alive = [name for name in targets if not _is_dead(_image(bed, name).mountpoint)]
    if alive:
        raise NoEffectError(f"the disks of {', '.join(alive)} still take writes")
    return {"dead": list(targets)}


def _is_dead(directory: Path) -> bool:
    """Tell whether nothing can be written in a file system."""
    try:
        with (directory / _BALLAST).open("wb"):
            return False
    except OSError:
        return True


def fill(directory: Path) -> Path:
    """Take all space of a file system; returns the file that has it."""
    ballast = directory / _BALLAST
    with ballast.open("wb", buffering=0) as file:
        for size in (1024 * 1024, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\xff" * size)
    return ballast


def _full_agent(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Fill the small file system of an agent's work directory."""
    del chance
    (name,) = targets
    directory = bed.cluster.directory / name
    number = bed.undo.add(RemoveFile(str(directory / _BALLAST)))
    try:
        fill(directory)
        left = os.statvfs(directory).f_bavail
        if left > 0:
            raise NoEffectError(f"{left} blocks are left")
        yield {"blocks_left": left}
    finally:
        bed.undo.undo(number)


def _one_with_image(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose one replica that has a file system of its own."""
    found = [name for name in kinds.free(bed, bed.cluster.replica_names) if name in bed.images]
    return [chance.choice(found)] if found else []


def _all_with_images(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose all replicas, if each has a file system of its own."""
    found = kinds.all_replicas(bed, chance)
    return found if all(name in bed.images for name in found) else []


KINDS: Final = (
    ChaosFault(
        "slow-disk",
        kinds.replica,
        _slow_disk,
        needs=kinds.CHAOS_CLUSTER,
        about="every sync of a replica takes 20 to 150 ms longer",
    ),
    ChaosFault(
        "failing-sync",
        kinds.replica,
        _ending("sync_failures", "syncs_failed", 1, "Input/output error"),
        (0.2, 1.0),
        needs=kinds.CHAOS_CLUSTER,
        about="one sync of a replica fails with EIO; it ends and is started again",
    ),
    ChaosFault(
        "full-disk",
        kinds.replica,
        _ending("write_error", "writes_refused", errno.ENOSPC, "No space left"),
        (0.2, 1.0),
        needs=kinds.CHAOS_CLUSTER,
        about="every write of a replica fails with ENOSPC; it ends and is started again with space",
    ),
    ChaosFault(
        "full-disk-agent",
        kinds.agent,
        _full_agent,
        (1.0, 3.0),
        needs="memory-disks",
        about="the file system of an agent's work directory is full",
    ),
    ChaosFault(
        "read-only-disk",
        _one_with_image,
        _read_only,
        (0.2, 1.0),
        needs="images",
        about="the file system of a replica turns read-only; it ends and is started again after a repair",
    ),
    ChaosFault(
        "power-loss",
        _one_with_image,
        _power_lost,
        (0.2, 1.0),
        needs="images",
        about="the file system of a replica stops, nothing more is written; then the process is killed",
    ),
    ChaosFault(
        "power-loss-all",
        _all_with_images,
        _power_lost,
        (0.1, 0.5),
        takes_quorum=True,
        alone=True,
        needs="images",
        about="power loss of all replicas at one moment",
    ),
    ChaosFault(
        "power-loss-in-sync",
        _all_with_images,
        _power_lost_in_sync,
        (0.1, 0.5),
        takes_quorum=True,
        alone=True,
        needs="images",
        about="power loss of all replicas at one moment while every sync takes 300 ms",
    ),
)
