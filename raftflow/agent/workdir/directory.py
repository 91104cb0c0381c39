"""The agent's work directory: where it is, whether it can be trusted, and that no other agent uses it.

A program that can rename a part of the path can make the agent write and delete elsewhere. So every part must belong
to the agent's user or to root, must be writable by nobody else (a shared directory such as /tmp will do where it is
sticky, since then others cannot rename what is in it), and must not be a symbolic link.
"""

from __future__ import annotations

import fcntl
import grp
import logging
import os
import pwd
import re
import secrets
import socket
import stat
from hashlib import blake2b
from pathlib import Path

from raftflow.agent.config import AgentConfigError
from raftflow.agent.workdir.files import UnfitFileError, create_file, kind_of, read_file, write_all
from raftflow.agent.workdir.trash import TrashFolder

_log = logging.getLogger("raftflow.agent.workdir")

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CLOSE_WAIT_S = 2.0

EXCHANGE = "exchange"
ATTEMPTS = "attempts"
WORKERS = "workers"
INPUTS = "inputs"
CODE = "code"
_TRASH = "trash"
_HOME = "home"
_HOME_BYTES = 32
_HOME_PATTERN = re.compile(b"[0-9a-f]{32}")


class WorkDirectory:
    """A checked and locked work directory with its parts. Raises `AgentConfigError` if it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = os.path.normpath(path.absolute())
        self._locks: list[int] = []
        self._known = (0, 0)
        try:
            self._make()
        except AgentConfigError:
            self._unlock()
            raise
        self.trash = TrashFolder(Path(self.path) / _TRASH)
        for part in (EXCHANGE, INPUTS, CODE):
            self.empty(part)
        with os.scandir(f"{self.path}/{_TRASH}") as entries:
            for entry in entries:
                self.trash.put(entry.path)

    def part(self, name: str) -> str:
        """Return the path of a part."""
        return f"{self.path}/{name}"

    def home(self) -> str:
        """Return what identifies this directory on this host, for as long as it is there. Raises `AgentConfigError`.

        The host's name is part of it: a copy of the machine's disk, started elsewhere, is another home.
        """
        path = self.part(_HOME)
        try:
            kept = read_file(path, _HOME_BYTES, "the file of the work directory's identity")
        except UnfitFileError:
            kept = None
        if kept is None or not _HOME_PATTERN.fullmatch(kept):
            kept = secrets.token_hex(_HOME_BYTES // 2).encode()
            self.trash.put(path)
            try:
                fd = create_file(path, "the file of the work directory's identity")
            except (OSError, UnfitFileError) as error:
                raise AgentConfigError(f"work_dir: {path} cannot be made: {error}") from error
            try:
                write_all(fd, kept)
            except OSError as error:
                raise AgentConfigError(f"work_dir: {path} cannot be written: {error.strerror}") from error
            finally:
                os.close(fd)
        return blake2b(kept + socket.gethostname().encode(), digest_size=16).hexdigest()

    def mark(self) -> str:
        """Return what the environment of all that this directory's agents start is marked with.

        The path is part of it: the agent of a copy on this host has another mark. Raises `AgentConfigError`.
        """
        return blake2b((self.home() + self.path).encode(errors="surrogateescape"), digest_size=16).hexdigest()

    def restore(self) -> None:
        """Make again what somebody has removed, and restore permissions. Raises `OSError`."""
        try:
            self._make()
        except AgentConfigError as error:
            raise OSError(str(error)) from error

    def close(self) -> None:
        """Remove what is waiting to be removed, for a little while, and let others use it."""
        self.trash.close(_CLOSE_WAIT_S)
        self._unlock()

    def _unlock(self) -> None:
        for lock in self._locks:
            os.close(lock)
        self._locks = []

    def _make(self) -> None:
        try:
            fd = _open_checked(self.path)
        except OSError as error:
            raise AgentConfigError(f"work_dir: {self.path} cannot be used: {error.strerror or error}") from error
        try:
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != self._known:
                if self._locks:
                    _log.error("somebody removed or replaced the work directory %s: it is made again", self.path)
                self._lock(fd)
                self._known = (found.st_dev, found.st_ino)
            for part in (EXCHANGE, ATTEMPTS, WORKERS, INPUTS, CODE, _TRASH):
                _make_part(fd, part)
        except OSError as error:
            raise AgentConfigError(f"work_dir: {self.path} cannot be used: {error.strerror or error}") from error
        finally:
            os.close(fd)

    def _lock(self, fd: int) -> None:
        lock = os.open("lock", _LOCK, 0o600, dir_fd=fd)
        self._locks.append(lock)
        found = os.fstat(lock)
        if not stat.S_ISREG(found.st_mode):
            raise AgentConfigError(f"work_dir: {self.path}/lock is {kind_of(found.st_mode)}: remove it")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AgentConfigError(f"work_dir: {self.path} is in use by another agent; give each its own") from error

    def empty(self, part: str) -> None:
        """Remove all that is in a part."""
        with os.scandir(self.part(part)) as entries:
            for entry in entries:
                self.trash.put(entry.path)


def _make_part(fd: int, part: str) -> None:
    """Make a part of the work directory, a directory of this user with mode 0700."""
    try:
        os.mkdir(part, 0o700, dir_fd=fd)
    except FileExistsError:
        handle = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            found = os.fstat(handle)
            if not stat.S_ISDIR(found.st_mode):
                os.unlink(part, dir_fd=fd)
                os.mkdir(part, 0o700, dir_fd=fd)
            elif stat.S_IMODE(found.st_mode) != 0o700:
                os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101
        finally:
            os.close(handle)


def _open_checked(path: str) -> int:
    """Open a directory from the root on, part by part; those that are missing are made. Raises `OSError`."""
    here = "/"
    fd = os.open(here, _OPEN)
    try:
        for name in filter(None, path.split("/")):
            shared = _check_folder(here, os.fstat(fd))
            here = os.path.join(here, name)  # noqa: PTH118 - texts
            below = _enter(fd, name, here)
            os.close(fd)
            fd = below
            if shared:
                _check_own(here, os.fstat(fd), "in a directory that others may write to")
        found = os.fstat(fd)
        _check_own(here, found, "so it cannot be the agent's")
        _check_folder(here, found, last=True)
        if stat.S_IMODE(found.st_mode) != 0o700:
            if found.st_mode & 0o077:
                _log.warning("others may enter the work directory %s: taken away now", here)
            os.chmod(f"/proc/self/fd/{fd}", 0o700)  # noqa: PTH101
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_own(path: str, found: os.stat_result, where: str) -> None:
    if found.st_uid != os.geteuid():
        raise OSError(f"{path} belongs to another user (uid {found.st_uid}), {where}")


def _enter(fd: int, name: str, here: str) -> int:
    for _ in range(2):
        try:
            return os.open(name, _OPEN, dir_fd=fd)
        except FileNotFoundError:
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                pass
            except OSError as error:
                raise OSError(f"{here} cannot be made: {error.strerror}") from error
        except NotADirectoryError as error:
            found = kind_of(os.lstat(name, dir_fd=fd).st_mode)
            cure = f"; give the real path: {os.path.realpath(here)}" if "link" in found else ""
            raise OSError(f"{here} is {found}, not a directory{cure}") from error
    raise OSError(f"{here} is removed as soon as it is made")


def _check_folder(path: str, found: os.stat_result, *, last: bool = False) -> bool:
    """Raise `OSError` if others could replace what is in a directory. Returns whether they may write to it at all.

    Nobody else may write to the last one, sticky or not.
    """
    if path != "/" and found.st_uid not in (0, os.geteuid()):
        raise OSError(f"{path} belongs to user {found.st_uid}, neither to the agent's nor to root")
    others = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not _is_own_group(found.st_gid))
    if others and (last or not found.st_mode & stat.S_ISVTX):
        mode = stat.S_IMODE(found.st_mode)
        raise OSError(
            f"{path} may be written to by others (mode {mode:03o}): take that right away, or choose a private one"
        )
    return bool(others)


def _is_own_group(gid: int) -> bool:
    """Tell whether it is the group that many systems make for each user, of the same name and with nobody else."""
    if gid == 0 and os.geteuid() == 0:
        return True
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and not set(group.gr_mem) - {user.pw_name}
