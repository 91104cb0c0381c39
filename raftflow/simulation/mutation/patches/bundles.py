# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of code bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.coordinator.bundles.replication import BundleReplication
from raftflow.coordinator.bundles.store import BundleStore
from raftflow.machine import apply as machine_apply
from raftflow.machine.commands import bundles

if TYPE_CHECKING:
    from raftflow.domain.commands import RetireBundles
    from raftflow.domain.replies import BundlesRetired
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.simulation.mutation.patches.common import Patch


async def copy_to_itself(bundle_replication: BundleReplication, digest: str, bundle: bytes) -> None:
    await bundle_replication.store.put(digest, bundle)


async def fetch_nothing(_: BundleReplication) -> bool:
    return True


def write_without_sync() -> Patch:
    """Write the file and give it its name, and leave its content to the system."""

    def write(store: Any, digest: str, bundle: bytes) -> None:
        store._fs.make_dir(store._folder)  # noqa: SLF001 - the fault itself
        path = store._folder / digest  # noqa: SLF001
        store._fs.remove(path)  # noqa: SLF001
        file = store._fs.open(path, create=True)  # noqa: SLF001
        file.write_at(0, bundle)
        file.close()
        store._fs.sync_dir(store._folder)  # noqa: SLF001

    return patch.object(BundleStore, "write", write)


async def acknowledge_copies_only(_: BundleReplication, _digest: str, _bundle: bytes) -> None:
    """Say that a copy is kept."""


def forget_bundles_in_use() -> Patch:
    def retire(context: ApplyContext, command: RetireBundles) -> BundlesRetired:
        for bundle in context.state.bundles.values():
            bundle.workflows = 0
        return bundles.retire_bundles(context, command)

    _, _, subject = machine_apply.HANDLERS[_COMMAND]
    return patch.dict(machine_apply.HANDLERS, {_COMMAND: ("bundles.retire", retire, subject)})


_COMMAND = next(kind for kind in machine_apply.HANDLERS if kind.__name__ == "RetireBundles")


async def spread_nothing(_self: Any) -> None:
    """Leave it to chance which voters have which bundle."""
