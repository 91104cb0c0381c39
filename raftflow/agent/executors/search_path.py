"""Where the modules of a python task are looked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from raftflow import helpers


class SearchPath:
    """The folders of users for each call, as absolute paths, in the order in which they are searched.

    The task's `cwd`, then the folders of PYTHONPATH in the task's `env`, then the agent's `python_path`, then
    PYTHONPATH of the agent. What is installed comes after them. A worker serves calls of one such path only, since
    a module that it has imported is there for all that follow.
    """

    def __init__(self, python_path: Sequence[str]) -> None:
        """`python_path` are absolute folders."""
        try:
            self._start = helpers.start_folder()
        except FileNotFoundError:
            self._start = "/"
        self.usual = tuple(dict.fromkeys([*python_path, *helpers.python_path_variable()]))
        """Of calls without `cwd` and PYTHONPATH."""

    def of(self, cwd: str | None, env: Mapping[str, str]) -> tuple[str, ...]:
        """Return the folders for a call."""
        variable = env.get("PYTHONPATH")
        if cwd is None and not variable:
            return self.usual
        here = self._start if cwd is None else _join(self._start, cwd)
        own = [_join(here, each) for each in (variable or "").split(os.pathsep) if each]
        return tuple(dict.fromkeys([*([] if cwd is None else [here]), *own, *self.usual]))


def _join(folder: str, path: str) -> str:
    """Return an absolute path. Links are not followed: where they lead may change."""
    joined = os.path.join(folder, path)  # noqa: PTH118 - a text
    return joined if ".." in PurePath(joined).parts else os.path.normpath(joined)
