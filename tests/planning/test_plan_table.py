"""The recorded workflows: every one plans under every policy, and the critical-path policy keeps its promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("RAFTFLOW_WFINSTANCES") or ROOT.parent / "shared" / "wfinstances")


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="RAFTFLOW_WFINSTANCES names a folder of WfFormat files")
def test_critical_path_is_within_ten_percent_of_the_bound_for_recorded_workflows():
    """Every plan is checked by the script; it fails if the mean gap passes 10 % or first come is better by 2 %."""
    script = ROOT / "scripts" / "bench" / "plan_table.py"
    done = subprocess.run([sys.executable, script, FOLDER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| mean |") == 2
