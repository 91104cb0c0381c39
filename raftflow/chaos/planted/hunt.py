"""Hunts a planted bug: short chaos runs with its faults, until the checker finds it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import msgspec

from raftflow import helpers
from raftflow.chaos.main import ChaosOptions, run_chaos
from raftflow.chaos.nemesis import catalogue
from raftflow.chaos.nemesis.catalogue import NAMES
from raftflow.chaos.planted.__main__ import VARIABLE
from raftflow.chaos.planted.restored_run import run_restored
from raftflow.chaos.workload import documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raftflow.chaos.nemesis.kinds import ChaosFault
    from raftflow.chaos.planted.bugs import PlantedBug

_PLANTED: Final = "raftflow.chaos.planted"
_PLANTED_INSTEAD_OF: Final = frozenset({("raftflow", "agent"), ("raftflow.chaos.failpoints", "coordinator")})


@dataclass(slots=True)
class HuntResult:
    """What came of a hunt."""

    bug: str
    found: bool
    seconds: float
    runs: int
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[dict[str, Any]] = field(default_factory=list)
    history: str = ""
    operations: int = 0
    """Of the last run."""


@contextlib.contextmanager
def planted(bug: PlantedBug) -> Iterator[None]:
    """Let the replicas and agents that this process starts have the bug."""
    plain = helpers.command

    def command(module: str, *arguments: str) -> list[str]:
        is_planted = (module, *arguments[:1]) in _PLANTED_INSTEAD_OF
        return plain(_PLANTED if is_planted else module, *arguments)

    with patch.object(helpers, "command", command), patch.dict(os.environ, {VARIABLE: bug.name}):
        yield


@contextlib.contextmanager
def _provoked(bug: PlantedBug) -> Iterator[None]:
    """Let runs of this process have the faults and the load that bring the bug to light."""
    with (
        patch.object(catalogue, "FAULTS", tuple(_held(fault, bug) for fault in catalogue.FAULTS)),
        patch.object(documents, "_LONG_SHARE", bug.long_share or documents._LONG_SHARE),  # noqa: SLF001
    ):
        yield


def _held(fault: ChaosFault, bug: PlantedBug) -> ChaosFault:
    """Let a fault stay as long as the bug needs."""
    if bug.hold_s is None or fault.name not in bug.faults:
        return fault
    return dataclasses.replace(fault, hold_s=bug.hold_s)


def hunt_bug(
    bug: PlantedBug, directory: Path, *, minutes: float, run_minutes: float, seed: int, say: Callable[[str], None]
) -> HuntResult:
    """Run until the checker finds a violation of a kind that the bug causes, or the time is over."""
    began_s = time.monotonic()
    result = HuntResult(bug.name, found=False, seconds=0.0, runs=0)
    while not result.found and time.monotonic() - began_s < minutes * 60:
        result.runs += 1
        one = _run_once(bug, directory / f"run{result.runs}", run_minutes, seed + result.runs - 1, say, with_bug=True)
        result.violations = [each for each in one.violations if each["kind"] in bug.kinds][:5]
        result.found = bool(result.violations)
        result.faults, result.history, result.operations = one.faults, one.history, one.operations
    result.seconds = round(time.monotonic() - began_s, 1)
    return result


def run_without(
    bug: PlantedBug, directory: Path, *, run_minutes: float, seed: int, say: Callable[[str], None]
) -> HuntResult:
    """Make one run of a hunt without the bug: whatever is found there is not the bug's."""
    began_s = time.monotonic()
    one = _run_once(bug, directory / "without", run_minutes, seed, say, with_bug=False)
    seconds = round(time.monotonic() - began_s, 1)
    result = HuntResult(bug.name, bool(one.violations), seconds, runs=1, violations=one.violations)
    result.faults, result.history, result.operations = one.faults, one.history, one.operations
    return result


@dataclass(frozen=True, slots=True)
class _OneRun:
    violations: list[dict[str, Any]]
    faults: dict[str, int] = field(default_factory=dict)
    history: str = ""
    operations: int = 0


def _run_once(
    bug: PlantedBug, directory: Path, minutes: float, seed: int, say: Callable[[str], None], *, with_bug: bool
) -> _OneRun:
    if bug.restores:
        with bug.plant() if with_bug else contextlib.nullcontext():  # the cluster is restored by this process
            answer = run_restored(directory, seed, say)
        return _OneRun(msgspec.to_builtins(answer.violations), operations=answer.operations)
    faults = tuple(name for name in bug.faults if name in NAMES)
    options = ChaosOptions(minutes=minutes, seed=seed, faults=faults, directory=directory)
    with _provoked(bug), planted(bug) if with_bug else contextlib.nullcontext():
        report = run_chaos(options, say)
    return _OneRun(report.violations, report.faults, report.history, report.operations)
