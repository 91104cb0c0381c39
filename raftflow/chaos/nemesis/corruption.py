"""Flipped bits in the files of replicas: of one, and of several at once, each at a place of its own."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from raftflow.chaos.nemesis import kinds
from raftflow.chaos.nemesis.emptied import bring_back, take_away
from raftflow.chaos.nemesis.kinds import ChaosFault, NoEffectError, NotRecoveredError
from raftflow.chaos.nemesis.restarts import SETTLES_S, kill, starts_or_refuses
from raftflow.chaos.testbed import Testbed
from raftflow.chaos.undo import WriteBytes
from raftflow.local import processes

_QUIET_S: Final = 3.0
_REPAIRED_S: Final = 30.0
_OLDER_SHARE: Final = 0.5
"""Bits are flipped in the older half of a journal: its end, which tells the last promises, stays whole."""


def _used(data: bytes) -> int:
    """Return where the zeros at the end of a file begin: a segment of the journal is filled with them."""
    return len(data.rstrip(b"\0"))


def _flip(bed: Testbed, path: Path, chance: random.Random, share: float = 1.0) -> tuple[int, int]:
    """Flip a bit in the first `share` of what is written in a file; returns the number of the undo and the offset.

    Raises `NoEffectError`.
    """
    data = path.read_bytes()
    used = int(_used(data) * share)
    if used == 0:
        raise NoEffectError(f"{path.name} is empty")
    offset, bit = chance.randrange(used), 1 << chance.randrange(8)
    number = bed.undo.add(WriteBytes(str(path), offset, data[offset : offset + 1]))
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([data[offset] ^ bit]))
    return number, offset


def _flipped_bit(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Flip one bit of a replica's journal or snapshot while it is down. It refuses or repairs itself."""
    (name,) = targets
    directory = bed.cluster.directory / name
    kill(bed, name)
    try:
        files = [*(directory / "journal").iterdir(), *(directory / "snapshots").glob("*.snapshot")]
        path = chance.choice(sorted(path for path in files if path.is_file()))
        number, offset = _flip(bed, path, chance)
        outcome = starts_or_refuses(bed, name)
        if outcome != "refused":
            bed.undo.drop(number)  # it repairs itself, or the bit is not needed: its files are its own again
        try:
            yield {"file": f"{path.parent.name}/{path.name}", "offset": offset, "outcome": outcome}
        finally:
            bed.undo.undo(number)
    finally:
        bed.start_process(name)


# --- several at once


def _choose_two(bed: Testbed, chance: random.Random) -> list[str]:
    """Choose two of all replicas, if all of them run."""
    names = kinds.all_replicas(bed, chance)
    return chance.sample(names, 2) if names else []


def _flipped_at_once(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Flip a bit in the journals of two replicas while all are down.

    If the intact ones are a majority, they rebuild the damaged ones. If they are not, nobody may lead before the
    damaged directories are replaced by whole ones.
    """
    if 2 * len(targets) < len(bed.cluster.replica_names):
        yield from _rebuilt(bed, targets, chance)
    else:
        yield from _not_led(bed, targets, chance)


def _flip_journal(bed: Testbed, name: str, chance: random.Random) -> int:
    """Flip a bit in the oldest segment of a stopped replica's journal; returns the number of the undo."""
    segments = sorted(path for path in (bed.cluster.directory / name / "journal").iterdir() if path.is_file())
    if not segments:
        raise NoEffectError(f"{name} has no journal")
    return _flip(bed, segments[0], chance, _OLDER_SHARE)[0]


def _set_aside(bed: Testbed, name: str) -> int:
    """Return how many damaged files a replica has set aside."""
    return len(list((bed.cluster.directory / name).rglob("*.damaged-*")))


def _under_repair(bed: Testbed, name: str) -> bool:
    return (bed.cluster.directory / name / "repair").exists()


def _rebuilt(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    for name in bed.cluster.replica_names:
        kill(bed, name)
    before = {name: _set_aside(bed, name) for name in targets}
    undo: dict[str, int] = {}
    try:
        for name in targets:
            undo[name] = _flip_journal(bed, name, chance)
        for name in bed.cluster.replica_names:
            bed.start_process(name)
        bed.wait_for(lambda: all(_settled(bed, name) for name in targets), SETTLES_S)
        refused = [name for name in targets if bed.cluster.pid_of(name) is None]
        for name in targets:
            if name not in refused:
                bed.undo.drop(undo.pop(name))  # its files are its own again
        rebuilt = [name for name in targets if _set_aside(bed, name) > before[name]]
        if not rebuilt and not refused:
            raise NoEffectError("the damage does not matter to the replicas")
        if not bed.wait_for(lambda: not any(_under_repair(bed, name) for name in rebuilt), _REPAIRED_S):
            raise NotRecoveredError(f"the repair of {', '.join(rebuilt)} did not end within {_REPAIRED_S:g} s")
        yield {"damaged": targets, "refused": refused, "rebuilt": rebuilt}
    finally:
        for number in undo.values():
            bed.undo.undo(number)
        bed.start_all()


def _settled(bed: Testbed, name: str) -> bool:
    """Tell whether a replica is ready or has ended."""
    status = bed.cluster.status_of(name)
    return bed.cluster.pid_of(name) is None or (status is not None and status.ready)


def _not_led(bed: Testbed, targets: list[str], chance: random.Random) -> Iterator[Mapping[str, Any]]:
    """Let all replicas run on copies of their directories, two of them damaged; the originals come back at the end.

    The intact replica runs on a copy too: it would remember later starts of the others, and call the originals old.
    """
    for name in bed.cluster.replica_names:
        kill(bed, name)
    undo: dict[str, int] = {}
    try:
        for name in bed.cluster.replica_names:
            undo[name] = _use_copy(bed, name)
        for name in targets:
            bed.undo.drop(_flip_journal(bed, name, chance))
        outcomes = {name: _judged_alone(bed, name) for name in targets}
        whole = [name for name, outcome in outcomes.items() if outcome == "whole"]
        if 2 * (len(bed.cluster.replica_names) - len(targets) + len(whole)) > len(bed.cluster.replica_names):
            raise NoEffectError(f"the damage does not matter to {', '.join(whole)}")
        began_s = bed.history.now_s()
        for name in bed.cluster.replica_names:
            bed.start_process(name)
        acknowledged = bed.history.wait_acknowledged(began_s, _QUIET_S)
        yield {"damaged": outcomes, "acknowledged_meanwhile": acknowledged is not None}
    finally:
        for name in bed.cluster.replica_names:
            kill(bed, name)
        for name, number in undo.items():
            bring_back(bed, name, number)
        bed.start_all()


def _use_copy(bed: Testbed, name: str) -> int:
    """Put a copy of a replica's directory in its place; returns the number on the undo list."""
    directory, copy = bed.cluster.directory / name, bed.cluster.directory / f"{name}.copy"
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("lost+found"))
    number = take_away(bed, name)
    shutil.copytree(copy, directory, dirs_exist_ok=True)
    shutil.rmtree(copy)
    return number


def _judged_alone(bed: Testbed, name: str) -> str:
    """Start a replica while all others are down, and stop it: it refuses, begins a repair, or finds itself whole."""
    bed.start_process(name)
    record = bed.process_of(name)

    def judged() -> bool:
        return not processes.alive(record) or _under_repair(bed, name) or bed.cluster.status_of(name) is not None

    bed.wait_for(judged, SETTLES_S)
    outcome = "whole"
    if not processes.alive(record):
        outcome = "refused"
    elif _under_repair(bed, name):
        outcome = "under repair"
    kill(bed, name)
    return outcome


KINDS: Final = (
    ChaosFault(
        "flip-bits",
        kinds.replica,
        _flipped_bit,
        (0.1, 0.4),
        alone=True,
        needs=kinds.CHAOS_CLUSTER,
        about="one bit of a killed replica's journal or snapshot is flipped; it refuses or repairs itself",
    ),
    ChaosFault(
        "flip-bits-of-two",
        _choose_two,
        _flipped_at_once,
        (0.1, 0.5),
        takes_quorum=True,
        alone=True,
        rare=True,
        needs=kinds.CHAOS_CLUSTER,
        about="bits of two journals are flipped; a majority of intact ones rebuilds them, a minority must not lead",
    ),
)
