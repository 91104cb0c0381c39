"""Code bundles on an agent: fetched from any replica, unpacked once, shared by the attempts that run with them.

A folder in `WORKDIR/code` holds the files of one bundle. Tasks run as the agent's own user, so they can change what
is there although it is read-only. The kernel notes every change of a file or a folder in its `ctime`, which nobody
can set. So before an attempt starts, the folder is compared with what was noted when it was unpacked, and one that
was changed is unpacked again, under another name: attempts that run keep theirs.

The folders are bounded in bytes and in number. Those that no attempt uses go first, the least recently used before
the others. An agent begins with none of them: what an earlier one has left cannot be trusted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from raftflow.agent.workdir.directory import CODE
from raftflow.agent.workdir.files import UnfitFileError, create_file, open_folder, opened_folder, write_all
from raftflow.agent.workdir.inputs import ASK_S, PATIENCE_S, InputsError, InputsRefusedError, ReplicaUnavailableError
from raftflow.domain.limits import BUNDLE_BYTES_MAX, BUNDLE_PIECE_BYTES_MAX
from raftflow.domain.values.code_bundle import BundleError, BundleFile, digest_of, read_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.agent.workdir.directory import WorkDirectory

T = TypeVar("T")

_log = logging.getLogger("raftflow.agent.code")

FOLDERS_MAX: Final = 64
"""Bundles that are kept unpacked; more only while attempts use them."""
FETCHES_MAX: Final = 2
"""Bundles that are fetched at the same time: each is in memory until it is unpacked."""
FEW_ENTRIES: Final = 64
"""A folder with so many files and folders is compared on the event loop: a thread would cost more."""
_SETTLE_S: Final = 0.03
"""Longer than the step of the clock that `ctime` comes from: a change after this time has another one."""
_WAIT_MIN_S: Final = 0.02
_WAIT_MAX_S: Final = 1.0

_FOLDER_MODE: Final = 0o555
_FILE_MODE: Final = 0o444
_PROGRAM_MODE: Final = 0o555

_Identity = tuple[int, int, int, int]
"""Inode, mode, size and time of the last change."""


class CodeSource(Protocol):
    """Where bundles come from."""

    def replicas(self) -> list[str]:
        """Return the replicas, in the order in which they should be asked."""

    async def code(self, replica: str, digest: str, offset: int, timeout_s: float) -> bytes:
        """Ask for a piece of a bundle. Raises `ReplicaUnavailableError`, `InputsRefusedError`."""


class CodeFolder:
    """The unpacked files of a bundle."""

    __slots__ = ("_entries", "dropped", "path", "size", "used_s", "users")

    def __init__(self, path: str, entries: dict[str, _Identity], size: int) -> None:
        self.path = path
        self._entries = entries
        self.size = size
        self.users = 0
        """Attempts that run with it."""
        self.used_s = 0.0
        self.dropped = False
        """It is removed when its last attempt has ended."""

    @property
    def is_small(self) -> bool:
        """Whether `is_intact` takes no time to speak of."""
        return len(self._entries) <= FEW_ENTRIES

    def is_intact(self) -> bool:
        """Tell whether every file and folder is as it was when it was unpacked, and nothing was added."""
        try:
            return all(_identity(os.lstat(path)) == known for path, known in self._entries.items())
        except OSError:
            return False


class CodeCache:
    """The code of attempts.

    Args:
        source: where bundles come from.
        work: the work directory.
        bytes_max: of the folders that are kept, all together; those in use count, and are kept even beyond it.
    """

    def __init__(
        self, source: CodeSource, work: WorkDirectory, *, bytes_max: int, patience_s: float = PATIENCE_S
    ) -> None:
        self._source = source
        self._work = work
        self._bytes_max = bytes_max
        self._patience_s = patience_s
        self._folders: dict[str, CodeFolder] = {}
        """By digest."""
        self._making: dict[str, asyncio.Lock] = {}
        self._room = asyncio.Semaphore(FETCHES_MAX)
        self._number = 0
        self._thread = ThreadPoolExecutor(1, "code")

    def take_ready(self, digest: str) -> CodeFolder | None:
        """Return the folder of a bundle for one more attempt, if it is there and cheap to check; None otherwise."""
        folder = self._folders.get(digest)
        if folder is None or not folder.is_small or not folder.is_intact():
            return None
        return self._use(folder)

    async def take(self, digest: str) -> CodeFolder:
        """Return the folder of a bundle for one more attempt. Fetch and unpack the bundle if necessary.

        Raises `InputsError`. Being cancelled leaves nothing behind.
        """
        lock = self._making.setdefault(digest, asyncio.Lock())
        try:
            async with lock:
                folder = self._folders.get(digest)
                if folder is not None and not await self._off_loop(folder.is_intact):
                    _log.warning("the code of bundle %s was changed by a task, and is unpacked again", digest)
                    self._drop(digest)
                    folder = None
                if folder is None:
                    folder = self._folders[digest] = await self._make(digest)
                self._use(folder)
        finally:
            if not lock.locked() and self._making.get(digest) is lock:
                del self._making[digest]
        self._evict()
        return folder

    def give_back(self, folder: CodeFolder) -> None:
        """Note that an attempt no longer runs with a folder."""
        folder.users -= 1
        folder.used_s = asyncio.get_running_loop().time()
        if folder.dropped and folder.users == 0:
            self._work.trash.put(folder.path)
        elif len(self._folders) > FOLDERS_MAX:
            self._evict()

    def close(self) -> None:
        """End the thread when it has done what it was given."""
        self._thread.shutdown(wait=False)

    def _use(self, folder: CodeFolder) -> CodeFolder:
        folder.users += 1
        folder.used_s = asyncio.get_running_loop().time()
        return folder

    def _drop(self, digest: str) -> None:
        folder = self._folders.pop(digest)
        folder.dropped = True
        if folder.users == 0:
            self._work.trash.put(folder.path)

    def _evict(self) -> None:
        """Remove folders that nobody uses while there are too many."""
        size = sum(folder.size for folder in self._folders.values())
        idle = sorted(
            (digest for digest, folder in self._folders.items() if folder.users == 0),
            key=lambda digest: self._folders[digest].used_s,
        )
        for digest in idle:
            if size <= self._bytes_max and len(self._folders) <= FOLDERS_MAX:
                return
            size -= self._folders[digest].size
            self._drop(digest)

    async def _make(self, digest: str) -> CodeFolder:
        async with self._room:
            bundle = await self._fetch(digest)
            try:
                return await self._off_loop(partial(self._unpack, digest, bundle))
            except BundleError as error:
                raise InputsError(f"its code bundle {digest} cannot be unpacked: {error}") from error
            except (OSError, UnfitFileError) as error:
                raise InputsError(f"its code bundle {digest} cannot be unpacked: {error}", own=True) from error

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- fetching

    async def _fetch(self, digest: str) -> bytes:
        """Return the bundle. One whose bytes do not have the digest is asked of another replica."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._patience_s
        wait_s = _WAIT_MIN_S
        while True:
            why = "no replica could be asked"
            for replica in self._source.replicas():
                try:
                    bundle = await self._fetch_from(replica, digest)
                except (ReplicaUnavailableError, InputsRefusedError) as error:
                    why = str(error)
                    continue
                if await self._off_loop(partial(digest_of, bundle)) == digest:
                    return bundle
                why = f"{replica}: what it has is not the bundle"
            if loop.time() >= until_s:
                # Nothing is wrong with this agent or with the task: the next attempt may find the bundle.
                raise InputsError(
                    f"no replica gave its code bundle {digest} for {self._patience_s:g} s: {why}", over=True
                )
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            wait_s = min(wait_s * 2, _WAIT_MAX_S)

    async def _fetch_from(self, replica: str, digest: str) -> bytes:
        content = bytearray()
        while True:
            piece = await self._source.code(replica, digest, len(content), ASK_S)
            content += piece
            if len(content) > BUNDLE_BYTES_MAX:
                raise InputsRefusedError(f"{replica}: more bytes than a bundle may have")
            if len(piece) < BUNDLE_PIECE_BYTES_MAX:
                return bytes(content)

    # --- unpacking, in the thread

    def _unpack(self, digest: str, bundle: bytes) -> CodeFolder:
        """Write the files and make sure that they are what the bundle says. Raises `OSError`, `UnfitFileError`."""
        files = list(read_bundle(bundle))
        self._number += 1
        path = f"{self._work.part(CODE)}/{digest[:16]}-{self._number}"
        try:
            self._make_folder(path)
            folders = _write_files(path, files)
            time.sleep(_SETTLE_S)
            entries = _note(path, folders, files)
        except BaseException:
            self._work.trash.put(path)
            raise
        return CodeFolder(path, entries, len(bundle))

    def _make_folder(self, path: str) -> None:
        try:
            os.mkdir(path, 0o700)  # noqa: PTH102 - a plain path
        except FileExistsError:
            self._work.trash.put(path)
            os.mkdir(path, 0o700)  # noqa: PTH102
        except OSError:
            self._work.restore()
            os.mkdir(path, 0o700)  # noqa: PTH102


def _write_files(path: str, files: list[BundleFile]) -> list[str]:
    """Write the files below a new folder. Returns all folders, deepest first, which are read-only then."""
    folders = {""}
    for file in files:
        for parent in reversed(PurePosixPath(file.path).parents[:-1]):
            if str(parent) not in folders:
                folders.add(str(parent))
                with opened_folder(_join(path, _above(str(parent))), "a folder of the code") as fd:
                    os.mkdir(parent.name, 0o700, dir_fd=fd)
        with opened_folder(_join(path, _above(file.path)), "a folder of the code") as fd:
            written = create_file(PurePosixPath(file.path).name, "a file of the code", folder=fd)
        try:
            write_all(written, bytes(file.content))
            os.fchmod(written, _PROGRAM_MODE if file.executable else _FILE_MODE)
        finally:
            os.close(written)
    deepest_first = sorted(folders, key=lambda folder: folder.count("/") + bool(folder), reverse=True)
    for folder in deepest_first:
        opened = open_folder(_join(path, folder), "a folder of the code")
        if opened is None:
            raise UnfitFileError("a folder of the code is gone")
        try:
            os.chmod(f"/proc/self/fd/{opened}", _FOLDER_MODE)  # noqa: PTH101
        finally:
            os.close(opened)
    return deepest_first


def _note(path: str, folders: list[str], files: list[BundleFile]) -> dict[str, _Identity]:
    """Return what identifies each file and folder as it is, after a look that the files are those of the bundle.

    Raises `UnfitFileError` if they are not.
    """
    found = {_join(path, folder): _identity(os.lstat(_join(path, folder))) for folder in folders}
    for file in files:
        name = _join(path, file.path)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            before = os.fstat(fd)
            found[name] = _identity(before)
            content = b""
            if stat.S_ISREG(before.st_mode) and before.st_nlink == 1:
                with open(fd, "rb", closefd=False) as opened:
                    content = opened.read(len(file.content) + 1)
            if content != file.content or _identity(os.fstat(fd)) != found[name]:
                raise UnfitFileError("a file of the code was changed while it was unpacked")
        finally:
            os.close(fd)
    if any(_identity(os.lstat(_join(path, folder))) != found[_join(path, folder)] for folder in folders):
        raise UnfitFileError("a folder of the code was changed while it was unpacked")
    return found


def _identity(found: os.stat_result) -> _Identity:
    return found.st_ino, found.st_mode, found.st_size, found.st_ctime_ns


def _join(path: str, below: str) -> str:
    return f"{path}/{below}" if below else path


def _above(path: str) -> str:
    return path.rpartition("/")[0]
