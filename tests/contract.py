"""Tools of other makers by which the API is judged; `scripts/contract_tools` brings them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def tools(name: str) -> Path:
    """Return the folder of a tool; without it the test is skipped, with what to do."""
    script = REPOSITORY / "scripts" / "contract_tools"
    where = (
        Path(subprocess.run([script, "--where"], capture_output=True, text=True, check=True).stdout.strip()) / name
    )
    if not where.is_dir():
        pytest.skip(f"NOT CHECKED: {name} is missing; run scripts/contract_tools, which needs the package registries")
    return where


def python_tool(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a module of the Python tools."""
    packages = tools("python") / "packages"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(packages), "PATH": path}
    return subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload,no-any-return]
