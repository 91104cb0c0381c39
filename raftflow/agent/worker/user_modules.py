"""Modules of users in a worker: whether what was imported is still what their files say.

A worker imports a module once and serves calls for hours. Somebody edits the file, and a call that comes later would
run the old code. So before a call, `UserModules.changed` compares files and folders with what they were when they
were imported; a worker that finds a difference says so and is replaced before the call runs.

- **Files**: source, bytecode without source, extension modules and zip files, by modification and status-change time,
  size, inode and device. They are looked at before Python reads them, so an edit in between counts as a change.
- **Folders** in which a module was looked for: a file that appears there may be a module that was missing, or one
  that goes before the one that was imported.

What belongs to the installation (the standard library, site-packages, raftflow itself) is left out: it is many files,
and they change when somebody installs something and restarts the agent.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import sys
import time
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    SourceFileLoader,
    SourcelessFileLoader,
)
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

_SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
"""In the order in which Python looks for a module's file."""
_SECOND_NS = 1_000_000_000
_CHAIN_MAX = 20
"""Exceptions of one chain whose files are looked at."""

_SHARE = 32
_WAIT_MAX_NS = 1_000_000

Identity = tuple[int, int, int, int, int]

_stat = os.stat
_now_ns = time.monotonic_ns


def _identity(path: str) -> Identity | None:
    """Return what changes whenever the file does; None if it does not exist."""
    try:
        found = _stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev


class UserModules:
    """What this process has imported from outside the installation. Made once, before code of users is imported."""

    def __init__(self) -> None:
        self._roots = tuple(f"{os.path.realpath(root)}{os.sep}" for root in _installation())
        self._is_users: dict[str, bool] = {}
        """For each folder that modules were looked for in: whether it is outside the installation."""
        self._files: dict[str, Identity | None] = {}
        self._zips: tuple[str, ...] = ()
        self._seen: dict[str, Identity | None] = {}
        """Folders of users as they were when the first module was looked for there."""
        self._folders: dict[str, Identity | None] = {}
        """Those of them that are looked at: a file that appears there may matter."""
        self._names: dict[str, tuple[tuple[str, ...], str | None]] = {}
        """For each module that was looked for in folders of users: these folders, and the file that was found."""
        self._new_names: list[str] = []
        self._next_ns = 0

    def watch(self) -> None:
        """Look at every import from now on, and at what was imported already."""
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str):
                self._note(file)
        self._watch_loaders()
        self._keep_lines()
        sys.meta_path.insert(0, self)

    def changed(self) -> str:
        """Return what has changed since it was imported, in words; empty if nothing has.

        Between two looks lies 32 times what a look takes, a millisecond at most: so for the shortest calls too it
        costs 3 % at most. No call that was submitted after an edit gets here so soon.
        """
        begin_ns = _now_ns()
        if begin_ns < self._next_ns:
            return ""
        if self._new_names:
            self._settle()
        for path, known in list(self._files.items()):
            now = _identity(path)
            if now != known:
                return f"{path} {'was removed' if now is None else 'has changed'} since it was imported"
        for folder, known in list(self._folders.items()):
            now = _identity(folder)
            if now != known:
                if found := self._find_again():
                    return found
                self._folders[folder] = now
        end_ns = _now_ns()
        self._next_ns = end_ns + min((end_ns - begin_ns) * _SHARE, _WAIT_MAX_NS)
        return ""

    def newer_files(self, fault: BaseException) -> list[str]:
        """Return the files of a traceback that have changed since they were imported."""
        found: dict[str, None] = {}
        seen: set[int] = set()
        each: BaseException | None = fault
        while each is not None and id(each) not in seen and len(seen) < _CHAIN_MAX:
            seen.add(id(each))
            trace: TracebackType | None = each.__traceback__
            while trace is not None:
                file = trace.tb_frame.f_code.co_filename
                if self._is_newer(file):
                    found[file] = None
                trace = trace.tb_next
            each = each.__cause__ or each.__context__
        return list(found)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:  # noqa: ARG002
        """Find nothing, as the first finder of all, but remember what is looked for in folders of users."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            folders = tuple(each for each in map(_absolute, sys.path if path is None else path) if self._admit(each))
            if folders and name not in self._names:
                self._names[name] = folders, _find(folders, name.rpartition(".")[2])
                self._new_names.append(name)

    def _admit(self, folder: str) -> bool:
        """Tell whether a folder belongs to users; if so it is looked at from now on."""
        known = self._is_users.get(folder)
        if known is None:
            known = self._is_users[folder] = not f"{os.path.realpath(folder)}{os.sep}".startswith(self._roots)
            if known and os.path.isfile(folder):  # noqa: PTH113 - a text
                self._files[folder] = _identity(folder)
                self._zips += (folder,)
            elif known:
                self._seen[folder] = _identity(folder)
        return known

    def _note(self, path: str) -> None:
        """Look at a file of users from now on. What was known of it stays: it may be imported under two names."""
        if path not in self._files and not os.path.realpath(path).startswith(self._roots):
            identity = _identity(path)
            if identity is not None:
                self._files[path] = identity

    def _settle(self) -> None:
        """Forget the names of modules that are of the installation; look at the folders of the others."""
        names, self._new_names = self._new_names, []
        for name in names:
            folders, known = self._names[name]
            module = sys.modules.get(name)
            if known is None and module is not None and not _is_namespace(module):
                del self._names[name]
                continue
            for folder in folders:
                if folder in self._seen:  # else it is a zip file
                    self._folders.setdefault(folder, self._seen[folder])
                if known is not None and _find((folder,), name.rpartition(".")[2]) == known:
                    break

    def _find_again(self) -> str:
        """Tell whether a module would be found elsewhere than it was."""
        for name, (folders, known) in self._names.items():
            now = _find(folders, name.rpartition(".")[2])
            if now != known:
                return f"the module {name} is now {'gone' if now is None else now}"
        return ""

    def _is_newer(self, file: str) -> bool:
        known = self._files.get(file)
        if known is not None:
            return _identity(file) != known
        for each in self._zips:
            if file.startswith(each + os.sep):
                return _identity(each) != self._files[each]
        return f"{file}c" in self._files  # bytecode that was imported without its source: any source is another one

    def _watch_loaders(self) -> None:
        """Look at files before Python reads them, and at bytecode before Python believes it."""
        note = self._note
        path_stats = SourceFileLoader.path_stats
        get_data, get_bytecode = SourceFileLoader.get_data, SourcelessFileLoader.get_data
        create_module = ExtensionFileLoader.create_module
        files = self._files

        def noting_path_stats(loader: SourceFileLoader, path: str) -> Any:
            note(path)
            return path_stats(loader, path)

        def noting_get_data(loader: SourceFileLoader, path: str) -> bytes:
            if path.endswith(".pyc") and loader.path in files and _may_be_older(path, loader.path):
                raise OSError(f"{path} may be older than its source")
            return get_data(loader, path)

        def noting_get_bytecode(loader: SourcelessFileLoader, path: str) -> bytes:
            note(path)
            return get_bytecode(loader, path)

        def noting_create_module(loader: ExtensionFileLoader, spec: Any) -> Any:
            if isinstance(spec.origin, str):
                note(spec.origin)
            return create_module(loader, spec)

        SourceFileLoader.path_stats = noting_path_stats  # type: ignore[assignment, method-assign]
        SourceFileLoader.get_data = noting_get_data  # type: ignore[assignment, method-assign]
        SourcelessFileLoader.get_data = noting_get_bytecode  # type: ignore[assignment, method-assign]
        ExtensionFileLoader.create_module = noting_create_module  # type: ignore[assignment, method-assign]

    def _keep_lines(self) -> None:
        """Let tracebacks show the lines that run: none rather than those of a newer file."""
        updatecache, checkcache = linecache.updatecache, linecache.checkcache

        def update(filename: str, module_globals: dict[str, Any] | None = None) -> list[str]:
            if self._is_newer(filename):
                return []
            lines = updatecache(filename, module_globals)
            if self._is_newer(filename):
                linecache.cache.pop(filename, None)
                return []
            return lines

        def check(filename: str | None = None) -> None:
            for each in list(linecache.cache) if filename is None else [filename]:
                if each not in self._files:  # what was read of those is what was imported
                    checkcache(each)

        linecache.updatecache, linecache.checkcache = update, check


def _installation() -> set[str]:
    """Return the folders of what is installed for this interpreter, and of raftflow."""
    import site  # noqa: PLC0415 - at the start only
    import sysconfig  # noqa: PLC0415

    import raftflow  # noqa: PLC0415

    roots = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    with contextlib.suppress(AttributeError):  # some environments have a module `site` of their own
        roots |= {*site.getsitepackages(), site.getusersitepackages()}
    return {*roots, *raftflow.__path__}


def _is_namespace(module: object) -> bool:
    return hasattr(module, "__path__") and getattr(module, "__file__", None) is None


def _absolute(folder: str) -> str:
    return os.path.join(os.getcwd(), folder)  # noqa: PTH109, PTH118 - a text, as Python keeps it


def _find(folders: Iterable[str], name: str) -> str | None:
    """Return the file that Python imports as this module; None if it has no file."""
    for folder in folders:
        base = f"{folder}{os.sep}{name}"
        if os.path.isdir(base):  # noqa: PTH112
            for suffix in _SUFFIXES:
                if os.path.isfile(f"{base}{os.sep}__init__{suffix}"):  # noqa: PTH113
                    return f"{base}{os.sep}__init__{suffix}"
        for suffix in _SUFFIXES:
            if os.path.isfile(f"{base}{suffix}"):  # noqa: PTH113
                return f"{base}{suffix}"
    return None


def _may_be_older(bytecode: str, source: str) -> bool:
    """Tell whether bytecode may be of an earlier state of its source though Python takes it for the present one.

    Python compares whole seconds and the size. An edit within the second of the one before, or one that keeps the
    time, goes unseen; so bytecode counts only if it was written well after its source.
    """
    try:
        made, of = _stat(bytecode), _stat(source)
    except OSError:
        return True
    return made.st_ctime_ns <= of.st_ctime_ns or made.st_ctime_ns <= of.st_mtime_ns + 2 * _SECOND_NS
