"""The transcripts of the log (transcripts/*.txt): scenarios to read, with what the cluster does.

`pytest tests/replication/test_transcripts.py --regenerate-transcripts` writes what happens now into the files. The
commands are listed in log_scenario.py.
"""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest
from log_scenario import run_scenario
from transcripts import read_transcript, transcript_files

from raftflow.replication.members import identity

DIRECTORY = Path(__file__).parent / "transcripts"


@pytest.fixture(autouse=True)
def known_disk_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let disk ids count, so that messages which name them are the same in every run."""
    numbers = itertools.count(1)
    monkeypatch.setattr(identity.secrets, "token_hex", lambda _bytes: f"disk{next(numbers):04}")


@pytest.mark.parametrize("path", transcript_files(DIRECTORY), ids=lambda path: path.stem)
def test_transcript(path: Path, *, regenerate_transcripts: bool) -> None:
    transcript = read_transcript(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # coroutines of killed processes that never began
        outputs = run_scenario(transcript.commands)
    transcript.check(outputs, regenerate=regenerate_transcripts)
