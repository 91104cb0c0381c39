"""The verdict: the checker reads the history in a process of its own, and its answer goes into the report."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from raftflow import helpers

CHECKER: Final = "raftflow.chaos.checker"
_CHECK_S: Final = 1_800.0


class CheckerViolation(msgspec.Struct, kw_only=True):
    """Something that must not happen."""

    kind: str
    text: str
    at: float | None = None
    """Seconds since the start of the run."""


class CheckerAnswer(msgspec.Struct, kw_only=True):
    """What the checker prints."""

    violations: list[CheckerViolation]
    operations: int
    unknown: int


class CheckerFailedError(Exception):
    """The checker gave no verdict."""


def check(history: Path) -> CheckerAnswer:
    """Run the checker on a history. Raises `CheckerFailedError`."""
    argv = helpers.command(CHECKER, str(history), "-o", "json")
    try:
        done = subprocess.run(argv, check=False, capture_output=True, timeout=_CHECK_S, stdin=subprocess.DEVNULL)
        answer = msgspec.json.decode(done.stdout, type=CheckerAnswer)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckerFailedError(f"the checker did not run: {error}") from error
    except msgspec.DecodeError as error:
        words = done.stderr.decode(errors="replace").strip() or str(error)
        raise CheckerFailedError(f"the checker gave no verdict (exit code {done.returncode}): {words}") from error
    if (done.returncode == 0) != (not answer.violations):
        raise CheckerFailedError(f"the checker found {len(answer.violations)} violations and ended {done.returncode}")
    return answer


def recoveries(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return median and maximum by kind."""
    return {
        kind: {"median": round(statistics.median(found), 3), "max": round(max(found), 3)}
        for kind, found in sorted(seconds.items())
        if found
    }


class ChaosReport(msgspec.Struct, kw_only=True):
    """What `raftflow chaos run -o json` prints."""

    seed: int
    faults: dict[str, int]
    acknowledged: int
    tasks: int
    violations: list[dict[str, Any]]
    recovery_s: dict[str, dict[str, float]]
    history: str
    replicas: int
    agents: int
    minutes: float
    pairs: int
    without_effect: dict[str, int]
    impossible: dict[str, str]
    """Kinds that are impossible on this machine, with the reason."""
    operations: int = 0
    unknown: int = 0
    attempts: int = 0
    instances: dict[str, int] = {}
    """How often each recorded workflow was submitted and acknowledged."""
    report: str = ""
    """The page, an HTML file."""
