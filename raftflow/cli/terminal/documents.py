"""Workflow files on the command line: the options that say how one is read, and the reading."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raftflow.cli.terminal.exits import REFUSED, USAGE, CommandFailure, facts_of, faults_as_text

if TYPE_CHECKING:
    from raftflow.domain.contract.views import FieldProblem


def file_options(command: Any) -> Any:
    """Add the options that say how a file is read."""
    options = (
        click.argument("file", type=click.Path(allow_dash=True)),
        click.option(
            "--format",
            "format_name",
            type=click.Choice(["toml", "yaml", "json", "wfformat"]),
            help="What FILE is written in. By default its name says so, else its content.",
        ),
        click.option("--time-scale", type=float, help="WfFormat: multiply run times, such as 0.001."),
        click.option("--memory-scale", type=float, help="WfFormat: multiply memory demands."),
        click.option(
            "--burner",
            type=click.Choice(["python", "command"]),
            help="WfFormat: what replays a task, a call in a kept worker (default) or a program each.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


class DocumentSource:
    """Where a document was read from, with its text, to say on which line a fault is."""

    def __init__(self, name: str, data: bytes, format_name: str) -> None:
        """Keep all three."""
        self.name = name
        self.data = data
        self.format_name = format_name

    @contextmanager
    def lines(self) -> Iterator[None]:
        """Give the faults of `DocumentError`, and of a coordinator's refusal, their lines."""
        from raftflow.formats.documents import DocumentError  # noqa: PLC0415 - lazy, as every heavy import here

        try:
            yield
        except DocumentError as error:
            error.problems = self._placed(error.problems)
            raise
        except Exception as error:
            problem = getattr(error, "problem", None)
            if problem is None or not problem.errors:
                raise
            problem.errors = self._placed(problem.errors)
            told = [f"{problem.title}:", *(f"  {line}" for line in faults_as_text(problem.errors))]
            raise CommandFailure("\n".join(told), REFUSED, **facts_of(error)) from error

    def _placed(self, problems: Sequence[FieldProblem]) -> list[FieldProblem]:
        from raftflow.cli.terminal.located_problem import LocatedProblem  # noqa: PLC0415
        from raftflow.formats.readers.lines import find_lines  # noqa: PLC0415

        text = self.data.decode("utf-8-sig", "replace")
        found = find_lines(text, self.format_name, {problem.path for problem in problems if problem.path})
        return [LocatedProblem(each.path, each.message, line=found.get(each.path)) for each in problems]


def load_file(file: str, format_name: str | None, **scales: Any) -> tuple[dict[str, Any], DocumentSource]:
    """Read a workflow file, or standard input for `-`. Return the document and where it comes from."""
    from raftflow.formats import files  # noqa: PLC0415 - lazy, as every heavy import here
    from raftflow.formats.foreign.wfformat import Conversion  # noqa: PLC0415

    given = {name: value for name, value in scales.items() if value is not None}
    try:
        conversion = Conversion(**given) if given else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if file == "-":
        name, data = "standard input", _standard_input()
    else:
        name, data = file, files.read(Path(file))
        format_name = format_name or files.format_of(Path(file))
    chosen = format_name or files.detected_format(data, name)
    source = DocumentSource(name, data, "json" if chosen == "wfformat" else chosen)
    with source.lines():
        return files.loads(data, chosen, source=name, conversion=conversion), source


def _standard_input() -> bytes:
    from raftflow.formats.files import FILE_BYTES_MAX  # noqa: PLC0415 - as above

    try:
        data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        why = "is closed" if error.errno == errno.EBADF else f"cannot be read: {error.strerror}"
        raise CommandFailure(f"standard input {why}", USAGE) from None
    if len(data) > FILE_BYTES_MAX:
        raise CommandFailure(f"standard input: larger than {FILE_BYTES_MAX // 1024**2} MiB", USAGE)
    return data
