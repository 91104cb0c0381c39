"""Opens the files that tasks can touch: results, captured output, progress, inputs.

A task runs as the agent's own user, so in the folders of the agent it may put anything in place of anything: a FIFO,
a link, a device, a directory, a file that grows while it is read. So nothing of that is opened in any other way than
here. What is here never waits, never follows a link, takes regular files of the agent's own user with one name only,
and reads no more than it was told. Whatever else it finds is an `UnfitFileError`, whose text names the role of the
file and what was there.

It knows nothing of the rest of the agent: the launcher and the workers use it too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator

_CHUNK_BYTES = 1 << 16
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = _PATH | os.O_DIRECTORY
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


_OF_THE_SYSTEM = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,
        errno.ENOMEM,
        errno.ENOBUFS,
    }
)


def is_of_the_system(error: BaseException | None) -> bool:
    """Tell whether an error, or what caused it, is the machine's: no space, no descriptors, no memory, a bad disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
            return True
        error = error.__cause__
    return False


class UnfitFileError(Exception):
    """A file is not what it has to be. The text names its role and what was found."""


def kind_of(mode: int) -> str:
    """Return in words what a mode of `stat` stands for."""
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a regular file")


def check(found: os.stat_result, role: str) -> None:
    """Raise `UnfitFileError` unless it is a regular file of this user with one name."""
    if not stat.S_ISREG(found.st_mode):
        raise UnfitFileError(f"{role} cannot be read: there is {kind_of(found.st_mode)} in place of a regular file")
    if found.st_uid != os.geteuid():
        raise UnfitFileError(f"{role} cannot be read: the file belongs to user {found.st_uid}, not to the agent's")
    if found.st_nlink != 1:
        raise UnfitFileError(f"{role} cannot be read: the file has {found.st_nlink} names (hard links), not one")


@contextlib.contextmanager
def opened_folder(path: str, role: str, *, inode: int | None = None) -> Iterator[int | None]:
    """Open a directory as `open_folder` does, for the time of a `with` block. Yields None if it is missing."""
    fd = open_folder(path, role, inode=inode)
    try:
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


@contextlib.contextmanager
def opened_below(path: str, role: str) -> Iterator[int | None]:
    """Open a directory like `opened_folder`, not following a link in the last part but one either."""
    above, _, name = path.rpartition("/")
    with opened_folder(above, role) as fd:
        if fd is None:
            yield None
        else:
            with opened_folder(f"/proc/self/fd/{fd}/{name}", role) as below:
                yield below


def open_folder(path: str, role: str, *, inode: int | None = None) -> int | None:
    """Open a directory, not following a link in its last part. Returns its descriptor, None if it is missing.

    `inode` is its number if it is known: another directory in its place is unfit. Raises `UnfitFileError`.
    """
    try:
        fd = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnfitFileError(f"{role} cannot be opened: {_found(path, None, error)}") from error
    if inode is not None and os.fstat(fd).st_ino != inode:
        os.close(fd)
        raise UnfitFileError(f"{role} cannot be opened: another directory is in its place")
    return fd


def open_file(name: str, role: str, *, folder: int | None = None, write: bool = False) -> int | None:
    """Open a file for reading, or with `write` for writing too, and return the descriptor; None if it is missing.

    `folder` is the descriptor of the directory that `name` is in. Raises `UnfitFileError`.
    """
    try:
        handle = os.open(name, _PATH, dir_fd=folder)  # opens nothing: a device or a FIFO hears nothing of it
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnfitFileError(f"{role} cannot be read: {error.strerror}") from error
    try:
        check(os.fstat(handle), role)
        return os.open(f"/proc/self/fd/{handle}", _READ | os.O_RDWR if write else _READ)
    except OSError as error:
        raise UnfitFileError(f"{role} cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)


def read_file(name: str, bytes_max: int, role: str, *, folder: int | None = None) -> bytes | None:
    """Return what is in a file, None if it is missing. Raises `UnfitFileError`, also for more than `bytes_max`."""
    fd = open_file(name, role, folder=folder)
    if fd is None:
        return None
    parts: list[bytes] = []
    left = bytes_max + 1  # it may grow while it is read
    try:
        while left > 0 and (part := os.read(fd, min(left, _CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
        if left <= 0:
            size = os.fstat(fd).st_size
            raise UnfitFileError(f"{role} has {size} bytes, the limit is {bytes_max}")
    except OSError as error:
        raise UnfitFileError(f"{role} cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)
    return b"".join(parts)


def create_file(name: str, role: str, *, folder: int | None = None, flags: int = os.O_WRONLY) -> int:
    """Create a file that must not be there yet, and return its descriptor. Raises `UnfitFileError`.

    What the system itself cannot do (no space, no descriptors) is an `OSError`.
    """
    try:
        return os.open(name, flags | _NEW, 0o600, dir_fd=folder)
    except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UnfitFileError(f"{role} cannot be created: {_found(name, folder, error)}") from error


class CaptureFolder:
    """The folder `root/attempts/<fence>` for the output of one attempt, made with the first file in it.

    If something is there already, another attempt put it there: it is moved to `root/trash`.
    """

    __slots__ = ("_made", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._made = False

    def create(self, name: str, role: str, flags: int = os.O_WRONLY) -> int:
        """Create a file in it and return the descriptor. Raises as `create_file` does."""
        if not self._made:
            self._make(role)
            self._made = True
        with opened_below(self.path, role) as fd:
            if fd is None:
                raise UnfitFileError(f"{role} cannot be created: its folder was removed")
            return create_file(name, role, folder=fd, flags=flags)

    def _make(self, role: str) -> None:
        above, _, name = self.path.rpartition("/")
        trash = above.rpartition("/")[0] + "/trash"
        with opened_folder(above, role) as fd:
            if fd is None:
                raise UnfitFileError(f"{role} cannot be created: the folder above it was removed")
            try:
                try:
                    os.mkdir(name, 0o700, dir_fd=fd)  # runs once an attempt
                except FileExistsError:
                    with opened_folder(trash, "the trash") as target:
                        os.rename(name, secrets.token_hex(8), src_dir_fd=fd, dst_dir_fd=target)
                    os.mkdir(name, 0o700, dir_fd=fd)
            except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
                raise UnfitFileError(f"{role} cannot be created: {_found(name, fd, error)}") from error


def write_all(fd: int, data: bytes) -> None:
    """Write everything. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _found(name: str, folder: int | None, error: OSError) -> str:
    """Return in words what prevents opening or creating something."""
    try:
        mode = os.lstat(name, dir_fd=folder).st_mode
    except OSError:
        return str(error.strerror)
    if isinstance(error, PermissionError):
        return f"{error.strerror} (mode {stat.S_IMODE(mode):03o})"
    return f"{kind_of(mode)} is in its place"
