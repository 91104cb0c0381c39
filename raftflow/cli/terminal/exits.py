"""Exit codes, and which failure ends with which."""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any

import click

from raftflow.cli.terminal.streams import OutputError, tell

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE = 0
FAILED = 1
"""The work itself failed: a workflow that was waited for, a check that found something."""
USAGE = 2
UNREACHABLE = 3
REFUSED = 4
TIMED_OUT = 5
"""Waiting ended before the work did; the work goes on."""
INTERNAL = 70
"""A fault of raftflow itself, as EX_SOFTWARE of sysexits.h."""
INTERRUPTED = 130
OUTPUT_CLOSED = 141
"""What a shell shows for a program that SIGPIPE ended; any standard output that takes no more counts."""

MEANING: dict[int, tuple[str, str]] = {
    DONE: ("done", "The command did what was asked."),
    FAILED: (
        "work-failed",
        "The work failed: the workflow that was waited for did not succeed, or a check found a fault.",
    ),
    USAGE: ("wrong-usage", "The command, an option or a file is wrong. Nothing was changed."),
    UNREACHABLE: ("no-cluster", "No coordinator answered in time, or none of them leads at the moment."),
    REFUSED: ("refused", "The coordinator refused the request, and the message says why."),
    TIMED_OUT: ("timed-out", "The time for waiting is over. The workflow goes on."),
    INTERNAL: ("internal-error", "A fault in raftflow itself. RAFTFLOW_TRACEBACK=1 shows where."),
    INTERRUPTED: ("interrupted", "Ctrl-C (SIGINT). A workflow that was submitted goes on."),
    OUTPUT_CLOSED: (
        "output-closed",
        "Standard output takes no more: the reader is gone, it is closed, or a disk is full.",
    ),
}
"""Exit code -> the word that stands for it in `-o json`, and what it means."""


class CommandFailure(click.ClickException):
    """Ends the command with a message on standard error and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED, **facts: Any) -> None:
        """Keep the code, and facts for programs, which JSON can hold."""
        super().__init__(message)
        setattr(self, "exit_code", exit_code)  # noqa: B010 - click declares it for the class
        self.facts = facts


def translate(error: BaseException) -> CommandFailure | None:
    """Return how a known failure ends the command, or None for an unknown one (which is a bug)."""
    if isinstance(error, CommandFailure):
        return error
    if isinstance(error, OutputError):
        # A reader that has read enough, such as `head`, is not an error.
        return CommandFailure("" if error.errno == errno.EPIPE else str(error), OUTPUT_CLOSED)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        tell(error.format_message())
        return CommandFailure("", USAGE)
    if isinstance(error, click.ClickException):
        return CommandFailure(_usage(error), USAGE)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return CommandFailure("interrupted", INTERRUPTED)
    if isinstance(error, MemoryError):
        return CommandFailure("there is not enough memory for this", FAILED)
    if isinstance(error, OSError):
        return _of_system(error)
    return _of_raftflow(error)


def _of_system(error: OSError) -> CommandFailure | None:
    """Return how an error of the operating system ends the command. An error about a file is a usage error."""
    if error.filename is not None:
        return CommandFailure(f"{error.filename}: {error.strerror}", USAGE)
    return CommandFailure("", OUTPUT_CLOSED) if error.errno == errno.EPIPE else _of_raftflow(error)


def _of_raftflow(error: BaseException) -> CommandFailure | None:
    from raftflow.client import errors  # noqa: PLC0415 - heavy, and already there when its errors are

    codes: list[tuple[type[Exception], int]] = [
        (errors.Unreachable, UNREACHABLE),
        (errors.BadAnswer, UNREACHABLE),
        (errors.Refused, REFUSED),
        (errors.UsageError, USAGE),
        (errors.WaitTimeout, TIMED_OUT),
        (errors.ClientError, FAILED),
    ]
    for kind, code in codes:
        if isinstance(error, kind):
            return CommandFailure(str(error), code, **facts_of(error))
    if isinstance(error, ValueError) and type(error).__module__.startswith("raftflow."):
        # Errors of configuration files, of documents and of their formats: the input of the user is invalid.
        return CommandFailure(_with_problems(error), USAGE, **facts_of(error))
    if type(error).__module__.startswith("raftflow."):
        return CommandFailure(str(error), FAILED)
    return None


def facts_of(error: BaseException) -> dict[str, Any]:
    """Return the facts of an error for programs, besides its text."""
    facts: dict[str, Any] = {}
    problem = getattr(error, "problem", None)
    faults = getattr(error, "problems", None) or (problem.errors if problem is not None else None)
    if problem is not None:
        facts["problem"] = {"type": problem.type, "title": problem.title, "status": problem.status}
    key = getattr(error, "idempotency_key", None)
    if key is not None:
        facts["idempotency_key"] = key
    if faults:
        facts["problems"] = [as_fact(fault) for fault in faults]
    return facts


def as_fact(fault: Any) -> dict[str, Any]:
    """Return a fault of a document for programs."""
    line = getattr(fault, "line", None)
    return {"path": fault.path, "message": fault.message, **({} if line is None else {"line": line})}


def _usage(error: click.ClickException) -> str:
    """Return the message of a usage error, with the command for its help."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    if context is None or not isinstance(error, click.UsageError):
        return message
    return f"{message}\nTry `{context.command_path} --help`."


def _with_problems(error: ValueError) -> str:
    """Return an error's text with each fault of the document on a line of its own."""
    problems = getattr(error, "problems", None)
    if not problems:
        return str(error)
    return "\n".join(["the document is invalid:", *(f"  {line}" for line in faults_as_text(problems))])


def faults_as_text(problems: Sequence[Any], source: str = "") -> list[str]:
    """Return faults of a document, each as a text with its line where that is known.

    `source` is the document's name: it comes first, as compilers have it.
    """
    lines = []
    for problem in problems:
        line = getattr(problem, "line", None)
        if source:
            place = f"{source}: " if line is None else f"{source}:{line}: "
        else:
            place = "" if line is None else f"line {line}: "
        lines.append(f"{place}{problem.path}: {problem.message}" if problem.path else f"{place}{problem.message}")
    return lines


def report(failure: CommandFailure, arguments: Sequence[str]) -> int:
    """Print a failure to standard error and return the exit code.

    With `-o json` or `-o jsonl` it is one JSON object in one line, else a text.
    """
    code = failure.exit_code
    if not failure.message:
        return code
    if wants_json(arguments):
        error = {"kind": MEANING[code][0], "exit_code": code, "message": failure.message, **failure.facts}
        tell(json.dumps({"error": error}, default=str))
    else:
        tell(f"raftflow: {failure.message}")
    return code


def wants_json(arguments: Sequence[str]) -> bool:
    """Tell whether a command line asks for JSON, also one that is wrong elsewhere."""
    for place, argument in enumerate(arguments):
        if argument == "--":
            return False
        if argument in ("-o", "--output"):
            return arguments[place + 1 : place + 2] in (["json"], ["jsonl"])
        if argument in ("-ojson", "-ojsonl", "--output=json", "--output=jsonl", "-o=json", "-o=jsonl"):
            return True
    return False


def unknown(error: BaseException) -> CommandFailure | None:
    """Return how a bug ends the command, or None to show its traceback."""
    import logging  # noqa: PLC0415 - for the rare case

    if os.environ.get("RAFTFLOW_TRACEBACK") or any(
        type(each) is logging.StreamHandler for each in logging.getLogger().handlers
    ):
        return None  # the user asks for it; or it is a replica or an agent, whose log must show it
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" ({os.path.basename(place.tb_frame.f_code.co_filename)}:{place.tb_lineno})"  # noqa: PTH119
    text = " ".join(str(error).split())[:500]
    told = f"a fault in raftflow itself: {type(error).__name__}: {text}{where}"
    return CommandFailure(f"{told}; RAFTFLOW_TRACEBACK=1 shows the traceback", INTERNAL)
