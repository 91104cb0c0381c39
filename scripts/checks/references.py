#!/usr/bin/env python3
"""Every file and every test that pages, docstrings and comments mention exists.

A mention is `path/file.py` or `path/page.md`, or a script. It names a file when it is the end of the file's path. A
name without a folder has to be in the package of the file that mentions it, or lie at the top of raftflow or of the
tree; tests and pages may be anywhere.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sources import ROOT, explain_if_asked, listed, prose, report

MENTION = re.compile(r"(?<![\w/.{}$*<-])((?:[\w.-]+/)*\w[\w-]*\.(?:py|md)|scripts/[\w/]+(?:\.\w+)?)(?![\w*/{])")

TEST = re.compile(r"(?<![\w/])(test_\w+)(?![\w./*{])")

EXAMPLES = {
    "x.py", "jobs.py", "submit.py", "squares.py", "loop.py", "publish.py", "train.py", "fetch.py", "orjson.py",
    "path/file.py", "path/page.md", "peers/NAME_peer.py",
}  # fmt: skip
"""Names that stand for files of users, or for any file."""


def package(name: str) -> str:
    """Return the folder below raftflow, or the first folder, that a file lies in."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[:2]) if parts[0] == "raftflow" and len(parts) > 2 else parts[0] if len(parts) > 1 else ""


def exists(mention: str, mentioned_in: str, files: list[str]) -> bool:
    """Tell whether a mention in a file names a file."""
    while mention.startswith("../"):
        mention = mention.removeprefix("../")
    ends = [name for name in files if name == mention or name.endswith("/" + mention)]
    if "/" in mention or mention.startswith("test_") or mention.endswith(".md"):
        return bool(ends) or any(name.startswith(mention.rstrip("/") + "/") for name in files)
    return any(package(name) in {package(mentioned_in), "raftflow", ""} for name in ends)


def test_names(root: Path) -> set[str]:
    """Return the names of all tests and of their modules."""
    names: set[str] = set()
    for file in listed(root, "tests/*.py"):
        names.add(PurePosixPath(file).stem)
        names.update(re.findall(r"def (test_\w+)", (root / file).read_text(encoding="utf-8")))
    return names


def faults(root: Path) -> Iterator[str]:
    """Yield each mention of a file or a test that does not exist."""
    files = listed(root, "*")
    tests = test_names(root)
    for file in listed(root, "*.md", "raftflow/*.py", "tests/*.py", "scripts/*.py"):
        for line, text in prose(root, file):
            for match in MENTION.finditer(text):
                if match[1] not in EXAMPLES and not exists(match[1], file, files):
                    yield f"{file}:{line + text.count(chr(10), 0, match.start())}: there is no file {match[1]}"
            for match in TEST.finditer(text):
                if match[1] not in tests:
                    yield f"{file}:{line + text.count(chr(10), 0, match.start())}: there is no test {match[1]}"


if __name__ == "__main__":
    explain_if_asked(__doc__)
    sys.exit(report(faults(ROOT)))
