"""Scenarios of the state machine as text files (`tests/scenario.py` has the commands)."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenario import Scenario
from transcripts import read_transcript, transcript_files

DIRECTORY = Path(__file__).parent / "transcripts"


@pytest.mark.parametrize("path", transcript_files(DIRECTORY), ids=lambda path: path.stem)
def test_the_machine_does_as_the_transcript_says(path: Path, *, regenerate_transcripts: bool) -> None:
    transcript = read_transcript(path)
    scenario = Scenario()
    outputs = [scenario.run(command) for command in transcript.commands]
    transcript.check(outputs, regenerate=regenerate_transcripts)
