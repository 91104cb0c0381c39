"""The folder of code bundles of one replica: a file for each, named by its digest.

A file gets its name when it is complete and on the disk, so a power loss leaves no half of one. A file is compared
with its digest when it is read for the first time in this process: one that was damaged is removed, and the replica
fetches it again from another one.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from raftflow.domain.values.code_bundle import digest_of, is_digest

if TYPE_CHECKING:
    from pathlib import Path

    from raftflow.replication.files import FileSystem

_log = logging.getLogger(__name__)

FOLDER: Final = "bundles"
"""In the data directory."""
_NEW: Final = ".new"
"""Ends the name of a file that is being written."""


class BundleMissingError(Exception):
    """This replica does not have the bundle."""


class BundleStore:
    """Keeps bundles. Everything that takes time runs beside the event loop."""

    def __init__(self, fs: FileSystem, data_dir: Path) -> None:
        self._fs = fs
        self._folder = data_dir / FOLDER
        self._kept: dict[str, bool] = {}
        """By digest of what is on the disk: whether this process has compared it with its digest."""

    def open(self) -> None:
        """Look at what is on the disk. Raises `OSError`."""
        try:
            names = self._fs.list_dir(self._folder)
        except FileNotFoundError:
            return
        for name in names:
            if is_digest(name):
                self._kept[name] = False
            elif name.endswith(_NEW):
                self._fs.remove(self._folder / name)

    @property
    def digests(self) -> list[str]:
        """What is kept."""
        return list(self._kept)

    def has(self, digest: str) -> bool:
        """Tell whether a bundle is on the disk."""
        return digest in self._kept

    async def put(self, digest: str, bundle: bytes) -> None:
        """Keep a bundle whose digest was checked. It is on the disk when this returns. Raises `OSError`."""
        await self._fs.off_loop(lambda: self.write(digest, bundle))
        self._kept[digest] = True

    def write(self, digest: str, bundle: bytes) -> None:
        """Write a bundle to the disk, blocking. Raises `OSError`."""
        self._fs.make_dir(self._folder)
        new = self._folder / f"{digest}{_NEW}"
        self._fs.remove(new)
        file = self._fs.open(new, create=True)
        try:
            file.write_at(0, bundle)
            file.sync()
        except OSError:
            with contextlib.suppress(OSError):
                self._fs.remove(new)
            raise
        finally:
            file.close()
        self._fs.rename(new, self._folder / digest)
        self._fs.sync_dir(self._folder)

    async def read(self, digest: str, offset: int, limit: int) -> bytes:
        """Return a piece of a bundle; nothing at its end. Raises `BundleMissingError`, `OSError`."""
        if digest not in self._kept:
            raise BundleMissingError
        try:
            return await self._fs.off_loop(lambda: self._read(digest, offset, limit))
        except FileNotFoundError:
            self._kept.pop(digest, None)
            raise BundleMissingError from None
        except _DamagedError:
            _log.error("the code bundle %s on the disk is damaged: it is removed, and fetched again", digest)
            await self.remove(digest)
            raise BundleMissingError from None

    def _read(self, digest: str, offset: int, limit: int) -> bytes:
        path = self._folder / digest
        if not self._kept.get(digest):
            bundle = self._fs.read(path)
            if digest_of(bundle) != digest:
                raise _DamagedError
            self._kept[digest] = True
            return bundle[offset : offset + limit]
        file = self._fs.open(path)
        try:
            return file.read_at(offset, limit)
        finally:
            file.close()

    async def remove(self, digest: str) -> None:
        """Remove a bundle. Raises `OSError`."""
        self._kept.pop(digest, None)
        await self._fs.off_loop(lambda: self._fs.remove(self._folder / digest))


class _DamagedError(Exception):
    """A file does not have its digest."""
