"""Other packages read the machine's tables through rows (`Machine.tables`), never `Machine.state`."""

from __future__ import annotations

import re
from pathlib import Path

import raftflow
from raftflow.domain import commands as c
from raftflow.machine.read.requests import fingerprint_of

ROOT = Path(raftflow.__file__).parent
READS_STATE = re.compile(r"machine\.state\b")
ALLOWED = ("machine", "simulation/mutation")
"""The machine itself, and planted faults, which change the tables on purpose."""


def test_nobody_outside_reads_the_state_of_the_machine() -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.rglob("*.py"))
        if not str(path.relative_to(ROOT)).startswith(ALLOWED) and READS_STATE.search(path.read_text())
    ]
    assert found == []


def test_rows_are_the_records_of_the_tables(drive) -> None:
    """Nothing is copied: a row follows what is applied."""
    drive.register()
    row = drive.machine.tables.agents["a1"]
    assert row is drive.machine.state.agents["a1"] and not row.live
    drive.submit()
    drive.place(0)
    assert list(row.live) == [1] and not row.live[1][1].last.ordered
    drive.control("cancel")
    assert row.live[1][1].last.ordered


def test_a_repeated_request_is_recognised_by_its_content() -> None:
    def control(at_ms: int, action: str) -> c.ControlWorkflow:
        return c.ControlWorkflow(at_ms=at_ms, actor="client:x", request_id="r", workflow_id="w", action=action)

    assert fingerprint_of(control(1, "pause")) == fingerprint_of(control(2, "pause"))
    assert fingerprint_of(control(1, "pause")) != fingerprint_of(control(1, "resume"))
