"""Who may use the files of a replica: keys and secrets, the configuration, the data directory."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from raftflow.domain.contract.cluster import FileMode
from raftflow.private_files import PrivateFileError, check_private

if TYPE_CHECKING:
    from raftflow.coordinator.config.replica_config import CoordinatorConfig

_READABLE: Final = 0o044
_WRITABLE: Final = 0o022
LOOKED_MAX: Final = 5_000
"""Files of the data directory that are looked at."""
EXPOSED_MAX: Final = 20
"""Of the data directory, and of the saved snapshots, that are named."""
_DATA_DIR: Final = "replica.data_dir"
_SNAPSHOT_DIR: Final = "snapshot.dir"


def file_modes(config: CoordinatorConfig) -> list[FileMode]:
    """Return the modes of the files that the configuration names, and of what is exposed of data and snapshots."""
    found = [_private(setting, path) for setting, path in config.private_files]
    if config.file is not None:
        found.append(_mode_of("configuration", config.file, forbidden=_WRITABLE))
    found.append(_mode_of(_DATA_DIR, config.data_dir, forbidden=_READABLE | _WRITABLE))
    found += itertools.islice(_exposed(_DATA_DIR, _below(config.data_dir)), EXPOSED_MAX)
    if config.snapshot.directory is not None:
        found += itertools.islice(_exposed(_SNAPSHOT_DIR, _saved(config.snapshot.directory)), EXPOSED_MAX)
    return found


def _private(setting: str, path: Path) -> FileMode:
    """Return the mode of a file that only its owner may read; see `private_files` for the exception."""
    found = _mode_of(setting, path, forbidden=_READABLE | _WRITABLE)
    if found.exposed:
        try:
            check_private(path, setting)
        except PrivateFileError:
            return found
        found.exposed = ""
    return found


def _exposed(setting: str, paths: Iterable[Path]) -> Iterator[FileMode]:
    """Yield those of the files and folders that others may use."""
    for path in paths:
        found = _mode_of(setting, path, forbidden=_READABLE | _WRITABLE)
        if found.exposed:
            yield found


def _below(directory: Path) -> Iterator[Path]:
    """Yield the folders and files in a directory, `LOOKED_MAX` at most. A folder comes before what is in it."""
    found = (Path(place, name) for place, folders, names in os.walk(directory) for name in (*folders, *names))
    return itertools.islice(found, LOOKED_MAX)


def _saved(directory: Path) -> Iterator[Path]:
    """Yield the snapshots of clusters in a folder, and the folders with code bundles beside them."""
    found = (path for pattern in ("*.snapshot", "*.snapshot.bundles") for path in directory.glob(pattern))
    return itertools.islice(found, LOOKED_MAX)


def files_below(directory: Path) -> Iterator[Path]:
    """Yield the files of a directory and of the directories in it, `LOOKED_MAX` at most."""
    found = (Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return itertools.islice(found, LOOKED_MAX)


def _mode_of(setting: str, path: Path, *, forbidden: int) -> FileMode:
    try:
        status = path.stat()
    except OSError as error:
        return FileMode(setting=setting, path=str(path), mode="", error=f"it cannot be read: {error.strerror}")
    mode = stat.S_IMODE(status.st_mode)
    exposed: Literal["", "readable", "writable"] = ""
    if mode & forbidden & _WRITABLE:
        exposed = "writable"
    elif mode & forbidden & _READABLE:
        exposed = "readable"
    return FileMode(setting=setting, path=str(path), mode=f"{mode:04o}", exposed=exposed)
