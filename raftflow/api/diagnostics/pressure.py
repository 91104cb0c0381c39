"""Pressure stall information of Linux (PSI, Documentation/accounting/psi.rst)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from raftflow.domain.contract.cluster import PressureStall

FOLDER: Final = Path("/proc/pressure")


def pressure_stall(folder: Path = FOLDER) -> PressureStall:
    """Return the shares of the last minute. Old kernels and some containers have none."""
    return PressureStall(
        cpu_some=_share(folder / "cpu", "some"),
        io_full=_share(folder / "io", "full"),
        memory_full=_share(folder / "memory", "full"),
    )


def _share(file: Path, kind: str) -> float | None:
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text(encoding="ascii").splitlines():
            name, *fields = line.split()
            if name == kind:
                return float(dict(field.split("=", 1) for field in fields)["avg60"])
    return None
