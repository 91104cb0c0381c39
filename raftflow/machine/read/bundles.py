"""Code bundles, as the leader and users see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.contract.workflows import BundleView
from raftflow.domain.values.times import iso_utc

if TYPE_CHECKING:
    from raftflow.machine.rows import BundleRow, BundleRows


def unused_bundles(bundles: BundleRows, before_ms: int) -> tuple[str, ...]:
    """Return the bundles that no workflow refers to, and that were used at this time or before."""
    return tuple(bundle.digest for bundle in bundles.values() if not bundle.workflows and bundle.used_ms <= before_ms)


def bundle_view(bundle: BundleRow) -> BundleView:
    """Show a bundle."""
    return BundleView(
        digest=bundle.digest,
        size=bundle.size,
        workflows=bundle.workflows,
        registered_at=iso_utc(bundle.registered_ms),
        used_at=iso_utc(bundle.used_ms),
    )
