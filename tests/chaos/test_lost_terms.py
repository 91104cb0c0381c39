"""Faults that disturb a follower, a link or a busy machine cost no term, on real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import raftflow

SCRIPT = Path(raftflow.__file__).parent.parent / "scripts" / "chaos" / "terms"


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("network", ["auto", "proxies"])
def test_no_term_is_lost_while_a_leader_is_well(network: str) -> None:
    argv = [sys.executable, str(SCRIPT), "--network", network, "--busy-minutes", "0.5"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert (done.returncode, set(told["terms"].values()), told["without_effect"]) == (0, {0}, [])
