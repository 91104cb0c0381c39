"""Functions of the program itself (`__main__`) as code that travels.

A *script* travels as its file, with the modules below its folder that are imported at that time. Agents import it
under its own name. So `if __name__ == "__main__":` is not entered there, and a worker ends the import where the
script makes a client: what follows is the program, and what comes before are its functions.

A *notebook*, or an interpreter in which functions are typed, has no file. There a module is made of the source of the
function and of what it uses: imports, other functions and classes of the notebook, and values that are JSON.
"""

from __future__ import annotations
import __future__

import ast
import contextlib
import inspect
import keyword
import linecache
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from raftflow.domain.values.code_bundle import BundleFile
from raftflow.domain.values.exact import ValueFault, write_json
from raftflow.sdk.code import is_ignored
from raftflow.sdk.errors import UsageError

MAIN: Final = "__main__"
VALUE_BYTES_MAX: Final = 64 * 1024
"""Bytes of one value of a notebook that goes along, as JSON."""
_NOT_IN_NAMES: Final = re.compile(r"\W+", re.ASCII)


class MainCode(NamedTuple):
    """The code of a function of the program itself."""

    module: str
    """The name under which agents import it."""
    files: tuple[BundleFile, ...]
    script: str = ""
    """The same, if the module is the script."""


def module_of(function: Any) -> str:
    """Return the name under which agents import the module of a function of the program. Raises `UsageError`."""
    plain = inspect.unwrap(function)
    script = _script_of(plain)
    return f"cell_{_NOT_IN_NAMES.sub('_', plain.__qualname__)}" if script is None else _script_name(script)


def main_code(function: Any) -> MainCode:
    """Return the code of a function of the program, as it is on the disk now. Raises `UsageError`."""
    plain, module = inspect.unwrap(function), module_of(function)
    script = _script_of(plain)
    if script is None:
        return MainCode(module, (BundleFile(f"{module}.py", _Gathering(plain).source().encode()),))
    return MainCode(module, tuple(_script_files(script, module)), module)


# --- scripts


def _script_of(function: Any) -> Path | None:
    """Return the file of the program, if the function was read from it."""
    told = getattr(sys.modules[MAIN], "__file__", None)
    code = getattr(function, "__code__", None)
    if told is None:
        return None
    script = Path(told).resolve()
    if not script.is_file() or (code is not None and Path(code.co_filename).resolve() != script):
        return None
    return script


def _script_name(script: Path) -> str:
    """Return the module's name of a script: that of its file, unless that cannot be one, or is another module's."""
    spec = getattr(sys.modules[MAIN], "__spec__", None)
    if spec is not None and "." in spec.name:  # `python -m package.module`
        return str(spec.name)
    name = _NOT_IN_NAMES.sub("_", script.stem)
    if name != script.stem or not name.isidentifier() or keyword.iskeyword(name) or name in sys.stdlib_module_names:
        return f"script_{name}"
    return name


def _script_files(script: Path, module: str) -> Iterator[BundleFile]:
    """Yield the script and the modules below its folder that are imported. Raises `UsageError`."""
    root = script.parents[module.count(".")]
    place = f"{module.replace('.', '/')}.py"
    yield BundleFile(place, _read(script))
    seen = {place}
    for imported in list(sys.modules.values()):
        path = _path_below(imported, root)
        if path is not None and path not in seen and root / path != script:
            seen.add(path)
            yield BundleFile(path, _read(root / path))


def _path_below(module: ModuleType, root: Path) -> str | None:
    """Return where below the folder a module's file is, None if it is elsewhere, or among what is installed."""
    told = getattr(module, "__file__", None)
    if not isinstance(told, str) or not told.endswith((".py", ".so")):
        return None
    file = Path(told).resolve()
    if not file.is_relative_to(root) or not file.is_file():
        return None
    path = file.relative_to(root)
    installed = any(is_ignored(str(folder), is_folder=True) for folder in path.parents if folder.name)
    return None if installed or "site-packages" in path.parts else path.as_posix()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None


# --- notebooks


class _Gathering:
    """Makes a module of a function and of what it uses."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._globals = vars(sys.modules[MAIN])
        self._imports: dict[str, None] = {}
        self._definitions: dict[str, str] = {}
        self._under_way: set[str] = set()

    def source(self) -> str:
        """Return the source of the module. Raises `UsageError`."""
        self._define(self._function.__qualname__.partition(".")[0], self._function)
        return "\n".join([*self._future(), *self._imports, "", *self._definitions.values(), ""])

    def _future(self) -> list[str]:
        """Return the statement that keeps annotations as strings, if the notebook has it."""
        flags = getattr(getattr(self._function, "__code__", None), "co_flags", 0)
        return ["from __future__ import annotations"] if flags & __future__.annotations.compiler_flag else []

    def _define(self, name: str, thing: Any) -> None:
        """Take over a function or a class, after everything that it uses."""
        if name in self._under_way:
            return
        self._under_way.add(name)
        source = _source_of(name, thing)
        for used in _names_in(source):
            if used != name and used in self._globals:
                self._take_name(used, self._globals[used], name)
        self._definitions[name] = source

    def _take_name(self, name: str, value: Any, user: str) -> None:
        """Take over what a definition uses under a name of the notebook."""
        if isinstance(value, ModuleType):
            self._imports[f"import {value.__name__} as {name}"] = None
            return
        plain = inspect.unwrap(value) if callable(value) else value
        module, own_name = getattr(plain, "__module__", None), getattr(plain, "__qualname__", None)
        if callable(plain) and own_name is not None and module is not None:
            if module == MAIN:
                self._define(name, plain)
            else:
                self._imports[f"from {module} import {own_name} as {name}"] = None
            return
        try:
            encoded = write_json(value)
        except ValueFault:
            encoded = None
        if encoded is None or len(encoded) > VALUE_BYTES_MAX:
            raise UsageError(
                f"{user} uses {name}, which is a {type(value).__name__} of this notebook and cannot be sent: pass it "
                f"as an argument, or make it inside {user}"
            )
        self._definitions[name] = f"{name} = {value!r}\n"


def _source_of(name: str, thing: Any) -> str:
    with contextlib.suppress(OSError, TypeError):
        return textwrap.dedent(inspect.getsource(thing))
    source = _class_source(name) if isinstance(thing, type) else None
    if source is None:
        raise UsageError(
            f"{name} has no source that could be sent, since it was not read from a file: write it to a module or a "
            "script, or define it in a notebook"
        )
    return source


def _class_source(name: str) -> str | None:
    """Return the source of a class of a notebook: `inspect` finds functions in cells, and classes in files only."""
    for told in reversed(list(linecache.cache)):
        if not Path(told).is_file():
            lines = linecache.getlines(told)
            with contextlib.suppress(SyntaxError, ValueError):
                for node in reversed(ast.parse("".join(lines)).body):
                    if isinstance(node, ast.ClassDef) and node.name == name:
                        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                        return "".join(lines[first - 1 : node.end_lineno])
    return None


def _names_in(source: str) -> list[str]:
    """Return the names that a definition uses, in order."""
    found = (node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name))
    return list(dict.fromkeys(found))
