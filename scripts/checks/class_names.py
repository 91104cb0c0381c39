#!/usr/bin/env python3
"""No two classes of raftflow have the same name, private ones included: one name has one meaning."""

from __future__ import annotations

import ast
import collections
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from sources import ROOT, explain_if_asked, listed, parsed, report

ALLOWED = {
    "Workflow": "the builder of the Python client has the user's word for it, and so has the table of workflows",
}
"""Names of two classes, with the reason."""


def faults(root: Path, allowed: Collection[str]) -> Iterator[str]:
    """Yield each class name that stands for two or more classes, and each exception that is not needed."""
    places: dict[str, list[str]] = collections.defaultdict(list)
    for name in listed(root, "raftflow/*.py"):
        for node in ast.walk(parsed(root, name)):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{name}:{node.lineno}")
    for name, where in places.items():
        if len(where) > 1 and name not in allowed:
            yield f"{where[0]}: class {name} is also in {', '.join(where[1:])}"
    for name in allowed:
        if len(places[name]) < 2:
            yield f"{Path(__file__).name}: {name} needs no exception"


if __name__ == "__main__":
    explain_if_asked(__doc__)
    sys.exit(report(faults(ROOT, ALLOWED)))
