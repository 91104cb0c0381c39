"""Transcripts: scenarios as text files, each command followed by what it printed.

    # Comments explain the scenario. They stay when the file is regenerated.
    elect a
    ----
    a becomes leader of term 1

    write a size=100
    any further line before the dashes is the body of the command
    ----
    applied at 3

A blank line ends an output, so outputs hold no blank lines. A command that prints nothing is shown as `ok`.

A runner is a test in three lines: read the file, run every command, check the outputs.

    @pytest.mark.parametrize("path", transcript_files(DIRECTORY), ids=lambda path: path.stem)
    def test_transcript(path: Path, regenerate_transcripts: bool) -> None:
        transcript = read_transcript(path)
        transcript.check([run(command) for command in transcript.commands], regenerate=regenerate_transcripts)

`pytest --regenerate-transcripts PATH` writes what the commands print into the files; review the diff like code. For
a new scenario write the commands alone and regenerate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

SEPARATOR = "----"
NO_OUTPUT = "ok"


@dataclass(frozen=True)
class TranscriptCommand:
    """One command: `name`, positional `arguments`, `options` given as key=value, and the lines of its `body`."""

    name: str
    arguments: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    body: tuple[str, ...] = ()
    line: int = 0
    """Where it stands in the file."""


@dataclass(frozen=True)
class _Block:
    """The lines between two blank ones: comments, then at most one command with what it printed."""

    comments: tuple[str, ...]
    source: tuple[str, ...]
    output: tuple[str, ...] | None
    line: int

    def render(self, output: str | None) -> str:
        lines = [*self.comments, *self.source]
        if output is not None:
            lines += [SEPARATOR, *(output.rstrip("\n").splitlines() or [NO_OUTPUT])]
        return "\n".join(lines)


class Transcript:
    """A scenario and the outputs that are expected."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self._blocks = _parse_blocks(path, text)
        self.commands = [_parse_command(block) for block in self._blocks if block.source]

    def render(self, outputs: list[str]) -> str:
        """Return the text of the file with these outputs, one for each command."""
        if len(outputs) != len(self.commands):
            raise ValueError(f"{self.path}: {len(outputs)} outputs for {len(self.commands)} commands")
        for command, output in zip(self.commands, outputs, strict=True):
            if any(not line.strip() for line in output.rstrip("\n").splitlines()):
                raise ValueError(f"{self.path}:{command.line}: the output of {command.name} has a blank line")
        remaining = iter(outputs)
        return "\n\n".join(block.render(next(remaining) if block.source else None) for block in self._blocks) + "\n"

    def check(self, outputs: list[str], *, regenerate: bool) -> None:
        """Compare the outputs with those of the file, or write them into it."""
        actual = self.render(outputs)
        if regenerate:
            if actual != self.text:
                self.path.write_text(actual)
            return
        hint = f"{self.path.name} differs; if that is meant: pytest --regenerate-transcripts, and review the diff"
        assert actual.splitlines() == self.text.splitlines(), hint


def transcript_files(directory: Path) -> list[Path]:
    """Return the transcripts in a directory, at least one."""
    files = sorted(directory.glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"{directory} holds no transcripts")
    return files


def read_transcript(path: Path) -> Transcript:
    """Read one transcript. Raises `ValueError` with the line if it is malformed."""
    return Transcript(path, path.read_text())


def _parse_blocks(path: Path, text: str) -> list[_Block]:
    blocks: list[_Block] = []
    lines: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.strip():
            lines.append(line.rstrip())
        elif lines:
            blocks.append(_parse_block(path, lines, number - len(lines)))
            lines = []
    return blocks


def _parse_block(path: Path, lines: list[str], first_line: int) -> _Block:
    count = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comments, rest = tuple(lines[:count]), lines[count:]
    if SEPARATOR not in rest:
        return _Block(comments, tuple(rest), None, first_line + count)
    at = rest.index(SEPARATOR)
    if at == 0:
        raise ValueError(f"{path}:{first_line + count}: an output without a command")
    return _Block(comments, tuple(rest[:at]), tuple(rest[at + 1 :]), first_line + count)


def _parse_command(block: _Block) -> TranscriptCommand:
    name, *words = block.source[0].split()
    options = dict(word.split("=", 1) for word in words if "=" in word)
    arguments = tuple(word for word in words if "=" not in word)
    return TranscriptCommand(name, arguments, options, block.source[1:], block.line)
