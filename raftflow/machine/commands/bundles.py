"""Code bundles: registered when a majority has the bytes, forgotten when nothing refers to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import BundlesRetired, Done
from raftflow.domain.values.code_bundle import is_digest
from raftflow.machine.tables.bundles import Bundle

if TYPE_CHECKING:
    from raftflow.domain.commands import RegisterBundle, RetireBundles
    from raftflow.machine.rows import BundleRows
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.state import State


def register_bundle(context: ApplyContext, command: RegisterBundle) -> Done | Rejection:
    """Add a bundle, or note that a known one is about to be used."""
    bundles, digest, size = context.state.bundles, command.digest, command.size
    if not is_digest(digest) or not 0 < size <= limits.BUNDLE_BYTES_MAX:
        return Rejection(RejectionCode.INVALID, f"{digest[:80]!r} with {size} bytes is not a code bundle")
    known = bundles.get(digest)
    if known is not None:
        if known.size != size:
            return Rejection(RejectionCode.INVALID, f"bundle {digest} has {known.size} bytes, not {size}")
        known.used_ms = context.clock_ms
        return Done(changed=False)
    full = room_problem(bundles, size)
    if full is not None:
        return full
    bundles.add(Bundle(digest, size, registered_ms=context.clock_ms, used_ms=context.clock_ms))
    return Done()


def retire_bundles(context: ApplyContext, command: RetireBundles) -> BundlesRetired:
    """Forget those of the bundles that nothing refers to."""
    bundles = context.state.bundles
    retired = []
    for digest in command.digests:
        bundle = bundles.get(digest)
        if bundle is not None and not bundle.workflows and bundle.used_ms <= context.clock_ms - command.unused_ms:
            bundles.forget(digest)
            retired.append(digest)
    return BundlesRetired(tuple(retired))


def unknown_code(state: State, digest: str) -> Rejection | None:
    """Refuse a workflow whose code bundle the cluster does not have."""
    if not digest or digest in state.bundles:
        return None
    return Rejection(
        RejectionCode.NOT_FOUND, f"the cluster has no code bundle {digest}: send the bundle, then submit again"
    )


def room_problem(bundles: BundleRows, size: int) -> Rejection | None:
    """Refuse one more bundle of this size if it would pass a limit."""
    if len(bundles) < limits.BUNDLES_MAX and bundles.size + size <= limits.BUNDLES_BYTES_MAX:
        return None
    return Rejection(
        RejectionCode.LIMIT,
        f"the cluster keeps {len(bundles)} code bundles with {bundles.size} bytes, and at most {limits.BUNDLES_MAX} "
        f"with {limits.BUNDLES_BYTES_MAX}; one is forgotten some time after the last workflow that refers to it",
        limit=limits.BUNDLES_MAX if len(bundles) >= limits.BUNDLES_MAX else limits.BUNDLES_BYTES_MAX,
    )
