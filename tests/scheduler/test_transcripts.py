"""Scenarios of the scheduler and the rebalancer as text files (`tests/scenario.py` has the commands)."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenario import Scenario
from transcripts import read_transcript, transcript_files

from raftflow.scheduler.policies import PLACEMENT_RULES, POLICIES

DIRECTORY = Path(__file__).parent / "transcripts"


@pytest.mark.parametrize("path", transcript_files(DIRECTORY), ids=lambda path: path.stem)
def test_the_leader_does_as_the_transcript_says(path: Path, *, regenerate_transcripts: bool) -> None:
    transcript = read_transcript(path)
    scenario = Scenario()
    outputs = [scenario.run(command) for command in transcript.commands]
    transcript.check(outputs, regenerate=regenerate_transcripts)


def test_every_registered_policy_has_a_scenario() -> None:
    commands = read_transcript(DIRECTORY / "policies.txt").commands
    shown = {
        name: {command.options["policy"] for command in commands if command.name == name}
        for name in ("plan", "propose")
    }
    assert shown == {"plan": set(POLICIES), "propose": set(PLACEMENT_RULES)}
