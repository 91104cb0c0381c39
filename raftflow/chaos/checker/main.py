"""The command line of the checker."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raftflow.chaos.checker.history.reader import UnreadableHistoryError
from raftflow.chaos.checker.judgement import BUDGET, BUDGET_PER_OBJECT, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PASSED: Final = 0
VIOLATED: Final = 1
UNREADABLE: Final = 2
UNDECIDED: Final = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a history, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m raftflow.chaos.checker",
        description="Read a recorded history and say which promises the system broke.",
        epilog="Exit codes: 0 no violation; 1 violations; 2 the history cannot be read, or was cut off; "
        "3 no violation was found, but a part could not be decided.",
    )
    parser.add_argument("history", type=Path, help="the history, JSON lines")
    parser.add_argument("-o", dest="output", choices=("json", "text"), default="text", help="form of the report")
    parser.add_argument("--budget", type=_positive, default=BUDGET, help="steps of all searches (%(default)s)")
    parser.add_argument(
        "--budget-per-object", type=_positive, default=BUDGET_PER_OBJECT, help="steps of one search (%(default)s)"
    )
    given = parser.parse_args(arguments)
    try:
        report = judge(given.history, given.budget, given.budget_per_object).report()
    except UnreadableHistoryError as error:
        print(f"{given.history}: {error}", file=sys.stderr)
        return UNREADABLE
    if given.output == "json":
        print(json.dumps(report))
    else:
        print("\n".join(_shown(report)))
    return _exit_code(report)


def _positive(value: str) -> int:
    found = int(value)
    if found <= 0:
        raise argparse.ArgumentTypeError("must be positive")
    return found


def _exit_code(report: dict[str, Any]) -> int:
    if report["violations"]:
        return VIOLATED
    if not report["complete"]:
        return UNREADABLE
    return UNDECIDED if report["undecided_count"] else PASSED


def _shown(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{report['operations']} operations ({report['unknown']} unknown, {report['failed']} failed), "
        f"{report['workflows']} workflows, {report['attempts']} attempts, {report['effects']} effects, "
        f"{sum(report['faults'].values())} faults of {len(report['faults'])} kinds"
    )
    for found in report["violations"]:
        yield f"{found['at']:10.3f} s  {found['kind']}: {found['text']}"
    left = sum(report["violations_by_kind"].values()) - len(report["violations"])
    if left:
        yield f"and {left} more violations of these kinds"
    for undecided in report["undecided"]:
        yield f"undecided: {undecided}"
    if report["cut"]:
        yield f"incomplete: {report['cut']}"
    total = sum(report["violations_by_kind"].values())
    verdict = f"{total} violations" if total else "no violation"
    yield verdict + (f", {report['undecided_count']} undecided" if report["undecided_count"] else "")
