"""Commands of code bundles. `commands.py` has the others, and offers these too."""

from __future__ import annotations

from raftflow.domain.command import Command


class RegisterBundle(Command, frozen=True, tag="bundles.register"):
    """Let workflows refer to a code bundle. Replies `Done`.

    The leader proposes it when a majority of the voters has the bundle on the disk. A bundle that is known already
    counts as used now, so that a workflow can refer to it for a while.
    """

    digest: str
    size: int


class RetireBundles(Command, frozen=True, tag="bundles.retire"):
    """Forget bundles that no workflow refers to, and none has for `unused_ms`. Replies `BundlesRetired`.

    Every bundle is checked alone, and the others are passed over.
    """

    digests: tuple[str, ...]
    unused_ms: int
