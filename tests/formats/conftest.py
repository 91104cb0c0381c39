"""Where the example workflows and the published WfFormat instances are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import raftflow.formats

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def examples() -> Path:
    return Path(raftflow.formats.__file__).parent / "examples"


@pytest.fixture
def wfinstances() -> list[Path]:
    """Instances that WfCommons publishes; they do not come with the project."""
    folder = Path(os.environ.get("RAFTFLOW_WFINSTANCES", ROOT.parent / "shared" / "wfinstances"))
    files = sorted(folder.glob("*.json"))
    if not files:
        pytest.skip(f"NOT CHECKED: no WfFormat instances in {folder}; set RAFTFLOW_WFINSTANCES to a folder of them")
    return files
