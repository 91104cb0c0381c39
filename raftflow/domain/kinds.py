"""Kinds of tasks: which tasks are taken to run alike, so that the time of one tells about the next."""

from __future__ import annotations

import re
from itertools import pairwise

from raftflow.domain.limits import NAME_CHARS_MAX

_SHELL = re.compile(r"(?:ba|da|k|z)?sh|env")
_INTERPRETER = re.compile(r"(?:python|pypy|perl|ruby|node|lua|php|julia|Rscript)[0-9.]*")
_SHELL_CODE = re.compile(r"-[A-Za-z]*c")
_CODE = re.compile(r"-[A-Za-z]*[ce]")
_TAKE_A_VALUE = frozenset({"-W", "-X", "-I"})
_LOOKED_AT_MAX = 20
"""Arguments among which the script is looked for."""


def kind_of(kind: str, python: str | None, command: tuple[str, ...] | None) -> str:
    """Return the kind of a task: the one that it names, else the callable, else the name of the program.

    Behind an interpreter it is the name of the script or module: `python3 /srv/train.py --x` is of the kind
    `train.py`. Code on the command line has no name, so it is of the interpreter's kind.
    """
    return kind or (python or _of_command(command or ("",)))[:NAME_CHARS_MAX]


def _of_command(command: tuple[str, ...]) -> str:
    name = _base(command[0])
    for before, argument in pairwise(command[:_LOOKED_AT_MAX]):
        shell = _SHELL.fullmatch(name) is not None
        if not shell and not _INTERPRETER.fullmatch(name):
            break
        if (_SHELL_CODE if shell else _CODE).fullmatch(argument):
            break
        option = argument.startswith("-") or before in _TAKE_A_VALUE or (name == "env" and "=" in argument)
        if not option:
            name = _base(argument) or name
    return name


def _base(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]
