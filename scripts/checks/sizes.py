#!/usr/bin/env python3
"""Folders and files of raftflow stay small: 14 modules a folder, 500 lines a file, half of all files below 200."""

from __future__ import annotations

import collections
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sources import ROOT, explain_if_asked, listed, report

MODULES_MAX = 14
LINES_MAX = 500
MEDIAN_MAX = 200


def faults(root: Path) -> Iterator[str]:
    """Yield each folder and each file that is too large."""
    folders: collections.Counter[str] = collections.Counter()
    sizes: list[int] = []
    for name in listed(root, "raftflow/*.py"):
        if PurePosixPath(name).name == "__init__.py":
            continue
        folders[str(PurePosixPath(name).parent)] += 1
        lines = len((root / name).read_text(encoding="utf-8").splitlines())
        sizes.append(lines)
        if lines > LINES_MAX:
            yield f"{name}: {lines} lines, at most {LINES_MAX}; split it by concern"
    for folder, modules in folders.items():
        if modules > MODULES_MAX:
            yield f"{folder}: {modules} modules, at most {MODULES_MAX}; make rooms by concern"
    if sizes and (median := statistics.median(sizes)) >= MEDIAN_MAX:
        yield f"raftflow: the median file has {median:.0f} lines, it must have fewer than {MEDIAN_MAX}"


if __name__ == "__main__":
    explain_if_asked(__doc__)
    sys.exit(report(faults(ROOT)))
