"""The demo's job: a census of the Python standard library's own source.

    split -> parse-0..N -> count-0..N -> merge-0..M -> join -> report

Every function is a task and a plain function: run in a row in one process (`census_directly`) they give the same
report, which is how the demo checks the cluster's answer. Results travel along the edges of the graph; files are
only read, from the installation of the Python that runs the task.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import sys
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raftflow.sdk.context import current

SHARDS = 28
MERGES = 7
TOP = 12
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib2to3"}
"""Installed packages are not the standard library; the tests hold files that are broken on purpose."""

Record = dict[str, Any]


def library_files() -> list[Path]:
    """List the source files of the standard library, sorted."""
    found: list[Path] = []
    for directory, subdirectories, names in os.walk(sysconfig.get_path("stdlib")):
        subdirectories[:] = [name for name in subdirectories if name not in _SKIPPED]
        found.extend(Path(directory, name) for name in names if name.endswith(".py"))
    return sorted(found)


def _listing_digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256("\n".join(str(path) for path in paths).encode()).hexdigest()[:16]


# --- the work itself


def split() -> Record:
    """Cut the list of files into shards of about equal bytes."""
    paths = library_files()
    sizes = [path.stat().st_size for path in paths]
    share = sum(sizes) / SHARDS
    bounds = [0]
    taken = 0
    for number, size in enumerate(sizes):
        taken += size
        if taken >= share * len(bounds) and len(bounds) < SHARDS:
            bounds.append(number + 1)
    bounds += [len(paths)] * (SHARDS + 1 - len(bounds))
    return {
        "python": sys.version.split()[0],
        "files": len(paths),
        "bytes": sum(sizes),
        "listing": _listing_digest(paths),
        "bounds": bounds,
    }


def _shard_paths(plan: Record, shard: int) -> list[Path]:
    paths = library_files()
    if _listing_digest(paths) != plan["listing"]:
        raise RuntimeError("the standard library changed, or another Python runs on this agent")
    return paths[plan["bounds"][shard] : plan["bounds"][shard + 1]]


def parse_shard(plan: Record, shard: int) -> Record:
    """Parse every file of a shard and count kinds of syntax nodes and imported modules."""
    nodes: Counter[str] = Counter()
    imports: Counter[str] = Counter()
    for path in _shard_paths(plan, shard):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes(), filename=str(path))
        for node in ast.walk(tree):
            nodes[type(node).__name__] += 1
            if isinstance(node, ast.Import):
                imports.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imports[node.module.partition(".")[0]] += 1
    return {"nodes": dict(nodes), "imports": dict(imports)}


def count_shard(plan: Record, shard: int, parsed: Record) -> Record:
    """Count lines by kind from the tokens, and put them beside what parsing found."""
    totals: Counter[str] = Counter()
    for path in _shard_paths(plan, shard):
        data = path.read_bytes()
        lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
        code: set[int] = set()
        comments: set[int] = set()
        for token in tokenize.tokenize(io.BytesIO(data).readline):
            if token.type == tokenize.COMMENT:
                comments.add(token.start[0])
            elif token.type not in _LAYOUT:
                code.update(range(token.start[0], token.end[0] + 1))
        totals["files"] += 1
        totals["bytes"] += len(data)
        totals["lines"] += lines
        totals["code"] += len(code)
        totals["comments"] += len(comments - code)
    return {"totals": dict(totals), **parsed}


_LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def merge(records: Iterable[Record]) -> Record:
    """Add records up."""
    sums: dict[str, Counter[str]] = {"totals": Counter(), "nodes": Counter(), "imports": Counter()}
    for record in records:
        for part, counter in sums.items():
            counter.update(record[part])
    return {part: dict(counter) for part, counter in sums.items()}


def summarise(plan: Record, joined: Record) -> Record:
    """Turn the sums into the census."""
    nodes: Counter[str] = Counter(joined["nodes"])
    imports: Counter[str] = Counter(joined["imports"])
    return {
        "python": plan["python"],
        **{key: joined["totals"].get(key, 0) for key in ("files", "bytes", "lines", "code", "comments")},
        "functions": nodes["FunctionDef"] + nodes["AsyncFunctionDef"],
        "classes": nodes["ClassDef"],
        "syntax_nodes": nodes.total(),
        "top_imports": sorted(imports.items(), key=lambda item: (-item[1], item[0]))[:TOP],
    }


# --- the same as tasks: inputs come along the edges


def task_parse(shard: int) -> Record:
    """Parse one shard."""
    return parse_shard(current().inputs["split"], shard)


def task_count(shard: int) -> Record:
    """Count one shard."""
    inputs = current().inputs
    return count_shard(inputs["split"], shard, inputs[f"parse-{shard}"])


def task_merge() -> Record:
    """Add up the records of the needed tasks."""
    return merge(_in_order(current().inputs))


def task_report() -> Record:
    """Write the census from the plan and the joined sums."""
    inputs = current().inputs
    return summarise(inputs["split"], inputs["join"])


def _in_order(inputs: Mapping[str, Any]) -> list[Record]:
    return [inputs[name] for name in sorted(inputs)]


def document() -> Record:
    """Return the workflow document of the census."""
    here = "raftflow.demo.census"
    tasks: list[Record] = [{"id": "split", "python": f"{here}:split", "expected": "100ms"}]
    for shard in range(SHARDS):
        tasks.append({
            "id": f"parse-{shard}", "needs": ["split"], "python": f"{here}:task_parse", "args": [shard],
            "expected": "250ms",
        })  # fmt: skip
        tasks.append({
            "id": f"count-{shard}", "needs": ["split", f"parse-{shard}"], "python": f"{here}:task_count",
            "args": [shard], "expected": "350ms",
        })  # fmt: skip
    width = SHARDS // MERGES
    for number in range(MERGES):
        needs = [f"count-{shard}" for shard in range(number * width, (number + 1) * width)]
        tasks.append({"id": f"merge-{number}", "needs": needs, "python": f"{here}:task_merge", "expected": "10ms"})
    merges = [f"merge-{number}" for number in range(MERGES)]
    tasks.append({"id": "join", "needs": merges, "python": f"{here}:task_merge", "expected": "10ms"})
    tasks.append({"id": "report", "needs": ["split", "join"], "python": f"{here}:task_report", "expected": "10ms"})
    return {"name": "standard-library-census", "defaults": {"retries": 2}, "tasks": tasks}


def census_directly() -> Record:
    """Compute the census in this process, without any cluster."""
    plan = split()
    shards = [count_shard(plan, shard, parse_shard(plan, shard)) for shard in range(SHARDS)]
    return summarise(plan, merge(shards))
