"""The pages of failure modes (`raftflow/recovery/failures`), as `raftflow help` prints them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import raftflow

FOLDER = Path(raftflow.__file__).parent / "recovery" / "failures"


def page_names() -> list[str]:
    """Return the failure modes that have a page, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.md") if file.stem != "README")


def page_text(name: str) -> str:
    """Return a page."""
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8").rstrip("\n")


def page_titles() -> Iterator[tuple[str, str]]:
    """Yield the name of each page with its title."""
    for name in page_names():
        yield name, page_text(name).partition("\n")[0].removeprefix("# ")
