"""Code bundles: the files of a folder as one sequence of bytes, named by its digest.

    bundle = MAGIC, length of the index (8 hex digits, newline), index, contents of the files
    index  = JSON: [[path, size, executable], ...] in the order of the paths

Equal files give equal bytes, on any machine and in any version: there are no times, no owners and no compression. So
a bundle takes as much room as its files, and nothing in it can grow when it is unpacked. Only one sequence of bytes
stands for a set of files: `read_bundle` refuses every other one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from raftflow.domain import limits

MAGIC: Final = b"raftflow code bundle 1\n"
DIGEST_CHARS: Final = 64
DIGEST_PATTERN: Final = "[0-9a-f]{64}"
SCRIPT_FILE: Final = ".raftflow-script"
"""A file of a bundle that was made of a script: its content is the name of the module."""

_DIGEST: Final = re.compile(DIGEST_PATTERN)
_HEAD_BYTES: Final = len(MAGIC) + 9

_encode = msgspec.json.Encoder().encode


class BundleError(ValueError):
    """The files cannot be a bundle, or the bytes are none. The text says why."""


class BundleFile(NamedTuple):
    """A file of a bundle."""

    path: str
    """With `/` between its parts."""
    content: bytes | memoryview
    executable: bool = False


class _IndexEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A file in the index."""

    path: str
    size: int
    executable: bool


_decode = msgspec.json.Decoder(list[_IndexEntry]).decode


def is_digest(text: str) -> bool:
    """Tell whether a text can name a bundle."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(bundle: bytes) -> str:
    """Return the name of a bundle: the SHA-256 of its bytes, in hex."""
    return sha256(bundle).hexdigest()


def path_problem(path: str) -> str | None:
    """Say why a path cannot be one of a bundle; None if it can."""
    if not path or len(path) > limits.BUNDLE_PATH_CHARS_MAX:
        return f"has {len(path)} characters, and a path has 1 to {limits.BUNDLE_PATH_CHARS_MAX}"
    if "\0" in path or "\\" in path or not _is_text(path):
        return "has a character that no path in a bundle may have"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return "is absolute, or leads outside of the folder"
    return None


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_bundle(files: Iterable[BundleFile]) -> bytes:
    """Return the bundle of some files. Raises `BundleError`."""
    listed = sorted(files, key=lambda file: file.path)
    index = [_IndexEntry(file.path, len(file.content), file.executable) for file in listed]
    _check_index(index)
    encoded = _encode(index)
    bundle = b"".join([MAGIC, b"%08x\n" % len(encoded), encoded, *(file.content for file in listed)])
    if len(bundle) > limits.BUNDLE_BYTES_MAX:
        raise BundleError(f"the files have {len(bundle)} bytes, and a bundle has at most {limits.BUNDLE_BYTES_MAX}")
    return bundle


def read_bundle(bundle: bytes) -> Iterator[BundleFile]:
    """Return the files of a bundle, in the order of their paths. Raises `BundleError` before the first one."""
    if len(bundle) > limits.BUNDLE_BYTES_MAX:
        raise BundleError(f"{len(bundle)} bytes, and a bundle has at most {limits.BUNDLE_BYTES_MAX}")
    if not bundle.startswith(MAGIC) or len(bundle) < _HEAD_BYTES:
        raise BundleError("the bytes do not begin as a bundle does")
    try:
        size = int(bundle[len(MAGIC) : _HEAD_BYTES - 1], 16)
        index = _decode(memoryview(bundle)[_HEAD_BYTES : _HEAD_BYTES + size])
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the index cannot be read: {error}") from error
    _check_index(index)
    start = _HEAD_BYTES + size
    head = MAGIC + b"%08x\n" % size + _encode(index)
    if bundle[:start] != head or start + sum(entry.size for entry in index) != len(bundle):
        raise BundleError("the index does not describe what follows it")
    return _files(memoryview(bundle), index, start)


def _files(bundle: memoryview, index: list[_IndexEntry], start: int) -> Iterator[BundleFile]:
    for entry in index:
        yield BundleFile(entry.path, bundle[start : start + entry.size], entry.executable)
        start += entry.size


def _check_index(index: list[_IndexEntry]) -> None:
    """Raise `BundleError` for an index that no folder has."""
    if len(index) > limits.BUNDLE_FILES_MAX:
        raise BundleError(f"{len(index)} files, and a bundle has at most {limits.BUNDLE_FILES_MAX}")
    before = ""
    folders: set[str] = set()
    for entry in index:
        wrong = path_problem(entry.path)
        if wrong is None and entry.path <= before:
            wrong = "comes twice, or not in its place"
        if wrong is None and entry.size < 0:
            wrong = "has a negative size"
        if wrong is not None:
            raise BundleError(f"{entry.path[:200]!r} {wrong}")
        before = entry.path
        parts = entry.path.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
    for entry in index:
        if entry.path in folders:
            raise BundleError(f"{entry.path[:200]!r} is a file and a folder")
