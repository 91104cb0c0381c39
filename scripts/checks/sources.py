"""What the checks in this folder share: the files that git knows, the prose of a module, help, printing of faults."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def listed(root: Path, *patterns: str) -> list[str]:
    """Return the files that git knows, or would know, and that match one of the patterns."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    output = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    return sorted(name for name in set(output.split()) if (root / name).is_file())


def parsed(root: Path, name: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse((root / name).read_text(encoding="utf-8"))


def prose(root: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of the docstrings and comments of a module, or of the lines of a page."""
    content = (root / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        yield from enumerate(content.splitlines(), start=1)
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def explain_if_asked(documentation: str | None) -> None:
    """With `--help` print what a check is about, and end."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((documentation or "").strip())
        sys.exit(0)


def report(faults: Iterable[str]) -> int:
    """Print the faults and return the exit code."""
    found = sorted(faults)
    for fault in found:
        print(fault)
    return 1 if found else 0
