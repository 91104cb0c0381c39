"""Kinds of tasks: which tasks are taken to run alike, so that the time of one tells about the next.

A program is known by its name. That says nothing where the program runs another one or a script, so the kind is then
what it runs:

    /srv/bin/align --x              align
    python3 -u /srv/train.py --x    train.py
    python3 -m pkg.mod              python3 -m pkg.mod
    java -Xmx1g -jar app.jar        app.jar
    env A=1 nice -n 5 align         align
    timeout 10 bash run.sh          run.sh
    sh -c '...', python3 -          none: code on the command line or on standard input has no name
    ssh host align                  none: what is run through another system is not looked for

A task without a kind is neither learnt from nor expected to take what others took.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

_LOOKED_AT_MAX = 40
"""Arguments among which the script is looked for."""
_NESTED_MAX = 5
"""Programs that run one another and are looked through."""


class _Interpreter(NamedTuple):
    """How an interpreter is called."""

    names: str
    """Pattern of its names."""
    code: str = ""
    """Letters of the short options that bring code."""
    valued: str = ""
    """Letters of the short options whose value is the next argument if nothing follows the letter."""
    module: str = ""
    """Letter of the option that brings the name of a module."""
    code_words: tuple[str, ...] = ()
    """Long options that bring code."""
    valued_words: tuple[str, ...] = ()
    """Other options whose value is the next argument."""
    file_words: tuple[str, ...] = ()
    """Options whose value is the file to run."""
    code_first: bool = False
    """Its first argument that is not an option is code, or a word of its own language."""
    clusters: bool = True
    """Short options may be joined behind one dash."""
    plus: bool = False
    """Options may begin with a plus."""


_INTERPRETERS = (
    _Interpreter(
        "(?:ba|da|k|z|a|mk|fi|c|tc)?sh", code="cs", valued="oO", valued_words=("--rcfile", "--init-file"), plus=True
    ),
    _Interpreter("(?:python|pypy)[0-9.]*t?", code="c", valued="WX", module="m"),
    _Interpreter("perl[0-9.]*", code="eE", valued="I"),
    _Interpreter("j?ruby[0-9.]*", code="e", valued="ICrE"),
    _Interpreter(
        "node(?:js)?",
        code="ep",
        valued="rC",
        code_words=("--eval", "--print"),
        valued_words=("--require", "--import", "--loader", "--experimental-loader", "--conditions"),
    ),
    _Interpreter("php[0-9.]*", code="rBREFS", valued="cdz", file_words=("-f", "--file")),
    _Interpreter("lua(?:jit)?[0-9.]*", code="e", valued="l"),
    _Interpreter(
        "julia",
        code="eE",
        valued="LptJCH",
        code_words=("--eval", "--print"),
        valued_words=("--load", "--procs", "--threads", "--sysimage"),
    ),
    _Interpreter("Rscript", code="e"),
    _Interpreter("R", code="e", file_words=("-f", "--file"), code_first=True),
    _Interpreter("[gmn]?awk", valued="Fv", file_words=("-f", "--file"), code_first=True),
    _Interpreter("g?sed", code="e", valued="l", file_words=("-f", "--file"), code_first=True),
    _Interpreter(
        "java",
        valued="p",
        module="m",
        valued_words=("-cp", "-classpath", "--class-path", "--module-path", "--add-modules", "--add-opens"),
        file_words=("-jar",),
        clusters=False,
    ),
)


class _Wrapper(NamedTuple):
    """How a program is called that runs the program which its arguments name."""

    valued: str = ""
    """Letters of the options whose value is the next argument if nothing follows the letter."""
    valued_words: tuple[str, ...] = ()
    """Long options whose value is the next argument."""
    arguments: int = 0
    """How many arguments of its own come before the program."""


_WRAPPERS: Mapping[str, _Wrapper] = MappingProxyType(
    {
        "env": _Wrapper("uC", ("--unset", "--chdir")),
        "nice": _Wrapper("n", ("--adjustment",)),
        "ionice": _Wrapper("cn", ("--class", "--classdata")),
        "chrt": _Wrapper("TPD", arguments=1),
        "taskset": _Wrapper(arguments=1),
        "numactl": _Wrapper("NmpCi"),
        "nohup": _Wrapper(),
        "setsid": _Wrapper(),
        "stdbuf": _Wrapper("ioe"),
        "timeout": _Wrapper("ks", ("--kill-after", "--signal"), arguments=1),
        "time": _Wrapper("fo", ("--format", "--output")),
        "flock": _Wrapper("wE", arguments=1),
        "busybox": _Wrapper(),
    }
)

_NOT_LOOKED_THROUGH = frozenset(
    {
        "ssh", "docker", "podman", "nerdctl", "apptainer", "singularity", "kubectl", "srun", "mpirun", "mpiexec",
        "xargs", "parallel", "npx", "npm", "yarn", "pnpm", "deno", "bun", "uv", "uvx", "pipx", "poetry", "pipenv",
        "conda", "mamba", "micromamba", "make", "just", "ninja", "go", "cargo", "dotnet", "gradle", "mvn", "sudo",
        "doas", "su", "runuser", "chroot", "unshare", "nsenter", "bwrap", "systemd-run", "strace", "valgrind", "perf",
    }
)  # fmt: skip
"""Other programs that run programs."""


def command_kind(command: tuple[str, ...]) -> str:
    """Return the kind of a command (see above), empty if it has none."""
    command = command[:_LOOKED_AT_MAX]
    for _ in range(_NESTED_MAX):
        name = _base(command[0]) if command else ""
        wrapper = _WRAPPERS.get(name)
        if wrapper is None:
            how = _interpreter(name)
            if how is not None:
                return _script(name, how, command)
            return "" if name in _NOT_LOOKED_THROUGH else name
        inner = _unwrapped(name, wrapper, command)
        if not inner:
            return "" if inner is None else name
        command = inner
    return ""


@lru_cache(1024)
def _interpreter(name: str) -> _Interpreter | None:
    return next((how for how in _INTERPRETERS if re.fullmatch(how.names, name)), None)


def _unwrapped(name: str, wrapper: _Wrapper, command: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the command that a wrapper runs, empty if it names none, None if the command is one string."""
    own = wrapper.arguments
    skip = False
    for position, argument in enumerate(command[1:], 1):
        if skip:
            skip = False
        elif name == "env" and argument.startswith(("-S", "--split-string")):
            return None
        elif len(argument) > 1 and argument.startswith("-"):
            skip = argument in wrapper.valued_words or (len(argument) == 2 and argument[1] in wrapper.valued)
        elif own:
            own -= 1
        elif name != "env" or "=" not in argument:
            return command[position:]
    return ()


def _script(name: str, how: _Interpreter, command: tuple[str, ...]) -> str:
    """Return the name of the script or module that an interpreter runs, empty if its code has no name."""
    arguments = iter(command[1:])
    for argument in arguments:
        word, _, value = argument.partition("=")
        if word in how.file_words:
            return _base(value or next(arguments, ""))
        if argument == "-" or word in how.code_words:
            return ""
        if argument in how.valued_words:
            next(arguments, "")
        elif argument.startswith("-") or (how.plus and argument.startswith("+")):
            found = _short(name, how, argument, arguments)
            if found is not None:
                return found
        else:
            return "" if how.code_first else _base(argument)
    return ""


def _short(name: str, how: _Interpreter, argument: str, arguments: Iterator[str]) -> str | None:
    """Take short options, with their value if it is the next argument. Returns the kind if they settle it."""
    if argument.startswith("--") or (len(argument) > 2 and not how.clusters):
        return None
    for place, letter in enumerate(argument[1:], 2):
        if letter in how.code:
            return ""
        rest = argument[place:]
        if letter == how.module:
            module = rest or next(arguments, "")
            return module and f"{name} -m {module}"
        if letter in how.valued:
            if not rest:
                next(arguments, "")
            break
    return None


def _base(path: str) -> str:
    """Return the last part of a path."""
    return path.rstrip("/").rpartition("/")[2]
