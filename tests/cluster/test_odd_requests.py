"""A short form of `scripts/chaos/odd_requests`: others' fuzzer sends some hundred cases and finds nothing."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from raftflow.domain.contract.identities.grants import GRANTS
from tests.contract import REPOSITORY, tools

CASES = 150
CASES_LONG = 50_000
"""As each role."""
SCRIPT = REPOSITORY / "scripts" / "chaos" / "odd_requests"


def fuzz(*more: str) -> dict[str, Any]:
    """Run the fuzzer; return what it tells. It must not find anything."""
    tools("python")
    done = subprocess.run([SCRIPT, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["findings"] == []
    return told


@pytest.mark.slow
def test_a_fuzzer_finds_no_fault_in_the_api() -> None:
    """As the token of the configuration, and as a role to which half of the operations are closed."""
    told = fuzz("--quick", "--cases", str(CASES), "--roles", "all,submit")
    assert told["roles"].keys() == {"all", "submit"}
    assert min(told["roles"].values()) >= CASES // 2


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("role", GRANTS)
def test_a_fuzzer_finds_no_fault_in_the_api_as_any_role(role: str) -> None:
    told = fuzz("--cases", str(CASES_LONG), "--roles", role)
    assert told["cases"] >= CASES_LONG


def test_a_role_that_nobody_has_is_refused() -> None:
    done = subprocess.run([SCRIPT, "--roles", "all,king"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "unknown roles: king" in done.stderr
