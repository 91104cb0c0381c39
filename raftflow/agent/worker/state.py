"""What a call may leave in its worker: looked at after each call, and put back, or the worker is replaced.

A worker serves many calls of different tasks, so whatever belongs to the process and not to the call must be for each
call as it was for the first. It is looked at in two ways, for all of this runs after each call and a call costs some
tens of microseconds:

- What is cheap to read is read: descriptors 0 to 2, the working directory, the environment, signal handlers, threads,
  settings of the interpreter, the contents of modules that everybody uses.
- What is not is looked at if the call used a function that changes it (`worker_watch.WATCHED`): these functions are
  replaced by wrappers which note that they were called. Changes that native code makes without them are not seen.

What a module changes while it is imported for a task's function stays: it is imported once in a worker. So threads
that it started are its own, and its environment, limits and handlers are what every later call finds.
"""

# ruff: noqa: SLF001 - what the interpreter keeps of its state is private to its modules

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the plain functions, without enumerations
import _thread
import contextlib
import functools
import gc
import importlib
import locale
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from raftflow.agent.worker.watch import WATCHED, Contents, WatchedState

_GRACE_S = 0.005
"""For threads that are about to end, as those of a pool that is no longer used."""
_DESCRIPTORS_MAX = 64
"""So many descriptors more than at the start may stay open before the worker is replaced."""
_BEGIN_S = 0.1
"""For a thread that the kernel has and the interpreter does not count yet: it begins when it gets the interpreter."""
_THREADS = "/proc/self/task"
_NAMES_MAX = 5
_SIGNALS = tuple(number for number in range(1, 32) if number not in (signal.SIGKILL, signal.SIGSTOP))
_LOG_AT_FIRST: tuple[list[Any], int, int] = ([], 30, 0)
"""Handlers, level and what is disabled of the root logger when `logging` has just been imported."""

_signal_of = _signal.getsignal
_thread_count: Callable[[], int] = _thread._count  # running ones, the main thread left out
_active: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]


# Settings of the interpreter: how each is read and put back.
_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.getswitchinterval, sys.setswitchinterval),
    (sys.get_int_max_str_digits, sys.set_int_max_str_digits),
    (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    (gc.get_threshold, lambda value: gc.set_threshold(*value)),
    (socket.getdefaulttimeout, socket.setdefaulttimeout),
)
_READS = tuple(read for read, _ in _SETTINGS)


class WorkerState:
    """The state of this process between calls. Made once, before code of users runs.

    Args:
        streams: descriptors of what is to be 1 and 2.
    """

    def __init__(self, streams: tuple[int, int]) -> None:
        self._streams = streams
        self._objects = (sys.stdin, sys.stdout, sys.stderr)
        self._forms = (_form(sys.stdout), _form(sys.stderr))
        self._home = os.open(".", os.O_PATH | os.O_CLOEXEC)
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._variables: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined] # as the system has them
        self._env = dict(self._variables)
        self._told: dict[str, str] = {}
        self._umask = 0
        self._noted: set[WatchedState] = set()
        for watched in WATCHED:
            for name in watched.functions:
                self._watch(watched, name)
        self._record_baseline()

    def _watch(self, watched: WatchedState, name: str) -> None:
        module_name, _, attribute = name.partition(".")
        module = importlib.import_module(module_name)
        function = getattr(module, attribute, None)
        if function is None:  # not on this platform
            return

        @functools.wraps(function)
        def noting(*args: Any, **kwargs: Any) -> Any:
            self._noted.add(watched)
            return function(*args, **kwargs)

        noting.__module__ = module_name
        setattr(module, attribute, noting)

    def _record_baseline(self) -> None:
        """Record the present state. Every call begins with this state."""
        self._before = {watched: watched.read() for watched in WATCHED}
        self._noted.clear()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._handlers = list(map(_signal_of, _SIGNALS))
        self._settings = [read() for read in _READS]
        self._path = (sys.path, list(sys.path))
        self._filters = (warnings.filters, list(warnings.filters))
        self._log = _log_settings() or _LOG_AT_FIRST
        self._loops = _loops()
        self._threads = set(_active)
        self._hidden_threads = _hidden_threads()
        self._foreign_threads = _kernel_threads() - _thread_count()
        self._free_max = self._first_free() + _DESCRIPTORS_MAX
        self._contents = Contents()

    def _first_free(self) -> int:
        free = os.dup(self._null)
        os.close(free)
        return free

    @contextlib.contextmanager
    def importing(self) -> Iterator[None]:
        """Take what changes meanwhile for the state of the worker, if it ends well."""
        before = dict(self._variables)
        yield
        for key in before.keys() | self._variables.keys():
            now = self._variables.get(key)
            if before.get(key) != now:
                _put(self._env, key, now)
        self._record_baseline()

    def tell(self, variables: dict[str, str]) -> None:
        """Set variables of the environment that every call sets, for this call and those after it."""
        told = self._told
        for name, value in variables.items():
            if told.get(name) != value:
                os.environ[name] = told[name] = value
                key = os.fsencode(name)
                self._env[key] = self._variables[key]

    def drop_late_output(self) -> None:
        """Forget what threads have written since the last call: those of modules, because there are no others."""
        if _thread_count():
            for fd in self._streams:
                os.ftruncate(fd, 0)

    def leave(self) -> list[str]:
        """Put back what the call has changed. Returns what cannot be put back: the worker must be replaced."""
        left = self._contents.changed()
        if self._noted:
            left += self._put_back_watched()
        try:
            os.dup2(self._null, 0)
            os.dup2(self._streams[0], 1)
            os.dup2(self._streams[1], 2)
            os.fchdir(self._home)
            if self._first_free() > self._free_max:
                left.append(f"more than {_DESCRIPTORS_MAX} open files")
        except OSError as error:
            left.append(f"descriptors or a directory that cannot be put back ({error.strerror})")
        os.umask(self._umask)
        if list(map(_signal_of, _SIGNALS)) != self._handlers:
            left += self._put_back_handlers()
        if self._variables != self._env or os.environ._data is not self._variables:  # type: ignore[attr-defined]
            self._put_back_environment()
        left += self._put_back_interpreter()
        if _kernel_threads() - _thread_count() != self._foreign_threads:
            self._await_threads()
        if _thread_count():
            left += self._threads_left()
        return left

    def _await_threads(self) -> None:
        """Wait until the interpreter counts every thread that it was asked to start; what stays is of native code."""
        until_s = time.monotonic() + _BEGIN_S
        while (foreign := _kernel_threads() - _thread_count()) > self._foreign_threads and time.monotonic() < until_s:
            time.sleep(0.0005)
        self._foreign_threads = foreign

    def _put_back_watched(self) -> list[str]:
        left: list[str] = []
        for watched in [each for each in WATCHED if each in self._noted]:
            before = self._before[watched]
            try:
                if watched.write is not None and (before is None or watched.read() != before):
                    watched.write(before)
                if watched.read() != before:
                    left.append(f"other {watched.name}")
            except (OSError, ValueError, locale.Error):
                left.append(f"other {watched.name}")
        self._noted.clear()
        return left

    def _put_back_handlers(self) -> list[str]:
        left: list[str] = []
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if _signal_of(number) != handler:
                if handler is None or _signal_of(number) is None:  # by native code
                    left.append(f"another handler of signal {number}")
                else:
                    _signal.signal(number, handler)
        return left

    def _put_back_environment(self) -> None:
        now = self._variables
        os.environ._data = now  # type: ignore[attr-defined]
        for key in now.keys() | self._env.keys():
            before = self._env.get(key)
            if now.get(key) == before:
                continue
            _put(now, key, before)
            if before is None:
                os.unsetenv(key)
            else:
                os.putenv(key, before)
            if key == b"TZ":
                time.tzset()

    def _put_back_interpreter(self) -> list[str]:
        if [read() for read in _READS] != self._settings:
            for (read, write), before in zip(_SETTINGS, self._settings, strict=True):
                if read() != before:
                    write(before)
        sys.path, path = self._path
        if sys.path != path:
            sys.path[:] = path
        filters: Any
        filters, known = self._filters
        if filters != known:
            filters[:] = known
            warnings._filters_mutated()  # type: ignore[attr-defined]
        log = _log_settings()
        if log is not None and log != self._log:
            _put_back_log(*self._log)
        if "asyncio" in sys.modules and _loops() != self._loops:
            _put_back_loops(*self._loops)
        if (sys.stdin, sys.stdout, sys.stderr) != self._objects:
            sys.stdin, sys.stdout, sys.stderr = self._objects
        try:
            if (_form(sys.stdout), _form(sys.stderr)) == self._forms:
                return []
        except (ValueError, AttributeError):  # it gave its buffer away
            pass
        return ["other standard streams"]

    def _threads_left(self) -> list[str]:
        until_s = time.monotonic() + _GRACE_S
        while True:
            others = [thread for ident, thread in list(_active.items()) if ident not in self._threads]
            names = [thread.name for thread in others if not _is_idle(thread)]
            names += ["without a name"] * (_hidden_threads() - self._hidden_threads)
            if not names:
                return []
            if time.monotonic() > until_s:
                break
            time.sleep(0.001)
        shown = ", ".join(names[:_NAMES_MAX]) + (", ..." if len(names) > _NAMES_MAX else "")
        return [f"{len(names)} thread{'s' if len(names) > 1 else ''} that went on ({shown})"]


def _put(content: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    if value is None:
        content.pop(key, None)
    else:
        content[key] = value


def _form(stream: Any) -> tuple[bool, bool, str, str]:
    """Return how a stream writes. Raises `ValueError` if it gave its buffer away."""
    return stream.closed, stream.line_buffering, stream.encoding, stream.errors


def _hidden_threads() -> int:
    """Return how many threads run that the module `threading` does not know."""
    others: Any = (threading._DummyThread, threading._MainThread)  # type: ignore[attr-defined]
    return _thread_count() - sum(not isinstance(each, others) for each in _active.values())


def _kernel_threads() -> int:
    """Return how many threads this process has, those of native code and those that have not begun among them."""
    return os.stat(_THREADS).st_nlink - 2  # noqa: PTH116 - after each call: a Path costs more


def _is_idle(thread: threading.Thread) -> bool:
    """Tell whether it waits for work in the pool of a `ThreadPoolExecutor`, or is none that Python started."""
    if isinstance(thread, threading._DummyThread):
        return True
    pools = sys.modules.get("concurrent.futures.thread")
    frame = sys._current_frames().get(thread.ident or 0)
    if pools is None or frame is None or frame.f_code is not pools._worker.__code__:
        return False
    queue = frame.f_locals.get("work_queue")
    return queue is not None and queue.empty() and frame.f_locals.get("work_item") is None


def _log_settings() -> tuple[list[Any], int, int] | None:
    logging = sys.modules.get("logging")
    if logging is None:
        return None
    return list(logging.root.handlers), logging.root.level, logging.root.manager.disable


def _put_back_log(handlers: list[Any], level: int, disable: int) -> None:
    import logging  # noqa: PLC0415 - it was imported by the call

    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.disable(disable)


def _loops() -> tuple[Any, Any, bool]:
    """Return the policy of event loops, and the loop that it was given for this thread."""
    events = sys.modules.get("asyncio.events")
    policy = getattr(events, "_event_loop_policy", None)
    local = getattr(policy, "_local", None)
    return policy, getattr(local, "_loop", None), getattr(local, "_set_called", False)


def _put_back_loops(policy: Any, loop: Any, set_called: bool) -> None:  # noqa: FBT001 - as `_loops` returns them
    events: Any = sys.modules["asyncio.events"]
    events._set_running_loop(None)
    events._event_loop_policy = policy
    local = getattr(policy, "_local", None)
    if local is not None:
        local._loop, local._set_called = loop, set_called
