"""Files with a secret in them: the cluster's secret, tokens, private keys. One rule for all readers.

A file is refused if its group or others may read or write it. One exception: others may read a file on a file system
that is mounted read-only. Nobody can change the mode there, and containers get their secrets in this way: Kubernetes
(0644 or 0440, owned by root) and Docker (0444) mount them read-only, for processes of any user. The rule is the same
for root. Links are followed, because Kubernetes uses them.

The text of an error says what is wrong and what to do, and never what the file contains.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

SECRET_BYTES_MAX: Final = 4_096
SECRETS_MAX: Final = 2
"""Of one kind in one file: the one that is used, and one that is accepted beside it."""
LOOK_EVERY_S: Final = 1.0
"""How often it is looked whether the file of a token in use has changed."""
_log = logging.getLogger(__name__)
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class PrivateFileError(ValueError):
    """The file cannot be used. Says what to do."""


def read_private(path: str | os.PathLike[str], what: str, *, how_to_make: str = "") -> bytes:
    """Return the content of a file without white space around it: at least one byte, at most `SECRET_BYTES_MAX`.

    Args:
        path: the file.
        what: its role, such as `token file`.
        how_to_make: advice for the error about a missing or empty file: how to make one.

    Raises `PrivateFileError`.
    """
    fd = _opened(path, what, how_to_make)
    try:
        data = os.read(fd, SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise PrivateFileError(f"the {what} {path} cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)
    if len(data) > SECRET_BYTES_MAX:
        raise PrivateFileError(f"the {what} {path} is longer than {SECRET_BYTES_MAX} bytes: is it another file?")
    if not data.strip():
        raise PrivateFileError(f"the {what} {path} is empty{how_to_make and '; '}{how_to_make}")
    return data.strip()


def check_private(path: str | os.PathLike[str], what: str) -> None:
    """Raise `PrivateFileError` unless this process, and nobody else, can read the file."""
    os.close(_opened(path, what, ""))


def read_token(path: str | os.PathLike[str]) -> str:
    """Return the token in a file, the first of two. Raises `PrivateFileError`."""
    return read_tokens(path)[0]


def read_tokens(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the tokens in a file, one or two lines: the first is sent, both are accepted.

    Raises `PrivateFileError`.
    """
    how = "write the cluster's token into it: (umask 077; cat > FILE), or copy the file from a replica"
    data = read_private(path, "token file", how_to_make=how.replace("FILE", str(path)))
    tokens = tuple(line.decode("ascii", "replace") for line in split_secrets(data))
    if not all(token.isascii() and token.isprintable() and " " not in token for token in tokens):
        raise PrivateFileError(
            f"the token file {path} must hold one token, or two in two lines while one replaces the other: printable "
            f"ASCII characters, no spaces"
        )
    if len(tokens) > SECRETS_MAX:
        raise PrivateFileError(
            f"the token file {path} has {len(tokens)} lines, and {SECRETS_MAX} tokens are the most"
        )
    return tokens


def split_secrets(data: bytes) -> list[bytes]:
    """Return the lines of a file with secrets, without white space around them and without empty ones."""
    return [line.strip() for line in data.split(b"\n") if line.strip()]


def open_private(path: str, flags: int) -> int:
    """Open a file as the `opener` of `open`: one that is made is its owner's alone, whatever the umask says."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def write_private(path: Path, content: str | bytes) -> None:
    """Put a whole file that its owner alone may read in its place, or leave what was there. Raises `OSError`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folders(directory: Path) -> None:
    """Make a folder and what is missing above it, all for their owner alone, whatever the umask says.

    An empty folder that is there is closed to others. One that holds something stays as it is. Raises `OSError`.
    """
    try:
        directory.mkdir(mode=0o700)
    except FileNotFoundError:
        make_folders(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileExistsError:
        if not directory.is_dir():
            raise
        found = directory.stat()
        if found.st_mode & 0o077 and found.st_uid == os.geteuid() and not any(directory.iterdir()):
            directory.chmod(0o700)


def close_to_others(directory: Path) -> list[str]:
    """Take the rights of group and others from a folder and from all that is in it.

    Left alone are links, what belongs to another user, and files with several names: who may write to the folder
    could have given the file of another folder a name here. Returns what was changed, the folder first. Raises
    `OSError`.
    """
    changed = []
    for path, _, names, fd in os.fwalk(directory):
        if _close_to_others(fd):  # before what is in it: from now on nobody else can put anything there
            changed.append(path)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o077 or found.st_nlink != 1:
                    continue
                file = os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=fd)
                try:
                    if _close_to_others(file):
                        changed.append(os.path.join(path, name))  # noqa: PTH118 - texts
                finally:
                    os.close(file)
    return changed


def _close_to_others(fd: int) -> bool:
    found = os.fstat(fd)
    is_name_of_another = stat.S_ISREG(found.st_mode) and found.st_nlink != 1
    if not found.st_mode & 0o077 or found.st_uid != os.geteuid() or is_name_of_another:
        return False
    os.fchmod(fd, stat.S_IMODE(found.st_mode) & ~0o077)
    return True


def make_private_folder(directory: Path, holds: str) -> None:
    """Make a folder that its owner alone may enter, or check one; an empty one is closed to others.

    `holds` says what the folder holds. Raises `PrivateFileError` if others may enter it, `OSError`.
    """
    if not os.path.lexists(directory):
        make_folders(directory)
        return
    if not directory.is_dir():
        raise PrivateFileError(f"{directory} is not a directory; choose another one with --dir")
    if stat.S_IMODE(directory.stat().st_mode) & 0o077 == 0:
        return
    if any(directory.iterdir()):
        raise PrivateFileError(
            f"other users may enter {directory}, and it holds {holds}. "
            f"Run: chmod 700 {directory}   or choose another directory with --dir"
        )
    directory.chmod(0o700)


class TokenInUse:
    """The token that a program sends. If it comes from a file, it is read again when that has changed.

    Args:
        token: the token; empty for none.
        path: the file that has it; None if no file has.
        access: makes what holds while the file is looked at and read.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        token: str,
        path: str | os.PathLike[str] | None = None,
        *,
        access: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token = token
        self._path = None if path is None else Path(path)
        self._access = access
        self._clock = clock
        self._seen = self._look()
        self._looked_s = clock()

    def current(self) -> str:
        """Return the token. At most once in `LOOK_EVERY_S` it is looked whether its file has changed."""
        if self._path is not None and self._clock() - self._looked_s >= LOOK_EVERY_S:
            self.read_again(changed_only=True)
        return self._token

    def read_again(self, *, changed_only: bool = False) -> bool:
        """Read the file again. Return whether it has another token. One that cannot be used changes nothing."""
        if self._path is None:
            return False
        self._looked_s = self._clock()
        seen = self._look()
        if changed_only and seen == self._seen:
            return False
        is_news, self._seen = seen != self._seen, seen
        try:
            with self._access():
                token = read_token(self._path)
        except PrivateFileError as error:
            if is_news:
                _log.error("the token stays as it was: %s", error)
            return False
        changed, self._token = token != self._token, token
        if changed:
            _log.info("there is another token in %s", self._path)
        return changed

    def _look(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            with self._access():
                found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns


def _opened(path: str | os.PathLike[str], what: str, how_to_make: str) -> int:
    """Return a descriptor of a file that is regular and private. Never blocks, also not on a FIFO."""
    try:
        fd = os.open(path, _OPEN)
    except FileNotFoundError as error:
        advice = how_to_make or "correct the path, or put the file there"
        raise PrivateFileError(f"the {what} {path} does not exist; {advice}") from error
    except PermissionError as error:
        advice = _advice_on_access(path)
        raise PrivateFileError(f"the {what} {path} cannot be read by user {_me()}; {advice}") from error
    except OSError as error:
        raise PrivateFileError(f"the {what} {path} cannot be read: {error.strerror}") from error
    try:
        _check(fd, path, what)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(fd: int, path: str | os.PathLike[str], what: str) -> None:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory: name the file in it" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise PrivateFileError(f"the {what} {path} is {kind}")
    if not status.st_mode & 0o077:
        return
    is_fixed = os.fstatvfs(fd).f_flag & os.ST_RDONLY and not status.st_mode & 0o022
    if not is_fixed:
        mode = stat.S_IMODE(status.st_mode)
        as_owner = "" if status.st_uid == os.geteuid() else f" as {_name(status.st_uid)}"
        raise PrivateFileError(
            f"others may read or write the {what} {path} (its mode is {mode:04o}); run{as_owner}: chmod 600 {path}"
        )


def _advice_on_access(path: str | os.PathLike[str]) -> str:
    """Say what to do about a file that this process may not read. Never advise a new file: this one may be in use."""
    try:
        status = Path(path).stat()
    except OSError:
        return "it may not enter a directory on the way there: start raftflow as another user, or open the directory"
    owner = _name(status.st_uid)
    if status.st_uid == os.geteuid():
        return f"its mode is {stat.S_IMODE(status.st_mode):04o}; run: chmod 600 {path}"
    return f"it belongs to {owner}: start raftflow as {owner}, or run as root: chown {_me()} {path}"


def _me() -> str:
    return _name(os.geteuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
