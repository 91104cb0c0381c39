#!/usr/bin/env python3
"""No two modules import each other, directly or around a corner; imports inside functions count too."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import grimp
from sources import explain_if_asked, report


def cycles(package: str) -> Iterator[list[str]]:
    """Yield the modules of each cycle: Tarjan's strongly connected components with more than one member."""
    graph = grimp.build_graph(package, cache_dir=None)
    imports = {module: sorted(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10 * len(imports)))

    def visit(module: str) -> Iterator[list[str]]:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for imported in imports[module]:
            if imported not in index:
                yield from visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], index[imported])
        if lowest[module] == index[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                yield sorted(component)

    for module in imports:
        if module not in index:
            yield from visit(module)


def faults(package: str) -> Iterator[str]:
    """Yield each cycle between modules of a package."""
    for cycle in cycles(package):
        yield f"modules import each other: {', '.join(cycle)}"


if __name__ == "__main__":
    explain_if_asked(__doc__)
    sys.exit(report(faults("raftflow")))
