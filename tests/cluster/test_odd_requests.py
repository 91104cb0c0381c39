"""A short form of `scripts/chaos/odd_requests`: others' fuzzer sends some hundred cases and finds nothing."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.contract import REPOSITORY, tools

CASES = 150


@pytest.mark.slow
def test_a_fuzzer_finds_no_fault_in_the_api() -> None:
    tools("python")
    script = REPOSITORY / "scripts" / "chaos" / "odd_requests"
    done = subprocess.run([script, "--quick", "--cases", str(CASES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert told["cases"] >= CASES
    assert told["findings"] == []
