"""`python -m raftflow.chaos.planted ARGUMENTS` does what raftflow does with them, with a planted bug.

CHAOS_PLANTED names the bug. It works in the directory of a cluster that was made for chaos, and nowhere else.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from raftflow.chaos import failpoints
from raftflow.chaos.making import MARKER
from raftflow.chaos.planted.bugs import BUGS

if TYPE_CHECKING:
    from collections.abc import Sequence

VARIABLE = "CHAOS_PLANTED"


def is_for_chaos(arguments: Sequence[str]) -> bool:
    """Tell whether a file or a directory that is mentioned lies in the directory of a chaos cluster."""
    return any((folder / MARKER).is_file() for each in arguments for folder in Path(each).absolute().parents)


def main() -> None:
    """Plant the bug and run raftflow."""
    named = os.environ.get(VARIABLE, "")
    bug = next((bug for bug in BUGS if bug.name == named), None)
    if bug is None:
        sys.exit(f"{VARIABLE} must name a planted bug ({', '.join(bug.name for bug in BUGS)}), not {named!r}")
    if not is_for_chaos(sys.argv[1:]):
        sys.exit(
            f"bugs are planted in clusters that were made for chaos only: there is no {MARKER} above the arguments"
        )
    with bug.plant():
        if failpoints.VARIABLE in os.environ:
            failpoints.main()
        else:
            sys.argv[0] = "raftflow"
            runpy.run_module("raftflow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
