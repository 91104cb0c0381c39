"""Which peer answered last, remembered between processes in a file of the user's cache folder.

It is only a hint for the order in which peers are asked. An entry counts only if it is one of the caller's peers. So
a wrong, old or hostile file costs a fraction of a second and cannot send a token to another host. The file contains
no token. A file that cannot be read or written is ignored without an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

_FILE: Final = "leaders.json"
_ENTRIES_MAX: Final = 64
_BYTES_MAX: Final = 64 * 1024


def default_folder(environ: Mapping[str, str]) -> Path | None:
    """Return `$XDG_CACHE_HOME/raftflow`, else `~/.cache/raftflow`; None if the environment names neither."""
    base = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117 - a text, which the standard wants ignored if it is not absolute
        home = environ.get("HOME", "")
        if not os.path.isabs(home):  # noqa: PTH117
            return None
        base = f"{home}/.cache"
    return None if "\0" in base else Path(base) / "raftflow"


class LeaderCache:
    """The entry of one list of peers in the file of one folder."""

    def __init__(self, folder: Path, peers: Sequence[str]) -> None:
        self._folder = folder
        self._peers = frozenset(peers)
        # A hash: the file shows no addresses except the peers that answered.
        self._key = hashlib.sha256("\n".join(sorted(self._peers)).encode()).hexdigest()[:32]
        self._known: str | None = None

    def read(self) -> str | None:
        """Return the peer to ask first, None if none is known."""
        entry = self._entries().get(self._key)
        self._known = entry if entry in self._peers else None
        return self._known

    def write(self, peer: str) -> None:
        """Remember a peer, unless `read` found it or it is not one of the caller's peers."""
        if peer == self._known or peer not in self._peers:
            return
        self._known = peer
        entries = self._entries()
        entries.pop(self._key, None)
        entries[self._key] = peer  # the newest is the last
        kept = dict(list(entries.items())[-_ENTRIES_MAX:])
        with contextlib.suppress(OSError):
            self._replace(msgspec.json.encode(kept))

    def _entries(self) -> dict[str, str]:
        """Return the entries of the file; none if it is not a valid file of this user."""
        try:
            # A link or a FIFO at this path cannot block this process.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(self._folder / _FILE, flags)
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
                if not ours or found.st_size > _BYTES_MAX:
                    return {}
                return msgspec.json.decode(file.read(_BYTES_MAX), type=dict[str, str])
        except (OSError, ValueError, RecursionError):
            return {}

    def _replace(self, content: bytes) -> None:
        """Write the file in one step. Raises `OSError`."""
        # Only this level: a home directory that does not exist is not created.
        self._folder.parent.mkdir(mode=0o700, exist_ok=True)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if self._folder.stat().st_uid != os.geteuid():
            return  # as under sudo: a file of root in the folder of another user would block that user
        temporary = self._folder / f".{_FILE}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(self._folder / _FILE)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
