"""How raftflow starts its helper processes: they import from the installation only.

`python -m` puts the working directory first in the import path, so a helper of a replica would run a file `orjson.py`
that lies there by accident. A helper is started isolated (`-I`: no working directory, no PYTHON* variables, no user
site). It gets the places where this process found raftflow and its dependencies, at the end of its path.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_NEEDED: Final = ("raftflow", "msgspec", "orjson", "aiohttp", "pysyncobj", "click", "uvloop", "yaml")
_BOOT: Final = (
    "import sys\n"
    f"drop = [each for each in sys.argv[2].split({os.pathsep!r}) if each]\n"
    "sys.path[:] = [each for each in sys.path if each and each not in drop]\n"
    f"sys.path += [each for each in sys.argv[3].split({os.pathsep!r}) if each and each not in sys.path]\n"
    "import runpy\n"
    "module = sys.argv[1]\n"
    "sys.argv[:] = [module, *sys.argv[4:]]\n"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
)


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that starts `module` as a program, isolated."""
    return [sys.executable, "-I", "-c", _BOOT, module, "", os.pathsep.join(_places()), *arguments]


def worker_command(module: str, *arguments: str) -> list[str]:
    """Return the command that starts `module` as a program that runs code of users. It keeps the PYTHON* variables.

    Its own imports come from the installation. When they are done, it calls `admit_users`. Until then its path is
    without the directories of PYTHONPATH, which belong to users.
    """
    dropped, places = (os.pathsep.join(each) for each in (python_path_variable(), _places()))
    return [sys.executable, "-P", "-c", _BOOT, module, dropped, places, *arguments]


def start_folder() -> str:
    """Return the working directory, by the name that the user entered if the shell gives it (`PWD`).

    So if the user entered the folder through a link, later look-ups follow that link, also when its target changes.
    Raises `FileNotFoundError` if the directory does not exist any more.
    """
    told = os.environ.get("PWD", "")
    try:
        if os.path.isabs(told) and os.path.samefile(told, "."):  # noqa: PTH117, PTH121 - a string
            return told
    except OSError:
        pass
    return str(Path.cwd())


def python_path_variable() -> list[str]:
    """Return the folders of PYTHONPATH."""
    return [str(Path(each).absolute()) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]


def admit_users(path: Sequence[str]) -> None:
    """Put `path` first, so that modules of users are found. Call it when raftflow has imported what it needs."""
    sys.argv[1:] = []
    sys.path[:] = [*path, *(each for each in sys.path if each not in path)]


def spawn_context() -> Any:
    """Return the context of `multiprocessing` that starts fresh interpreters, without the working directory."""
    import multiprocessing  # noqa: PLC0415 - only tools need it

    os.environ["PYTHONSAFEPATH"] = "1"
    return multiprocessing.get_context("spawn")


def _places() -> list[str]:
    """Return the directories in which this process found raftflow and its dependencies."""
    places: dict[str, None] = {}
    for name in _NEEDED:
        origin = getattr(sys.modules.get(name), "__file__", None)
        if origin is not None:
            path = Path(origin).absolute()
            places[str(path.parent.parent if path.name.startswith("__init__.") else path.parent)] = None
    return list(places)
