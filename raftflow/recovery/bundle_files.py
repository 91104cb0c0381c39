"""The code bundles of a cluster beside a snapshot file of it: `FILE.bundles/DIGEST`.

The state in the snapshot names bundles by digest and size. The replicas keep their bytes beside the log, so they lie
beside the snapshot too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from raftflow.coordinator.bundles.store import FOLDER, BundleStore
from raftflow.domain.values.code_bundle import digest_of

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.replication.files import FileSystem


def folder_beside(snapshot: Path) -> Path:
    """Return where the code bundles of a snapshot file are."""
    return snapshot.with_name(f"{snapshot.name}.bundles")


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
        folder.mkdir(exist_ok=True)
        new = folder / f"{digest}.new"
        with new.open("wb") as file:
            file.write(fetch(digest))
            file.flush()
            os.fsync(file.fileno())
        new.rename(folder / digest)
    return count


def copy_beside(snapshot: Path, machine: Machine, data_dir: Path) -> None:
    """Copy the bundles that a replica has, as far as the state names them. Raises `OSError`."""
    kept = {bundle.digest: _read(data_dir / FOLDER, bundle.digest) for bundle in machine.tables.bundles.values()}
    found = {digest: content for digest, content in kept.items() if content is not None}
    save_beside(snapshot, found, found.__getitem__)


def missing_beside(snapshot: Path, machine: Machine) -> list[str]:
    """Return the bundles that the state names and that are not beside the file, or damaged."""
    folder = folder_beside(snapshot)
    return [bundle.digest for bundle in machine.tables.bundles.values() if _read(folder, bundle.digest) is None]


def restore_bundles(snapshot: Path, machine: Machine, fs: FileSystem, data_dir: Path) -> list[str]:
    """Give a new replica the bundles that its state names. Returns those that are missing. Raises `OSError`."""
    folder, store = folder_beside(snapshot), BundleStore(fs, data_dir)
    missing = []
    for bundle in machine.tables.bundles.values():
        content = _read(folder, bundle.digest)
        if content is None:
            missing.append(bundle.digest)
        else:
            store.write(bundle.digest, content)
    return missing


def _read(folder: Path, digest: str) -> bytes | None:
    try:
        content = (folder / digest).read_bytes()
    except OSError:
        return None
    return content if digest_of(content) == digest else None
