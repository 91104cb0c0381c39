"""Exit codes, and which failure ends with which."""

from __future__ import annotations

import click

DONE = 0
FAILED = 1
"""The work itself failed: a workflow that was waited for, a check that found something."""
USAGE = 2
UNREACHABLE = 3
REFUSED = 4
INTERRUPTED = 130


class Failure(click.ClickException):
    """Ends the command with a message on standard error and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        """Keep the code."""
        super().__init__(message)
        setattr(self, "exit_code", exit_code)  # noqa: B010 - click declares it for the class

    def show(self, file: object = None) -> None:
        """Print `raftflow: message` to standard error."""
        del file
        if self.message:
            click.echo(f"raftflow: {self.message}", err=True)


def translate(error: Exception) -> Failure | None:
    """Return how a known failure ends the command, or None for an unknown one (which is a bug)."""
    from raftflow.client import errors  # noqa: PLC0415 - heavy, and already there when its errors are

    codes: list[tuple[type[Exception], int]] = [
        (errors.Unreachable, UNREACHABLE),
        (errors.BadAnswer, UNREACHABLE),
        (errors.Refused, REFUSED),
        (errors.UsageError, USAGE),
        (errors.ClientError, FAILED),
    ]
    for kind, code in codes:
        if isinstance(error, kind):
            return Failure(str(error), code)
    if isinstance(error, OSError) and error.filename is not None:
        return Failure(f"{error.filename}: {error.strerror}", USAGE)
    if isinstance(error, ValueError) and type(error).__module__.startswith("raftflow."):
        # Errors of configuration files, of documents and of their formats: what the user gave is wrong.
        return Failure(_with_problems(error), USAGE)
    if type(error).__module__.startswith("raftflow."):
        return Failure(str(error), FAILED)
    return None


def _with_problems(error: ValueError) -> str:
    """Return an error's text with each fault of the document on a line of its own."""
    problems = getattr(error, "problems", None)
    if not problems:
        return str(error)
    lines = [
        f"  {problem.path}: {problem.message}" if problem.path else f"  {problem.message}" for problem in problems
    ]
    return "\n".join(["the document is not right:", *lines])
