"""A folder for each attempt of a program: `inputs.json`, `result.json` and others, private, removed at its end.

To make and remove a folder with a file costs some 100 microseconds, as much as everything else that the agent does
for a program. So a folder that its attempt left as it was is kept and renamed for the next one: its inode, its times
and those of the inputs tell. The socket in it stays bound (`calls.socket`). Anything else goes into the trash. The
names cannot be guessed, so no attempt can prepare the folder of another that is still to come.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable
from itertools import islice
from typing import Protocol

from raftflow.agent.workdir.directory import EXCHANGE, WorkDirectory
from raftflow.agent.workdir.files import (
    UnfitFileError,
    check,
    create_file,
    open_file,
    open_folder,
    read_file,
    write_all,
)

INPUTS = "inputs.json"
RESULT = "result.json"
PROGRESS = "progress"
SOCKET = "calls.sock"
NO_INPUTS = b"{}"

_NAME_BYTES = 8
_NAMES_DRAWN = 64
_IDLE_MAX = 64
"""Folders that are kept for the next attempts."""
_KEPT_BYTES_MAX = 1 << 12
"""Inputs beyond that are not kept on disk for longer than their attempt lasts."""
_ENTRIES_MAX = 8
"""Files that are removed one by one; a folder with more of them goes into the trash."""
_TICK_NS = 20_000_000
"""Times of files are at least as exact as that; newer kernels tell any two changes apart."""
_CLEAN_FOLDER = stat.S_IFDIR | 0o700
_CLEAN_FILE = stat.S_IFREG | 0o600


class FolderSocket(Protocol):
    """A socket that listens in a folder."""

    def close(self) -> None:
        """End it, and all its connections."""


Listen = Callable[[str, str], FolderSocket]
"""Makes the socket of a folder, given the folder's path and the socket's name in it."""


class AttemptFolder:
    """The folder of one attempt. Only `AttemptFolders` makes and changes it."""

    __slots__ = (
        "begun_ns",
        "changed_ns",
        "content",
        "content_ns",
        "inode",
        "inputs_inode",
        "path",
        "socket",
        "socket_inode",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.begun_ns = 0
        """When the attempt began."""
        self.inode = 0
        self.changed_ns = 0
        """When its entries changed last."""
        self.inputs_inode = 0
        self.content: bytes | None = None
        """Of the inputs; None if it is not remembered."""
        self.content_ns = 0
        """When the inputs changed last, in whatever way."""
        self.socket: FolderSocket | None = None
        self.socket_inode = 0

    @property
    def inputs(self) -> str:
        """Path of the file with the inputs."""
        return f"{self.path}/{INPUTS}"

    @property
    def result(self) -> str:
        """Path of the file that the program may write its result to."""
        return f"{self.path}/{RESULT}"

    @property
    def progress(self) -> str:
        """Path of the file that the program may tell its progress in."""
        return f"{self.path}/{PROGRESS}"

    @property
    def socket_path(self) -> str:
        """Path of the socket on which the program may speak to the agent."""
        return f"{self.path}/{SOCKET}"


class AttemptFolders:
    """Makes the folders, takes results out of them and removes them."""

    def __init__(self, work: WorkDirectory, listen: Listen | None = None) -> None:
        self._work = work
        self._listen = listen
        self._root = work.part(EXCHANGE)
        self._idle: list[AttemptFolder] = []
        self._names: list[str] = []
        """Names of folders to come."""

    def begin(self, inputs: bytes = NO_INPUTS) -> AttemptFolder:
        """Return a folder for an attempt, with these inputs in it.

        If the work directory is damaged, it is restored. Raises `OSError` and `UnfitFileError`.
        """
        try:
            return self._begin(inputs)
        except (OSError, UnfitFileError):
            for folder in self._idle:
                self._trash(folder)
            self._idle.clear()
            self._work.restore()
            return self._begin(inputs)

    def _new_path(self) -> str:
        """Return a path that nobody can guess. Names are drawn for many at once, since each draw is a system call."""
        if not self._names:
            drawn = secrets.token_hex(_NAME_BYTES * _NAMES_DRAWN)
            size = 2 * _NAME_BYTES
            self._names = [drawn[at : at + size] for at in range(0, len(drawn), size)]
        return f"{self._root}/{self._names.pop()}"

    def _begin(self, inputs: bytes) -> AttemptFolder:
        if self._idle:
            folder = self._idle.pop()
            if os.lstat(folder.inputs).st_ino != folder.inputs_inode:
                self._trash(folder)
                raise UnfitFileError("another process changed the folder of a future attempt")
            if folder.content != inputs:
                self._write(folder, inputs)
            folder.begun_ns = time.time_ns()
            return folder
        path = self._new_path()
        folder = AttemptFolder(path)
        if not stat.S_ISDIR(os.lstat(self._root).st_mode):
            raise UnfitFileError("something else is in place of the directory of the attempts' folders")
        os.mkdir(path, 0o700)  # noqa: PTH102 - as above
        try:
            self._fill(folder, inputs)
        except BaseException:
            self._trash(folder)
            raise
        return folder

    def _fill(self, folder: AttemptFolder, inputs: bytes) -> None:
        """Write the inputs into a new folder."""
        fd = create_file(folder.inputs, "the file of the inputs")
        try:
            write_all(fd, inputs)
            folder.content = inputs if len(inputs) <= _KEPT_BYTES_MAX else None
            found = os.fstat(fd)
            folder.inputs_inode, folder.content_ns = found.st_ino, found.st_ctime_ns
        finally:
            os.close(fd)
        if self._listen is not None:
            folder.socket = self._listen(folder.path, SOCKET)
            folder.socket_inode = os.lstat(f"{folder.path}/{SOCKET}").st_ino
        found = os.stat(folder.path)  # noqa: PTH116 - as above
        folder.inode, folder.changed_ns = found.st_ino, found.st_mtime_ns
        folder.begun_ns = time.time_ns()

    def _write(self, folder: AttemptFolder, inputs: bytes) -> None:
        fd = open_file(folder.inputs, "the file of the inputs", write=True)
        if fd is None:
            raise FileNotFoundError(f"{folder.inputs} is gone")
        try:
            os.ftruncate(fd, 0)
            write_all(fd, inputs)
            folder.content = inputs if len(inputs) <= _KEPT_BYTES_MAX else None
            folder.content_ns = os.fstat(fd).st_ctime_ns
        finally:
            os.close(fd)

    def end(self, folder: AttemptFolder, bytes_max: int) -> bytes | None:
        """Take the result out and remove the folder. None if there is no result.

        By then nothing of the attempt runs any more. Raises `UnfitFileError`, also for more than `bytes_max`.
        """
        clean = False
        try:
            fd = open_folder(folder.path, "the folder of the attempt", inode=folder.inode)
            if fd is None:
                raise UnfitFileError("the folder of the attempt was removed or renamed: it has no result")
            try:
                data = read_file(RESULT, bytes_max, "the result", folder=fd)
                clean = len(self._idle) < _IDLE_MAX and _clean(folder, fd)
            finally:
                os.close(fd)
        finally:
            if not clean or not self._keep(folder):
                self._remove(folder)
        return data

    def _keep(self, folder: AttemptFolder) -> bool:
        """Keep a folder for the next attempt, under another name. Returns whether that could be done."""
        path = self._new_path()
        try:
            os.rename(folder.path, path)  # noqa: PTH104 - runs once an attempt
        except OSError:
            return False
        folder.path = path
        self._idle.append(folder)
        return True

    def _remove(self, folder: AttemptFolder) -> None:
        """Remove a folder, at once if it holds what it began with and nothing else."""
        try:
            os.unlink(folder.inputs)  # noqa: PTH108 - runs once an attempt
            if folder.socket is not None:
                os.unlink(f"{folder.path}/{SOCKET}")  # noqa: PTH108 - as above
            os.rmdir(folder.path)  # noqa: PTH106 - as above
        except OSError:
            self._work.trash.put(folder.path)
        self._end_socket(folder)

    def _trash(self, folder: AttemptFolder) -> None:
        self._work.trash.put(folder.path)
        self._end_socket(folder)

    @staticmethod
    def _end_socket(folder: AttemptFolder) -> None:
        if folder.socket is not None:
            folder.socket.close()
            folder.socket = None


def _clean(folder: AttemptFolder, fd: int) -> bool:
    """Put the folder back into the state that it began in if that takes little. Returns whether it is in it."""
    if folder.content is None:
        return False
    try:
        found = os.stat(INPUTS, dir_fd=fd, follow_symlinks=False)
        check(found, "the file of the inputs")
        if found.st_ino != folder.inputs_inode or found.st_mode != _CLEAN_FILE:
            return False
        if found.st_ctime_ns != folder.content_ns:
            return False
        if folder.begun_ns - folder.content_ns < _TICK_NS:  # a change at once would not be seen in the time
            data = read_file(INPUTS, len(folder.content), "the file of the inputs", folder=fd)
            if data != folder.content:
                return False
        found = os.fstat(fd)
        if found.st_mode != _CLEAN_FOLDER:
            return False
        if found.st_mtime_ns == folder.changed_ns and folder.begun_ns - folder.changed_ns >= _TICK_NS:
            return True
        return _sweep(folder, fd)
    except (OSError, UnfitFileError):
        return False


def _sweep(folder: AttemptFolder, fd: int) -> bool:
    """Remove the few files that were added."""
    listed = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.scandir(listed) as entries:
            names = [entry.name for entry in islice(entries, _ENTRIES_MAX)]
    finally:
        os.close(listed)
    if len(names) == _ENTRIES_MAX:
        return False
    if folder.socket is not None:
        if os.stat(SOCKET, dir_fd=fd, follow_symlinks=False).st_ino != folder.socket_inode:
            return False
        names.remove(SOCKET)
    for name in names:
        if name != INPUTS:
            os.unlink(name, dir_fd=fd)
    folder.changed_ns = os.fstat(fd).st_mtime_ns
    return True
