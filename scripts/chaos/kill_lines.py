"""Lines that tasks write to files outside of the cluster, and what must hold of them.

ran KEY FENCE     an attempt begins to do what the key names
knows KEY VALUE   an attempt was told what came of it: from now on it must not run again, and must not change
"""

from __future__ import annotations

import os
from pathlib import Path


def write(path: str, *words: object) -> None:
    """Append one line at once, so that lines of several processes do not mix."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    os.close(fd)


def read_known(path: Path, faults: list[str]) -> dict[str, str]:
    """Return what the attempts of a task were told, by key, and add to the faults what is wrong with the lines."""
    known: dict[str, str] = {}
    for line in path.read_text().splitlines():
        what, key, told = line.split()
        if what == "ran":
            if key in known:
                faults.append(f"{path.name}: {key} ran again in attempt {told}, and {known[key]} was known")
        elif known.setdefault(key, told) != told:
            faults.append(f"{path.name}: {key} was {known[key]}, and is {told}")
    return known
