"""Workflow files on the command line: the options that say how one is read, and the reading."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import click

from raftflow.cli.exits import USAGE, Failure


def file_options(command: Any) -> Any:
    """Add the options that say how a file is read."""
    options = (
        click.argument("file"),
        click.option("--format", "format_name", type=click.Choice(["toml", "yaml", "json", "wfformat"])),
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


def load_file(file: str, format_name: str | None, **scales: Any) -> dict[str, Any]:
    """Read a workflow file, or standard input for `-`."""
    from raftflow.formats.files import load, loads  # noqa: PLC0415 - lazy, as every heavy import here
    from raftflow.formats.wfformat import Conversion  # noqa: PLC0415

    given = {name: value for name, value in scales.items() if value is not None}
    try:
        conversion = Conversion(**given) if given else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if file != "-":
        return load(Path(file), format_name, conversion)
    if format_name is None:
        raise click.UsageError("standard input has no name to tell its format by: say --format")
    return loads(_standard_input(), format_name, source="standard input", conversion=conversion)


def _standard_input() -> bytes:
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        why = "is closed" if error.errno == errno.EBADF else f"cannot be read: {error.strerror}"
        raise Failure(f"standard input {why}", USAGE) from None
