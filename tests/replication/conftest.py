"""Lets the tests of this directory import the helper modules beside them, and keeps the library's clock theirs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pysyncobj.syncobj
import pytest
from pysyncobj.monotonic import monotonic

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def library_clock() -> Iterator[None]:
    """Let each test begin with the library's own clock: it is one per process, and a log replaces it."""
    pysyncobj.syncobj.monotonicTime = monotonic
    yield
    pysyncobj.syncobj.monotonicTime = monotonic
