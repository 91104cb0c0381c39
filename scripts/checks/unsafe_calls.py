#!/usr/bin/env python3
"""Nothing in raftflow runs what it reads, inflates it, or compares secrets in a way that takes a different time.

What is looked for: modules that make objects or code of bytes (pickle and its like), loaders of YAML that do so,
`eval`, `exec` and `compile`, shells, decompression, XML parsers, and, where others send secrets, `==` with one. The
linter finds some of these, too; here no comment can silence them, and each exception has its reason.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from sources import ROOT, explain_if_asked, listed, parsed, report

MODULES = {
    **dict.fromkeys(
        ("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "copyreg"), "runs what it reads"
    ),
    **dict.fromkeys(("gzip", "bz2", "lzma", "zipfile", "tarfile", "brotli", "zstandard"), "inflates what it reads"),
    **dict.fromkeys(("xml", "lxml", "html5lib", "plistlib"), "reads entities that grow, or other files"),
    **dict.fromkeys(("pty", "commands", "code", "codeop"), "runs what it reads"),
}
CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "runs what it gets"),
    **dict.fromkeys(
        ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "starts a shell"
    ),
    **dict.fromkeys(("zlib.decompress", "zlib.decompressobj"), "inflates what it reads"),
    **{
        f"yaml.{name}{all_}": "makes objects of what it reads"
        for name in ("load", "full_load", "unsafe_load")
        for all_ in ("", "_all")
    },
}
NAMES = {
    f"yaml.{name}": "makes objects of what it reads"
    for name in ("Loader", "FullLoader", "UnsafeLoader", "CLoader", "CFullLoader")
}
SECRETS = frozenset({"token", "secret", "password", "mac", "proof"})
"""How a variable or attribute with a secret is called."""
EQUALS = "=="
JUDGES = ("raftflow/api/", "raftflow/coordinator/", "raftflow/machine/", "raftflow/replication/")
"""Where secrets of others are looked at."""
ALLOWED = {
    ("raftflow/sdk/functions.py", "eval"): "an annotation of the function that the program itself declares",
}
"""What is used even so, by file and name, with the reason."""


def dotted(node: ast.AST) -> str:
    """Return the name that an expression is written as, empty for other expressions."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def is_secret(node: ast.AST) -> bool:
    """Tell whether an operand is called as secrets are."""
    return dotted(node).rpartition(".")[2].lstrip("_") in SECRETS


def found_in(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield names that may not be used in a node, each with the reason."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for module in modules:
            first = module.partition(".")[0]
            if first in MODULES:
                yield first, MODULES[first]
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in CALLS or name in NAMES:
                    yield name, {**CALLS, **NAMES}[name]
    elif isinstance(node, ast.Call):
        name = dotted(node.func)
        if name in CALLS:
            yield name, CALLS[name]
        for keyword in node.keywords:
            if keyword.arg == "shell" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield "shell=", "starts a shell"
    elif isinstance(node, ast.Attribute) and dotted(node) in NAMES:
        yield dotted(node), NAMES[dotted(node)]
    elif isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        is_equality = any(isinstance(operator, ast.Eq | ast.NotEq) for operator in node.ops)
        if (
            is_equality
            and any(map(is_secret, operands))
            and not any(isinstance(each, ast.Constant) for each in operands)
        ):
            yield EQUALS, "compares a secret in a time that depends on it: use hmac.compare_digest"


def faults(root: Path, allowed: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Yield each use that has no exception, and each exception that is not needed."""
    used: set[tuple[str, str]] = set()
    for name in listed(root, "raftflow/*.py"):
        for node in ast.walk(parsed(root, name)):
            for what, why in found_in(node):
                if what == EQUALS and not name.startswith(JUDGES):
                    continue
                if (name, what) in allowed:
                    used.add((name, what))
                else:
                    yield f"{name}:{getattr(node, 'lineno', 0)}: {what} {why}"
    for name, what in allowed.keys() - used:
        yield f"{Path(__file__).name}: {what} in {name} needs no exception"


if __name__ == "__main__":
    explain_if_asked(__doc__)
    sys.exit(report(faults(ROOT, ALLOWED)))
