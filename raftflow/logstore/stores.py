"""The stores: a folder, and S3."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from obstore.store import S3Store as _ObjectStore

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_ONCE_BYTES = 8 << 20
"""What is larger goes to S3 in parts."""


class LogStoreError(Exception):
    """A store cannot be used, or did not do what it should. Says why."""

    def __init__(self, message: str, *, is_damage: bool = False) -> None:
        """`is_damage` says that it is the same the next time: what is in the store is not what should be there."""
        super().__init__(message)
        self.is_damage = is_damage


class LogStore(Protocol):
    """Keeps objects under keys such as `wf-1/task/1-7/stdout`. Every call raises `LogStoreError`."""

    def put(self, key: str, chunks: Iterator[bytes]) -> None:
        """Keep an object, all of it or nothing, in place of one that was there."""

    def get(self, key: str, offset: int, count: int) -> bytes | None:
        """Return at most `count` bytes of an object from a byte on, None if there is no such object."""


def open_store(place: str) -> LogStore:
    """Return the store at a path, or a URL `file:///path` or `s3://bucket/prefix`. Raises `LogStoreError`."""
    parts = urlsplit(place)
    if parts.scheme == "s3":
        return S3Store(parts.netloc, parts.path.strip("/"), place)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise LogStoreError(f"{place!r} names a machine; write file:///path")
        place = unquote(parts.path)
    elif "://" in place:
        raise LogStoreError(f"{place!r} is not a place for logs: give a path, file:///path or s3://bucket/prefix")
    if not os.path.isabs(place):  # noqa: PTH117 - a text
        raise LogStoreError(f"{place!r} is not an absolute path; give one, file:///path or s3://bucket/prefix")
    return FolderStore(place)


class FolderStore:
    """A folder. It must be there: a file system that is not mounted must not be taken for an empty store."""

    def __init__(self, path: str) -> None:
        self._path = path

    def put(self, key: str, chunks: Iterator[bytes]) -> None:
        """See `LogStore`. Files have mode 0640, folders 0750, and the group that the folder's setgid bit gives."""
        try:
            with contextlib.ExitStack() as opened:
                folder = self._enter(key, opened, make=True)
                name = key.rpartition("/")[2]
                fresh = f".{secrets.token_hex(8)}.part"
                fd = os.open(fresh, _NEW, 0o640, dir_fd=folder)
                try:
                    opened.callback(os.close, fd)
                    for chunk in chunks:
                        view = memoryview(chunk)
                        while view:
                            view = view[os.write(fd, view) :]
                    os.fsync(fd)
                    os.rename(fresh, name, src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(fresh, dir_fd=folder)
                    raise
        except OSError as error:
            raise LogStoreError(f"the log store {self._path} does not take {key}: {error.strerror}") from error

    def get(self, key: str, offset: int, count: int) -> bytes | None:
        """See `LogStore`. No link is followed below the folder."""
        try:
            with contextlib.ExitStack() as opened:
                try:
                    folder = self._enter(key, opened, make=False)
                    fd = os.open(key.rpartition("/")[2], _READ, dir_fd=folder)
                except FileNotFoundError:
                    os.stat(self._path)  # noqa: PTH116 - or the store itself is not there
                    return None
                opened.callback(os.close, fd)
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise LogStoreError(f"{key} in the log store {self._path} is not a regular file", is_damage=True)
                return os.pread(fd, count, offset)
        except OSError as error:
            raise LogStoreError(f"the log store {self._path} does not give {key}: {error.strerror}") from error

    def _enter(self, key: str, opened: contextlib.ExitStack, *, make: bool) -> int:
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, fd)
        for name in key.split("/")[:-1]:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o750, dir_fd=fd)
            fd = os.open(name, _FOLDER, dir_fd=fd)
            opened.callback(os.close, fd)
        return fd


class S3Store:
    """A bucket of S3 or of what speaks its protocol. Keys, region and endpoint come from the variables `AWS_*`."""

    def __init__(self, bucket: str, prefix: str, place: str) -> None:
        if not bucket:
            raise LogStoreError(f"{place!r} names no bucket; write s3://bucket/prefix")
        if importlib.util.find_spec("obstore") is None:
            raise LogStoreError(f"{place} needs the package obstore: pip install 'raftflow[s3]'")
        self._place = place
        self._bucket = bucket
        self._prefix = prefix
        self._made: _ObjectStore | None = None

    def _store(self) -> _ObjectStore:
        if self._made is None:
            from obstore.store import S3Store as ObjectStore  # noqa: PLC0415 - optional

            options: Any = {"connect_timeout": "5s", "timeout": "60s"}
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
            if endpoint.startswith("http://"):
                options["allow_http"] = True
            self._made = ObjectStore(
                self._bucket,
                prefix=self._prefix or None,
                client_options=options,
                retry_config={"max_retries": 1},  # who calls tries again, and in no hurry
            )
        return self._made

    def put(self, key: str, chunks: Iterator[bytes]) -> None:
        """See `LogStore`."""
        head = bytearray()
        for chunk in chunks:
            head += chunk
            if len(head) > _AT_ONCE_BYTES:
                break
        try:
            if len(head) <= _AT_ONCE_BYTES:
                self._store().put(key, bytes(head), use_multipart=False)
            else:
                self._store().put(key, _chain(bytes(head), chunks))
        except Exception as error:
            raise self._failed("does not take", key, error) from error

    def get(self, key: str, offset: int, count: int) -> bytes | None:
        """See `LogStore`."""
        try:
            return bytes(self._store().get_range(key, start=offset, length=count))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed("does not give", key, error) from error

    def _failed(self, what: str, key: str, error: Exception) -> LogStoreError:
        first = str(error).partition("\n")[0][:300]
        return LogStoreError(f"the log store {self._place} {what} {key}: {first}")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
