"""Which programs an agent starts: lists of patterns, for commands, python functions and images of containers.

    *    any characters but / . and :
    **   any characters

The default of each list is `**`, everything. A list says which programs start, not what they do then: a shell or an
interpreter on it runs anything.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Final

from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import AssignedCall, CommandLine, ContainerRun

EVERYTHING: Final = ("**",)

_CHANGES_PROGRAMS: Final = re.compile(r"PATH|LD_.*|PYTHON.*|BASH_ENV|ENV")
"""Variables that put other code in place of a program's own."""


class Patterns:
    """The patterns of one list."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = tuple((_compiled(each), "/" in each or each.startswith("**")) for each in patterns)
        self.is_everything = "**" in patterns

    def match(self, text: str) -> bool:
        """Tell whether one of them matches."""
        return any(pattern.fullmatch(text) for pattern, _ in self._patterns)

    def match_program(self, program: str, path: str) -> bool:
        """Tell whether one of them matches a program: its name if it was found on PATH, or its absolute path.

        `program` is as the task names it. Patterns without a slash are for names.
        """
        is_name = "/" not in program
        return any(
            pattern.fullmatch(path) if for_paths else is_name and pattern.fullmatch(program)
            for pattern, for_paths in self._patterns
        )


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    known = {"*": r"[^/.:]*", "**": r".*"}
    return re.compile("".join(known.get(part, re.escape(part)) for part in parts), re.DOTALL)


class AllowLists:
    """What an agent starts.

    Args:
        commands, callables, images: the patterns of each list.
        search_path: PATH of the agent.
        start_folder: where relative paths of tasks without `cwd` begin; empty for a folder of the attempt's own.
    """

    def __init__(
        self,
        commands: Iterable[str] = EVERYTHING,
        callables: Iterable[str] = EVERYTHING,
        images: Iterable[str] = EVERYTHING,
        *,
        search_path: str = os.defpath,
        start_folder: str = "/",
    ) -> None:
        self._commands = Patterns(tuple(commands))
        self._callables = Patterns(tuple(callables))
        self._images = Patterns(tuple(images))
        self._search_path = search_path
        self._start_folder = start_folder

    def refusal(self, assignment: Assignment) -> str:
        """Return why an attempt is not started, empty if it may."""
        match assignment.program:
            case CommandLine(argv=argv):
                why = (
                    "" if self._commands.is_everything else self._refuse_command(assignment, argv[0] if argv else "")
                )
                return why and f"this agent does not start it: {why} (allow_commands)"
            case AssignedCall(function=function):
                why = "" if self._callables.is_everything else self._refuse_call(assignment, function)
                return why and f"this agent does not call it: {why} (allow_callables)"
            case ContainerRun(image=image):
                why = "" if self._images.match(image) else f"the image {image} is not on its list"
                return why and f"this agent does not start it: {why} (allow_images)"

    def _refuse_command(self, assignment: Assignment, program: str) -> str:
        if name := _changing_variable(assignment.env):
            return f"the task sets {name}, which can put other code in place of a program on its list"
        if "/" in program:
            path = os.path.join(self._start_folder, assignment.cwd or "", program)  # noqa: PTH118 - a text
            if not os.path.isabs(path):  # noqa: PTH117 - a text
                return f"{program} would be in a folder of the attempt's own"
        else:
            path = shutil.which(program, path=self._search_path) or ""
            if not os.path.isabs(path):  # noqa: PTH117 - a text
                return f"{program} is not in an absolute folder of the agent's PATH"
        if ".." in path.split("/"):  # where that leads depends on links, which a task can make
            return f"{path} has .. in it"
        path = os.path.normpath(path)
        return "" if self._commands.match_program(program, path) else f"{path} is not on its list"

    def _refuse_call(self, assignment: Assignment, function: str) -> str:
        if not self._callables.match(function):
            return f"{function} is not on its list"
        if assignment.code:
            return f"the task brings a code bundle, which can put another {function} in place"
        if assignment.cwd is not None:
            return f"the task has a cwd, in which another {function} can be found"
        if name := _changing_variable(assignment.env):
            return f"the task sets {name}, which can put other code in place of {function}"
        return ""


def _changing_variable(env: Mapping[str, str]) -> str:
    return next((name for name in env if _CHANGES_PROGRAMS.fullmatch(name)), "")
