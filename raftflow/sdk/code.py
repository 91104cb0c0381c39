"""Code that travels: the files of a folder as a code bundle (`raftflow.domain.values.code_bundle`).

What is not code stays behind: those of version control, bytecode, virtual environments and caches, and what the
file `.raftflowignore` in the folder names. It has a pattern on each line, as `.gitignore` has: `*.csv`, `data/`,
`/notes.md`. A pattern with a slash in front or inside is a path below the folder. Any other one matches names.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from raftflow.domain.limits import BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX
from raftflow.domain.values.code_bundle import (
    SCRIPT_FILE,
    BundleError,
    BundleFile,
    digest_of,
    make_bundle,
    path_problem,
)
from raftflow.sdk.errors import UsageError

IGNORE_FILE: Final = ".raftflowignore"
IGNORED: Final = (
    ".git/", ".hg/", ".svn/", "__pycache__/", "*.pyc", ".venv/", "venv/", ".tox/", ".nox/", "node_modules/",
    ".mypy_cache/", ".pytest_cache/", ".ruff_cache/", ".hypothesis/", ".ipynb_checkpoints/", "*.egg-info/",
    ".DS_Store",
)  # fmt: skip
"""Left out in every folder."""
_SHOWN: Final = 5


class CodeBundle(NamedTuple):
    """A code bundle that is ready to be sent."""

    digest: str
    content: bytes
    files: int
    left_out: tuple[str, ...] = ()
    """Paths that were left out, folders with a slash at the end."""

    def describe(self) -> str:
        """Return in words what is in it, and what was left out."""
        told = f"code bundle {self.digest[:12]}: {self.files} files, {len(self.content)} bytes"
        if self.left_out:
            more = f" and {len(self.left_out) - _SHOWN} more" if len(self.left_out) > _SHOWN else ""
            told += f"; left out: {', '.join(self.left_out[:_SHOWN])}{more}"
        return told


class FolderCode:
    """The code in a folder. It is read again when something in the folder has changed."""

    def __init__(self, folder: Path | str) -> None:
        """Raises `UsageError` if it is not a folder."""
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise UsageError(f"code is a folder, and {str(folder)!r} is none")
        self._known: tuple[object, tuple[BundleFile, ...], CodeBundle] | None = None
        """The last bundle, and what it was made of."""

    def bundle(self, more: tuple[BundleFile, ...] = ()) -> CodeBundle:
        """Return the bundle of the folder as it is now, with `more` files. Raises `UsageError`.

        A file of `more` that the folder has too must be the same.
        """
        left_out: list[str] = []
        found = list(_walk(self.folder, left_out))
        if len(found) > BUNDLE_FILES_MAX:
            raise UsageError(
                f"{self.folder} has more than {BUNDLE_FILES_MAX} files: name what is not code in {IGNORE_FILE} "
                f"({_most(found)})"
            )
        state = [(file.path, file.state) for file in found]
        if self._known is not None and self._known[:2] == (state, more):
            return self._known[2]
        size = sum(file.state[1] for file in found)
        if size > BUNDLE_BYTES_MAX:
            largest = max(found, key=lambda file: file.state[1])
            raise UsageError(
                f"the files in {self.folder} have {size} bytes, and a code bundle has at most {BUNDLE_BYTES_MAX}. "
                f"The largest one is {largest.path} with {largest.state[1]} bytes. Name what is not code in "
                f"{IGNORE_FILE}, and put data where agents can read it"
            )
        files = {file.path: BundleFile(file.path, _read(file), file.executable) for file in found}
        for file in more:
            known = files.setdefault(file.path, file)
            if known.content != file.content:
                raise UsageError(
                    f"the program has a file {file.path} that is not the one in {self.folder}: run the program from "
                    "that folder, or rename one of them"
                )
        made = bundle_of(list(files.values()), tuple(left_out))
        self._known = (state, more, made)
        return made


def bundle_of(files: list[BundleFile], left_out: tuple[str, ...] = ()) -> CodeBundle:
    """Return the bundle of these files. Raises `UsageError`."""
    try:
        content = make_bundle(files)
    except BundleError as error:
        raise UsageError(f"the code cannot be sent: {error}") from None
    return CodeBundle(digest_of(content), content, len(files), left_out)


class _FoundFile(NamedTuple):
    """A file of a folder."""

    path: str
    place: Path
    state: tuple[int, int, int, int]
    """Inode, size, times of the last changes: equal while nothing has changed."""
    executable: bool


def _walk(folder: Path, left_out: list[str]) -> Iterator[_FoundFile]:
    """Yield the files below a folder that belong to its code, and note what does not. Raises `UsageError`."""
    patterns = [*IGNORED, *_ignore_patterns(folder)]
    waiting = [""]
    count = 0
    while waiting:
        below = waiting.pop()
        try:
            names = sorted(os.listdir(folder / below))
        except OSError as error:
            raise UsageError(f"{folder / below} cannot be read: {error.strerror}") from None
        for name in names:
            path = f"{below}/{name}" if below else name
            if path in {IGNORE_FILE, SCRIPT_FILE}:
                continue
            place = folder / path
            is_folder = place.is_dir() and not place.is_symlink()
            if any(_matches(pattern, path, is_folder=is_folder) for pattern in patterns):
                left_out.append(f"{path}/" if is_folder else path)
            elif is_folder:
                waiting.append(path)
            else:
                yield _found(folder, path, place)
                count += 1
                if count > BUNDLE_FILES_MAX:
                    return


def _found(folder: Path, path: str, place: Path) -> _FoundFile:
    wrong = path_problem(path)
    try:
        target = place.resolve(strict=True)
        found = target.stat()
    except (OSError, RuntimeError):
        wrong, target = wrong or "is a link that leads nowhere", place
        found = place.lstat()
    if wrong is None and target != place and not target.is_relative_to(folder):
        wrong = f"is a link to {target}, outside of the folder"
    if wrong is None and not stat.S_ISREG(found.st_mode):
        wrong = "is a link to a folder" if stat.S_ISDIR(found.st_mode) else "is not a regular file"
    if wrong is not None:
        raise UsageError(f"{place} {wrong}: remove it, or name it in {IGNORE_FILE}")
    state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return _FoundFile(path, target, state, bool(found.st_mode & stat.S_IXUSR))


def _read(file: _FoundFile) -> bytes:
    try:
        content = file.place.read_bytes()
    except OSError as error:
        raise UsageError(f"{file.place} cannot be read: {error.strerror}") from None
    if len(content) > BUNDLE_BYTES_MAX:
        raise UsageError(f"{file.place} grew while it was read: {len(content)} bytes")
    return content


def _ignore_patterns(folder: Path) -> list[str]:
    try:
        lines = (folder / IGNORE_FILE).read_text().splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{folder / IGNORE_FILE} cannot be read: {error}") from None
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for pattern in patterns:
        if pattern.startswith("!"):
            raise UsageError(f"{folder / IGNORE_FILE}: {pattern}: a pattern cannot take back another one")
    return patterns


def is_ignored(path: str, *, is_folder: bool) -> bool:
    """Tell whether something is left out in every folder."""
    return any(_matches(pattern, path, is_folder=is_folder) for pattern in IGNORED)


def _matches(pattern: str, path: str, *, is_folder: bool) -> bool:
    if pattern.endswith("/"):
        if not is_folder:
            return False
        pattern = pattern[:-1]
    if "/" in pattern:
        return fnmatchcase(path, pattern.lstrip("/"))
    return fnmatchcase(path.rpartition("/")[2], pattern)


def _most(found: list[_FoundFile]) -> str:
    """Name the folder at the top that has most of the files."""
    counts: dict[str, int] = {}
    for file in found:
        top = file.path.partition("/")[0] if "/" in file.path else "."
        counts[top] = counts.get(top, 0) + 1
    top = max(counts, key=counts.__getitem__)
    return f"most of them are in {top}/"
