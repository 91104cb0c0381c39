"""The power goes on all replicas at once, on real file systems. The long form is `scripts/chaos/power_loss`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raftflow.local.faults.disk_images import KINDS, why_impossible

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos" / "power_loss"
ROUNDS = 3


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_a_power_cut_loses_nothing_acknowledged(kind: str, tmp_path: Path) -> None:
    reason = why_impossible(kind)
    if reason is not None:
        pytest.skip(f"NOT CHECKED on {kind}: {reason}")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rounds", str(ROUNDS), "--fs", kind, "--dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, answer
    assert answer["rounds"] == ROUNDS
    assert (answer["lost"], answer["failed_restarts"]) == (0, 0)
    assert min(answer["submissions"], answer["reports"]) >= 3 * ROUNDS
