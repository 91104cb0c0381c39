"""The transcript format itself: parsing, comparison, regeneration."""

from __future__ import annotations

from pathlib import Path

import pytest
from transcripts import TranscriptCommand, read_transcript, transcript_files

TEXT = """\
# A scenario.

# About the first command.
add one size=3 to=a=b
the body
----
added

show
----
ok
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "scenario.txt"
    path.write_text(TEXT)
    return path


def test_commands_have_arguments_options_and_a_body(path: Path) -> None:
    assert read_transcript(path).commands == [
        TranscriptCommand("add", ("one",), {"size": "3", "to": "a=b"}, ("the body",), 4),
        TranscriptCommand("show", line=9),
    ]


def test_equal_outputs_pass_and_leave_the_file_alone(path: Path) -> None:
    read_transcript(path).check(["added\n", ""], regenerate=False)
    read_transcript(path).check(["added", ""], regenerate=True)
    assert path.read_text() == TEXT


def test_other_outputs_fail_with_the_flag_that_regenerates(path: Path) -> None:
    with pytest.raises(AssertionError, match="--regenerate-transcripts"):
        read_transcript(path).check(["removed", ""], regenerate=False)
    assert path.read_text() == TEXT


def test_regenerating_replaces_outputs_and_keeps_comments_and_commands(path: Path) -> None:
    read_transcript(path).check(["removed\nadded", "two"], regenerate=True)
    assert path.read_text() == TEXT.replace("added", "removed\nadded").replace("ok", "two")


def test_a_command_without_output_fails_until_it_is_regenerated(path: Path) -> None:
    path.write_text("show\n")
    with pytest.raises(AssertionError):
        read_transcript(path).check([""], regenerate=False)
    read_transcript(path).check([""], regenerate=True)
    assert path.read_text() == "show\n----\nok\n"


def test_outputs_with_blank_lines_or_without_a_command_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"scenario.txt:9: .* blank line"):
        read_transcript(path).check(["added", "one\n\ntwo"], regenerate=True)
    with pytest.raises(ValueError, match="1 outputs for 2 commands"):
        read_transcript(path).check(["added"], regenerate=True)
    path.write_text("# nothing\n----\nok\n")
    with pytest.raises(ValueError, match=r"scenario.txt:2: an output without a command"):
        read_transcript(path)


def test_a_directory_without_transcripts_is_an_error(path: Path) -> None:
    assert transcript_files(path.parent) == [path]
    with pytest.raises(FileNotFoundError):
        transcript_files(path)
