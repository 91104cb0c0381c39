"""Certificates in use: checked before they are used, and read again while the process runs.

New files make new contexts, for the connections that begin from then on. Connections that stand go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

LOOK_EVERY_S: Final = 30.0
"""How often changed files are looked for."""

_FLIGHTS_MAX: Final = 10
"""More than a handshake has."""

FileState = tuple[int, int, int] | None
"""Device, number and time of change of a file; None if it is not there."""

_log = logging.getLogger(__name__)


def check_handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Let two contexts meet in memory: each certificate must be valid now and signed by an authority of the other.

    Raises `ssl.SSLError` with the reason. Names are not compared.
    """
    client.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_FLIGHTS_MAX):
        for end in tuple(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)
    if ends:
        raise ssl.SSLError("the two sides do not come to an end")


def tls_reason(error: ssl.SSLError) -> str:
    """Return why a certificate was refused, in words."""
    return str(getattr(error, "verify_message", "") or error.reason or error)


def check_dates(cert: Path, server: ssl.SSLContext) -> None:
    """Check that the certificate of a context is valid now, whatever its authority is. Raises `ssl.SSLError`."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cafile=cert)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    check_handshake(server, client)


@dataclass(slots=True)
class _Loaded:
    """Files, and what puts them to use."""

    paths: tuple[Path, ...]
    load: Callable[[], None]
    seen: list[FileState] = field(default_factory=list)


class CertificateReloader:
    """Reads the certificates of a process again: when it is asked to, and when a file has changed.

    Args:
        access: makes what holds while files are looked at and read.
    """

    def __init__(self, access: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext) -> None:
        self._access = access
        self._loaded: list[_Loaded] = []

    def add(self, paths: Iterable[Path], load: Callable[[], None]) -> None:
        """Look after some files. `load` puts them to use, or raises `ValueError` and changes nothing."""
        named = tuple(paths)
        with self._access():
            self._loaded.append(_Loaded(named, load, _look_at(named)))

    def reload(self, *, changed_only: bool = False) -> None:
        """Read all files again, or those that have changed. What cannot be used is logged, and the old one stays."""
        with self._access():
            self._reload(changed_only=changed_only)

    def _reload(self, *, changed_only: bool) -> None:
        for each in self._loaded:
            state = _look_at(each.paths)
            if changed_only and state == each.seen:
                continue
            each.seen = state
            names = ", ".join(map(str, each.paths))
            try:
                each.load()
            except ValueError as error:
                _log.error("what was read before stays in use: %s", error)
            else:
                _log.info("read again: %s", names)

    async def watch(self, every_s: float = LOOK_EVERY_S) -> None:
        """Read files again when they have changed, until it is cancelled. It looks every `every_s` seconds."""
        while self._loaded:
            await asyncio.sleep(every_s)
            self.reload(changed_only=True)


def _look_at(paths: Iterable[Path]) -> list[FileState]:
    return [_state_of(path) for path in paths]


def _state_of(path: Path) -> FileState:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
