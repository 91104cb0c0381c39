"""Importing a script on an agent: its functions, and nothing of what it does with them.

A script defines functions and then uses a client. A worker imports it for the functions, so the import ends where the
script makes a client. What comes before that runs, as in any module that is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_importing = False
"""Whether a script is being imported: then no client is made."""


class ScriptEnd(BaseException):
    """The script makes a client: its import is over. No `except Exception` of a user catches this."""


def end_of_script() -> None:
    """End the import of a script, if one is under way. Called when a client is made. Raises `ScriptEnd`."""
    if _importing:
        raise ScriptEnd


def import_script(name: str) -> int | None:
    """Import a module that is a script, up to the line where it makes a client. Returns that line, None for none.

    Raises `ModuleNotFoundError`, and what the script raises.
    """
    global _importing  # noqa: PLW0603 - a process imports one script
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module named {name!r}", name=name)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    _importing = True
    try:
        spec.loader.exec_module(module)
    except ScriptEnd as end:
        return _line_of(end, spec.origin)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _importing = False
    return None


def _line_of(end: ScriptEnd, origin: Any) -> int:
    """Return the line of the script that led to its end."""
    trace, line = end.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == origin and not line:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
