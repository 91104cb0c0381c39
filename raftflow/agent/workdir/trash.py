"""Removes what tasks left: whatever it is and however much, without delaying the agent.

A task may leave a million files, a tree ten thousand directories deep, directories without any permission, links to
elsewhere. So a directory is renamed into the agent's trash at once, and a thread empties the trash. It works with
descriptors, follows no link, never leaves the file system it is on, and needs no recursion: a directory that it finds
inside another is moved to the top, so nothing is ever deeper than two levels.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import stat
import threading
from pathlib import Path

_log = logging.getLogger("raftflow.agent.trash")

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC


class TrashFolder:
    """The directory `folder`, whose content is being removed. It is on the file system of what is put there."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._number = 0
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, path: str) -> None:
        """Remove what is at `path`: a directory later, anything else at once; ignored if nothing is there.

        What cannot be removed is logged and left.
        """
        try:
            if stat.S_ISDIR(os.lstat(path).st_mode):
                self._move(path)
            else:
                os.unlink(path)  # noqa: PTH108 - runs once an attempt
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("cannot remove %s: %s", path, error)

    def _move(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.close(_open_up(path, None))  # it must be writable to be moved
        while True:
            self._number += 1
            target = f"{self._folder}/{os.getpid()}-{self._number}"
            try:
                os.rename(path, target)  # noqa: PTH104 - runs once an attempt
            except FileExistsError:
                continue
            except FileNotFoundError:
                if os.path.lexists(path) and not os.path.isdir(self._folder):  # noqa: PTH112
                    os.mkdir(self._folder, 0o700)  # noqa: PTH102
                    continue
                raise
            break
        self._begin()
        self._waiting.put(target)

    def _begin(self) -> None:
        """Start the thread that empties it, unless it runs."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._empty, name="trash", daemon=True)
            self._thread.start()

    def _empty(self) -> None:
        while (path := self._waiting.get()) is not None:
            try:
                remove_tree(path)
            except FileNotFoundError:
                pass  # it went with what another sweep removed
            except Exception as error:  # noqa: BLE001 - what one attempt left must not keep what others left
                _log.warning("cannot remove %s: %s", path, error)

    def close(self, wait_s: float) -> None:
        """Empty it for at most `wait_s` more; what is left then is removed when an agent starts here again."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(wait_s)
            self._thread = None


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it. Follows no links. Raises `OSError` for what stays."""
    _DirectoryTree(path).remove()
    os.rmdir(path)  # noqa: PTH106


class _DirectoryTree:
    """A directory that is being emptied."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark = secrets.token_hex(8)
        """Of names that are given here: nobody else knows it."""
        self._moved = 0
        self._error: OSError | None = None

    def remove(self) -> None:
        self._top = _open_up(self._path, None)
        try:
            self._device = os.fstat(self._top).st_dev
            before = -1
            while before != self._moved:  # what was moved to the top is there for the next round
                before, self._error = self._moved, None
                with os.scandir(self._top) as entries:
                    for entry in entries:
                        self._remove(entry.name)
        finally:
            os.close(self._top)
        if self._error is not None:
            raise self._error

    def _remove(self, name: str) -> None:
        """Remove an entry of the top."""
        try:
            if _unlink(name, self._top):
                return
            folder = _open_up(name, self._top, self._device)
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if not _unlink(entry.name, folder):
                            self._move(entry.name, folder)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=self._top)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._error = self._error or error

    def _move(self, name: str, folder: int) -> None:
        """Move a directory to the top."""
        os.close(_open_up(name, folder, self._device))  # it must be writable to be moved
        self._moved += 1
        os.rename(name, f"{self._mark}-{self._moved}", src_dir_fd=folder, dst_dir_fd=self._top)


def _unlink(name: str, folder: int) -> bool:
    """Remove what is not a directory. Returns False for a directory. Raises `OSError`."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return True
    except OSError:
        if stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
            return False
        raise
    return True


def _open_up(name: str, folder: int | None, device: int | None = None) -> int:
    """Open a directory for listing, whatever its mode is; it is set to 0700. Raises `OSError`."""
    handle = os.open(name, _DIRECTORY, dir_fd=folder)
    try:
        found = os.fstat(handle)
        if device is not None and found.st_dev != device:
            raise OSError(f"{name} is on another file system")
        path = f"/proc/self/fd/{handle}"
        if stat.S_IMODE(found.st_mode) & 0o700 != 0o700:
            os.chmod(path, 0o700)  # noqa: PTH101
        return os.open(path, _LIST)
    finally:
        os.close(handle)
