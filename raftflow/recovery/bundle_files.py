"""The code bundles of a cluster beside a snapshot file of it: `FILE.bundles/DIGEST`.

The state in the snapshot names bundles by digest and size. The replicas keep their bytes beside the log, so they lie
beside the snapshot too. Each bundle is compared with its digest when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raftflow.coordinator.bundles.store import FOLDER, BundleStore
from raftflow.domain.values.code_bundle import digest_of
from raftflow.private_files import open_private

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.replication.files import FileSystem

MISSING_BUNDLE: Final = (
    "the code bundle {} is missing: its tasks wait until it is sent again with `raftflow bundle send FOLDER`"
)


def folder_beside(snapshot: Path) -> Path:
    """Return where the code bundles of a snapshot file are."""
    return snapshot.with_name(f"{snapshot.name}.bundles")


def digests_of(machine: Machine) -> list[str]:
    """Return the digests of the bundles that a state names."""
    return [bundle.digest for bundle in machine.tables.bundles.values()]


def save_beside(snapshot: Path, digests: Iterable[str], fetch: Callable[[str], bytes]) -> int:
    """Write the bundles that are not there yet. Returns how many there are.

    Raises `OSError`, and what `fetch` raises.
    """
    count = 0
    folder = folder_beside(snapshot)
    for digest in digests:
        count += 1
        if _read(folder, digest) is not None:
            continue
        folder.mkdir(mode=0o700, exist_ok=True)
        new = folder / f"{digest}.new"
        with open(new, "wb", opener=open_private) as file:
            file.write(fetch(digest))
            file.flush()
            os.fsync(file.fileno())
        new.rename(folder / digest)
    return count


def copy_beside(snapshot: Path, digests: Iterable[str], data_dir: Path, earlier: Path | None = None) -> list[str]:
    """Copy the bundles that a replica has on its disk. Returns those that it lacks. Raises `OSError`.

    Bundles that lie beside `earlier`, another snapshot in the same folder, are linked if the file system can: their
    bytes are then on the disk once.
    """
    missing = []
    for digest in digests:
        if earlier is not None and _link(folder_beside(earlier), folder_beside(snapshot), digest):
            continue
        content = _read(data_dir / FOLDER, digest)
        if content is None:
            missing.append(digest)
        else:
            save_beside(snapshot, [digest], {digest: content}.__getitem__)
    return missing


def remove_beside(snapshot: Path) -> None:
    """Remove the bundles of a snapshot file. Raises `OSError`."""
    folder = folder_beside(snapshot)
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
        folder.rmdir()


def missing_beside(snapshot: Path, machine: Machine) -> list[str]:
    """Return the bundles that the state names and that are not beside the file, or damaged."""
    folder = folder_beside(snapshot)
    return [digest for digest in digests_of(machine) if _read(folder, digest) is None]


def restore_bundles(snapshot: Path, machine: Machine, fs: FileSystem, data_dir: Path) -> list[str]:
    """Give a new replica the bundles that its state names. Returns those that are missing. Raises `OSError`."""
    folder, store = folder_beside(snapshot), BundleStore(fs, data_dir)
    missing = []
    for digest in digests_of(machine):
        content = _read(folder, digest)
        if content is None:
            missing.append(digest)
        else:
            store.write(digest, content)
    return missing


def _link(earlier: Path, folder: Path, digest: str) -> bool:
    """Give a bundle that lies in another folder a name in this one too. Returns whether it is there."""
    if _read(earlier, digest) is None:
        return False
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / digest).hardlink_to(earlier / digest)
    except FileExistsError:
        return _read(folder, digest) is not None
    except OSError:
        return False
    return True


def _read(folder: Path, digest: str) -> bytes | None:
    try:
        content = (folder / digest).read_bytes()
    except OSError:
        return None
    return content if digest_of(content) == digest else None
