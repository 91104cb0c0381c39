"""State of a worker's process that is not read after each call, and contents of modules that everybody uses.

See `worker_state`.
"""

from __future__ import annotations

import ctypes
import faulthandler
import locale
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

_LIMITS = tuple(sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}))
_SHARED = (
    "builtins",
    "datetime",
    "inspect",
    "io",
    "json",
    "logging",
    "math",
    "orjson",
    "os",
    "pathlib",
    "random",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
    "traceback",
    "warnings",
)
"""Modules whose contents are looked at, if they were imported when the call began."""
_BEGIN_S = 0.005
"""In which a thread that was made without the module `threading` begins to run."""
_VERSION_OFFSET = 24
"""Of a dict's version in CPython up to 3.13: a number that changes whenever the dict does."""
_ADDED = frozenset(("__warningregistry__",))
_ZONE = frozenset(("altzone", "daylight", "timezone", "tzname"))
"""What `tzset` changes in the module `time`."""


class WatchedState:
    """State that is looked at only if one of some functions was called."""

    def __init__(
        self, name: str, functions: tuple[str, ...], read: Callable[[], Any], write: Callable[[Any], object] | None
    ) -> None:
        """`functions` are written as `module.name`; `write` puts back what `read` returned, None if nothing can."""
        self.name = name
        self.functions = functions
        self.read = read
        self.write = write


def _write_limits(values: Any) -> None:
    for number, pair in zip(_LIMITS, values, strict=True):
        if resource.getrlimit(number) != pair:
            resource.setrlimit(number, pair)


def _write_timers(_: Any) -> None:
    for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(which, 0)


def _cancel_dump(_: Any) -> None:
    faulthandler.cancel_dump_traceback_later()


def _read_scheduling() -> Any:
    return os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getparam(0), os.sched_getaffinity(0)


def _write_scheduling(value: Any) -> None:
    priority, policy, parameter, affinity = value
    os.sched_setaffinity(0, affinity)
    os.sched_setscheduler(0, policy, parameter)
    os.setpriority(os.PRIO_PROCESS, 0, priority)


def _ids() -> Any:
    return os.getresuid(), os.getresgid(), sorted(os.getgroups())


def _write_ids(value: Any) -> None:
    users, groups, more = value
    os.setresuid(*users)  # first: it brings back the right to the rest
    os.setresgid(*groups)
    os.setgroups(more)


def _root() -> Any:
    found = os.stat("/")  # noqa: PTH116 - as the rest of this module
    return found.st_dev, found.st_ino


WATCHED = (
    # It is not counted before it runs: let it.
    WatchedState(
        "threads", ("_thread.start_new_thread", "_thread.start_new"), lambda: None, lambda _: time.sleep(_BEGIN_S)
    ),
    WatchedState("timers", ("signal.alarm", "signal.setitimer"), lambda: None, _write_timers),
    WatchedState("a timer of faulthandler", ("faulthandler.dump_traceback_later",), lambda: None, _cancel_dump),
    WatchedState("a wake-up descriptor", ("signal.set_wakeup_fd",), lambda: None, lambda _: signal.set_wakeup_fd(-1)),
    WatchedState(
        "the signal mask",
        ("signal.pthread_sigmask",),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        lambda mask: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
    ),
    WatchedState(
        "limits of resources",
        ("resource.setrlimit", "resource.prlimit"),
        lambda: tuple(map(resource.getrlimit, _LIMITS)),
        _write_limits,
    ),
    WatchedState(
        "priority or CPUs",
        ("os.nice", "os.setpriority", "os.sched_setaffinity", "os.sched_setscheduler", "os.sched_setparam"),
        _read_scheduling,
        _write_scheduling,
    ),
    WatchedState(
        "the locale",
        ("locale.setlocale",),
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    ),
    WatchedState(
        "user or groups",
        ("os.initgroups", *(f"os.{name}" for name in dir(os) if re.fullmatch("set.*(uid|gid|groups)", name))),
        _ids,
        _write_ids,
    ),
    WatchedState("the root directory", ("os.chroot",), _root, None),
)


class Contents:
    """The contents of modules that everybody uses, and that these are the modules behind their names."""

    def __init__(self) -> None:
        modules = [(name, sys.modules[name]) for name in _SHARED if name in sys.modules]
        self._known = [(name, module, vars(module), dict(vars(module))) for name, module in modules]
        self._table = sys.modules
        watched = (*(content for _, _, content, _ in self._known), self._table)
        self._versions = [ctypes.c_uint64.from_address(id(each) + _VERSION_OFFSET) for each in watched]
        self._seen = [version.value for version in self._versions] if _HAS_VERSIONS else []

    def changed(self) -> list[str]:
        """Put back what was replaced or removed. Returns which modules were changed."""
        if [version.value for version in self._versions] == self._seen and sys.modules is self._table:
            return []
        left: list[str] = []
        sys.modules = self._table
        for name, module, content, before in self._known:
            if _is_changed(content, before):
                content.update(before)
                left.append(f"another content of module {name}")
            if self._table.get(name) is not module:
                self._table[name] = module
                left.append(f"another module in place of {name}")
        if _HAS_VERSIONS:
            self._seen = [version.value for version in self._versions]
        return left


def _is_changed(content: dict[str, Any], before: dict[str, Any]) -> bool:
    """Tell whether anything else is there than before; modules that were added are parts of a package."""
    ignored = _ZONE if content is vars(time) else _ADDED
    for name, value in before.items():
        if content.get(name, before) is not value and name not in ignored:
            return True
    return len(content) > len(before) and any(
        name not in before and name not in ignored and not isinstance(value, ModuleType)
        for name, value in content.items()
    )


def _has_versions() -> bool:
    """Tell whether the version of a dict can be read, by trying."""
    if sys.implementation.name != "cpython":
        return False
    tried = {"a": 1}
    version = ctypes.c_uint64.from_address(id(tried) + _VERSION_OFFSET)
    seen = version.value
    still = version.value == seen
    tried["a"] = 2
    changed = version.value
    tried["b"] = 3
    return still and len({seen, changed, version.value}) == 3


_HAS_VERSIONS = _has_versions()
