"""What tests of several packages share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job in the background of a script ignores it, and its children, the programs under test, would do so too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop("COLUMNS", None)  # would set the width of every table
sys.path.append(str(Path(__file__).parent))  # for transcripts.py, which several directories import


_SAFE_PATH = "PYTHONSAFEPATH" in os.environ


def pytest_runtest_teardown() -> None:
    """Campaigns leave this variable to their child processes; programs of later tests find modules beside them."""
    if not _SAFE_PATH:
        os.environ.pop("PYTHONSAFEPATH", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-transcripts",
        action="store_true",
        help="write what the commands of transcripts print into their files (tests/transcripts.py)",
    )


@pytest.fixture
def regenerate_transcripts(request: pytest.FixtureRequest) -> bool:
    """Whether transcripts are rewritten rather than compared."""
    return bool(request.config.getoption("--regenerate-transcripts"))


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a small disk of a size such as 256k."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        if os.geteuid() != 0:
            pytest.skip("only root can mount a disk of its own")
        path = tmp_path / f"disk{len(mounted) or ''}"
        path.mkdir(mode=0o700)
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", path], check=False
        ).returncode:
            pytest.skip("no disk can be mounted here")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)
