"""The worker: a process that calls the python functions of tasks, one after the other.

Starting an interpreter costs tens of milliseconds, a call over a socket some tens of microseconds; so a worker is
kept and used again. The agent sends a `FunctionCall`, the worker answers `Returned`, and nothing else is said.

Standard output and error are files of the worker's own; after a call that wrote something, head and tail of it move
to the attempt's directory. A worker whose modules are older than their files takes no call: see `worker_modules`.
Started by the launcher (`raftflow.helpers.worker_command`).
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import gc
import importlib
import inspect
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from raftflow import helpers
from raftflow.agent.launcher.messages import READY, FunctionCall, Returned
from raftflow.agent.launcher.process_tree import parse_memory
from raftflow.agent.output.stream_file import keep_stream
from raftflow.agent.workdir.files import CaptureFolder, UnfitFileError, write_all
from raftflow.agent.worker.control import WorkerControl, open_control
from raftflow.agent.worker.state import WorkerState
from raftflow.agent.worker.user_modules import UserModules
from raftflow.domain.contract.reportable import describe_fault, result_fault
from raftflow.domain.values.code_bundle import SCRIPT_FILE
from raftflow.domain.values.exact import ValueFault, decode_json, write_json
from raftflow.sdk import context, progress
from raftflow.sdk.script_import import import_script

if TYPE_CHECKING:
    from raftflow.sdk.children import PreparedFunction

_ERROR_CHARS_MAX = 2_048
_REFERENCE = b'"$result"'
_REFERENCE_KEY = "$result"
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
_SHARED_KIB = 64 << 10
"""From so much on, it is looked at which of the pages that can be shared are those of files: this costs more."""
_GRACE_S = 0.005
"""For processes that are about to end, as one whose output was read to its end."""
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_OF_THE_AGENT = frozenset(
    f"RAFTFLOW_{name}"
    for name in ("WORKFLOW", "TASK", "ATTEMPT", "FENCE", "SOCKET", "PROGRESS", "CODE", "AGENT_INSTANCE")
)
"""Variables that a task cannot set: the agent does."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FunctionCall).decode


_FOLDERS_MAX = 8
"""Named in an error, of those in which a module was looked for."""


class TaskError(Exception):
    """The task itself is wrong, and the message says everything: no traceback."""


class TaskInputs(Mapping[str, Any]):
    """Results of the needs, decoded when they are looked at."""

    def __init__(self, encoded: dict[str, bytes]) -> None:
        self._encoded = encoded
        self._decoded: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._decoded:
            self._decoded[key] = decode_json(self._encoded[key])
        return self._decoded[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)


class FileInputs(Mapping[str, Any]):
    """Results of the needs in a file: each is read and decoded when it is looked at, and not kept.

    They may be as large as all the memory of the task.
    """

    def __init__(self, path: str, places: dict[str, tuple[int, int]]) -> None:
        self._path = path
        self._places = places
        self._fd: int | None = None
        self._closed = False

    def close(self) -> None:
        """Close the file: nothing can be looked at any more."""
        self._closed = True
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __getitem__(self, key: str) -> Any:
        place, size = self._places[key]
        if self._closed:
            raise RuntimeError("the inputs of a task can be read while its function runs, and no longer")
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        return decode_json(os.pread(self._fd, size, place))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def resolve(value: Any, inputs: Mapping[str, Any]) -> Any:
    """Replace every `{"$result": "task-id"}` in `value` by that need's result. Raises `TaskError` for other ids."""
    if isinstance(value, list):
        return [resolve(item, inputs) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and _REFERENCE_KEY in value:
        need = value[_REFERENCE_KEY]
        if not isinstance(need, str) or need not in inputs:
            raise TaskError(f"the arguments refer to the result of {need!r}, which is not among the task's needs")
        return inputs[need]
    return {key: resolve(item, inputs) for key, item in value.items()}


def where_to_put_modules(path: Sequence[str]) -> str:
    """Say where modules are looked for, and what to do about one that is not there."""
    shown = ", ".join(path[:_FOLDERS_MAX]) + (f" and {len(path) - _FOLDERS_MAX} more" if path[_FOLDERS_MAX:] else "")
    return (
        f"this agent looks for modules in {shown or 'no folder'}, and among the packages installed for "
        f"{sys.executable}. Put the file there, install the package, or name its folder in the agent's python_path "
        "or in the task's cwd or PYTHONPATH"
    )


def _script() -> str:
    """Return the module that is the script of this worker's code bundle, empty for none."""
    try:
        with open(f"{os.environ.get('RAFTFLOW_CODE', '')}/{SCRIPT_FILE}", encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def find_function(name: str, path: Sequence[str]) -> Callable[..., Any]:
    """Import `package.module:function`. Raises `TaskError` if it does not exist; errors of imports pass.

    `path` are the folders of users in which modules are looked for, to say so.
    """
    module_name, _, attributes = name.partition(":")
    if not module_name or not attributes:
        raise TaskError(f"{name!r} does not name a function: write package.module:function")
    end: int | None = None
    try:
        if module_name == _script() and module_name not in sys.modules:
            end = import_script(module_name)
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise TaskError(f"no module {error.name!r} ({name}): {where_to_put_modules(path)}") from error
        raise
    for part in attributes.split("."):
        found = getattr(found, part, None)
    if not callable(found) and end is not None:
        raise TaskError(
            f"the script {module_name!r} makes a client in line {end}, before it has defined {attributes!r}: define "
            "functions above that line"
        )
    if not callable(found):
        raise TaskError(f"{module_name!r} has no function {attributes!r}")
    function: Callable[..., Any] = found
    return function


def encode_result(value: Any, bytes_max: int) -> bytes:
    """Return `value` as JSON. Raises `TaskError` if it has none or is too large."""
    if value is None:
        return b"null"
    try:
        encoded = write_json(value)
    except ValueFault as fault:
        raise TaskError(f"{describe_fault(fault)} ({_class_name(value)} was returned)") from None
    if len(encoded) > bytes_max:
        raise TaskError(result_fault(encoded, bytes_max=bytes_max) or f"the result has {len(encoded)} bytes")
    return encoded


class WorkerProcess:
    """Serves calls until the agent closes the socket."""

    def __init__(self, control: WorkerControl, path: Sequence[str], modules: UserModules) -> None:
        self._control = control
        self._path = path
        self._modules = modules
        self._served = False
        self._functions: dict[str, Callable[..., Any]] = {}
        self._pid = os.getpid()
        # Copies, so that a task that puts something else in place of 1 and 2 does not have that emptied.
        self._streams = ((os.dup(1), "stdout"), (os.dup(2), "stderr"))
        self._folder = os.environ.get("RAFTFLOW_PROGRESS", "").rpartition("/")[0]
        self._folder_as_it_was = _identity(self._folder)
        self._meter = _CallMeter()
        self._state = WorkerState((self._streams[0][0], self._streams[1][0]))

    def run(self) -> None:
        """Serve."""
        while (data := self._control.receive()) is not None:
            call = _decode(data)
            stale = self._modules.changed() if self._served else ""
            self._served = True
            reply = _encode(Returned(call.fence, ok=False, stale=_cut(stale)) if stale else self._serve(call))
            self._control.send(reply)

    def _serve(self, call: FunctionCall) -> Returned:
        self._meter.begin()
        self._state.drop_late_output()
        self._keep_folder()
        inputs: TaskInputs | FileInputs = TaskInputs(call.inputs)
        if call.inputs_path:
            inputs = FileInputs(call.inputs_path, call.inputs_places)
        context.set_current(context.Context(call.workflow, call.task, call.attempt, call.fence, inputs))
        result, error, ok = b"", "", False
        try:
            self._state.tell(
                {
                    "RAFTFLOW_WORKFLOW": call.workflow,
                    "RAFTFLOW_TASK": call.task,
                    "RAFTFLOW_ATTEMPT": str(call.attempt),
                    "RAFTFLOW_FENCE": str(call.fence),
                }
            )
            if call.env:
                os.environ.update({name: value for name, value in call.env.items() if name not in _OF_THE_AGENT})
            # In a context of its own: what it sets there, as the precision of decimal numbers, is its own.
            result = contextvars.copy_context().run(self._call, call, inputs)
            ok = True
        except TaskError as fault:
            error = _cut(str(fault))
        except BaseException as fault:  # noqa: BLE001 - whatever the function raises is the task's failure
            if context.has_parked(fault):
                ok = True  # the agent knows for what
            else:
                error = self._describe(fault)
        finally:
            if os.getpid() != self._pid:
                os._exit(1)  # a process that the function forked came back here: this worker's socket is not its own
            context.set_current(None)
            if isinstance(inputs, FileInputs):
                inputs.close()
        left = self._put_back()
        try:
            sizes, truncated = self._keep_output(call, error, left)
        except UnfitFileError as fault:
            error, sizes, truncated = error or str(fault), (0, 0), (True, True)
        return Returned(call.fence, ok and not error, result, error, sizes, truncated, bool(left), *self._meter.end())

    def _keep_folder(self) -> None:
        """Make the folder for progress again if an earlier call, or another task, has removed or replaced it.

        Without it the next call could not tell its progress. If it cannot be made, that is all that is lost.
        """
        found = _identity(self._folder)
        if found == self._folder_as_it_was or not self._folder:
            return
        with contextlib.suppress(OSError):
            if found is not None:
                os.rename(self._folder, f"{self._folder}.{time.time_ns()}")  # noqa: PTH104 - as the rest of this module
            os.mkdir(self._folder, 0o700)  # noqa: PTH102
        self._folder_as_it_was = _identity(self._folder)

    def _put_back(self) -> list[str]:
        """Put back what the call changed in this process. Returns what it left that stays as long as the process."""
        for stream in (sys.stdout, sys.stderr):  # or what the function has put in their place
            with contextlib.suppress(Exception):
                if stream is not None and not stream.closed:
                    stream.flush()
        try:
            left = self._state.leave()
        except BaseException as fault:  # noqa: BLE001 - a handler of a signal that came just now, or what was not foreseen
            left = [f"what could not be put back ({_class_name(fault)})"]
        try:
            progress.forget_progress()
        except OSError:
            left.append("something in place of its progress")
        if _has_children():
            left.append("processes that went on")
        return left

    def _call(self, call: FunctionCall, inputs: Mapping[str, Any]) -> bytes:
        if call.cwd is not None:
            try:
                os.chdir(call.cwd)
            except OSError as error:
                raise TaskError(f"cannot enter the working directory {call.cwd}: {error.strerror}") from error
        function = self._functions.get(call.function)
        if function is None:
            with self._state.importing():
                function = find_function(call.function, self._path)
            self._functions[call.function] = function
        args = decode_json(call.args) if call.args not in (b"", b"[]") else []
        kwargs = decode_json(call.kwargs) if call.kwargs not in (b"", b"{}") else {}
        if _REFERENCE in call.args:
            args = resolve(args, inputs)
        if _REFERENCE in call.kwargs:
            kwargs = resolve(kwargs, inputs)
        value = function(*args, **kwargs)
        if inspect.isawaitable(value):
            import asyncio  # noqa: PLC0415 - most workers never need it

            async def wait() -> Any:
                return await value

            value = asyncio.run(wait())
        return encode_result(value, call.result_bytes_max)

    def _describe(self, fault: BaseException) -> str:
        """Return the end of the traceback, and what it does not say by itself."""
        text = _describe(fault)
        if isinstance(fault, ModuleNotFoundError):
            text += f"\nraftflow: {where_to_put_modules(self._path)}"
        if newer := self._modules.newer_files(fault):
            text += f"\nraftflow: changed while the call ran, so the lines that ran are not shown: {', '.join(newer)}"
        return _cut(text)

    def _keep_output(
        self, call: FunctionCall, error: str, left: list[str]
    ) -> tuple[tuple[int, int], tuple[bool, bool]]:
        """Move what the call wrote to the attempt's directory."""
        if error:
            write_all(self._streams[1][0], (error + "\n").encode(errors="replace"))
        if left:
            text = f"raftflow: this call left behind {', '.join(left)}; its worker was replaced\n"
            with contextlib.suppress(OSError):
                write_all(self._streams[1][0], text.encode(errors="replace"))
        sizes, truncated = [0, 0], [False, False]
        folder: CaptureFolder | None = None
        for index, (fd, name) in enumerate(self._streams):
            if os.lseek(fd, 0, os.SEEK_END):  # a third of the cost of asking for its state
                folder = folder or CaptureFolder(call.directory)
                sizes[index], truncated[index] = _keep(fd, folder, name, call.output_bytes_max)
        return (sizes[0], sizes[1]), (truncated[0], truncated[1])


class _CallMeter:
    """What a call uses. Memory is what the system cannot take back: not the pages of mapped files."""

    def __init__(self) -> None:
        self._clear_refs = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._cpu_s = 0.0
        self._children_s = 0.0
        self._children_rss_kib = 0

    def begin(self) -> None:
        """A call begins: forget the peak of those before, and what their threads have used since."""
        os.write(self._clear_refs, b"5")
        self._cpu_s = time.process_time() + self._children_s

    def end(self) -> tuple[int, int, int, int]:
        """Return the last four fields of `Returned`. Children that are left have been looked for already."""
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        kept_kib, files_kib = self._memory()
        peak_kib = max(own.ru_maxrss - files_kib, kept_kib)
        if children.ru_maxrss > self._children_rss_kib:  # it never falls, so it tells only of larger ones
            self._children_rss_kib = children.ru_maxrss
            peak_kib = max(peak_kib, children.ru_maxrss)
        self._children_s = children.ru_utime + children.ru_stime
        cpu_s = own.ru_utime + own.ru_stime + self._children_s
        return peak_kib, kept_kib, max(int((cpu_s - self._cpu_s) * 1000), 0), int(cpu_s * 1000)

    def _memory(self) -> tuple[int, int]:
        """Return what this process holds, and its pages of files; in KiB."""
        pages = os.pread(self._statm, 128, 0).split()
        resident_kib, shared_kib = int(pages[1]) * _PAGE_KIB, int(pages[2]) * _PAGE_KIB
        if shared_kib < _SHARED_KIB:
            return resident_kib - shared_kib, shared_kib
        with open("/proc/self/status", "rb", 0) as file:  # noqa: PTH123 - half the cost
            memory = parse_memory(file.read())
        return memory.held_kib, memory.files_kib


def _keep(fd: int, folder: CaptureFolder, name: str, bytes_max: int) -> tuple[int, bool]:
    """Keep the output behind `fd` in `folder` and empty it. Returns (its size, whether some is lost)."""
    size = os.fstat(fd).st_size
    try:
        return keep_stream(fd, folder, name, bytes_max)
    except OSError:  # a full disk must not make the task fail
        return size, True
    finally:
        os.ftruncate(fd, 0)


def _describe(fault: BaseException) -> str:
    """Return the end of the traceback, without the worker's own frames."""
    trace = fault.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(fault), fault, trace))
    except BaseException as error:  # noqa: BLE001 - an exception whose own text cannot be made
        text = f"{_class_name(fault)} (its text cannot be made: {_class_name(error)})"
    return _cut(text)


def _class_name(value: object) -> str:
    """Return the name of a class whose own classes may say what they like."""
    return type.__dict__["__name__"].__get__(type(value))  # type: ignore[no-any-return]


def _cut(text: str) -> str:
    """Return the end of a text, as every encoder takes it."""
    text = text[-2 * _ERROR_CHARS_MAX :].encode(errors="backslashreplace").decode().rstrip()
    return text if len(text) <= _ERROR_CHARS_MAX else "..." + text[-_ERROR_CHARS_MAX:]


def _identity(folder: str) -> tuple[int, int] | None:
    """Return the inode and the mode of a folder; None if it does not exist."""
    try:
        found = os.lstat(folder)
    except OSError:
        return None
    return found.st_ino, found.st_mode


def _has_children() -> bool:
    """Tell whether child processes are left. Ended ones are reaped: nobody will ask for them any more."""
    until_s = time.monotonic() + _GRACE_S
    try:
        while True:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            if time.monotonic() > until_s:
                return True
            time.sleep(0.001)
    except ChildProcessError:
        return False


def _prepare(function: Callable[..., Any]) -> PreparedFunction:
    """Prepare a function to be called as a child of the task that runs."""
    from raftflow.sdk.calls import TaskCalls  # noqa: PLC0415 - most tasks have no children

    return TaskCalls(function)


def main() -> None:
    """Run as the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    launcher = os.getppid()
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != launcher or launcher == 1:
        return
    control = open_control()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    modules = UserModules()
    modules.watch()
    path = sys.argv[1:]
    helpers.admit_users(path)
    worker = WorkerProcess(control, path, modules)
    context.prepare = _prepare
    gc.freeze()
    control.send_ready(READY)
    worker.run()


if __name__ == "__main__":
    main()
