"""Code bundles that workflows refer to: their digests and sizes. The replicas keep the bytes beside the log."""

from __future__ import annotations

import msgspec


class Bundle(msgspec.Struct, array_like=True, gc=False):
    """A code bundle."""

    digest: str
    size: int
    registered_ms: int
    used_ms: int
    """When it was registered last, or a workflow that referred to it ended: whichever is later."""
    workflows: int = 0
    """Workflows and uploads that refer to it."""


class BundleTable(dict[str, Bundle]):
    """Bundles by digest, in the order in which they were registered."""

    revision: int = 0
    """Grows when a bundle is added or forgotten."""

    @property
    def size(self) -> int:
        """Bytes of all bundles."""
        return sum([bundle.size for bundle in self.values()])

    def add(self, bundle: Bundle) -> None:
        """Add a bundle."""
        self[bundle.digest] = bundle
        self.revision += 1

    def forget(self, digest: str) -> None:
        """Remove a bundle."""
        del self[digest]
        self.revision += 1

    def refer(self, digest: str) -> None:
        """Count one more workflow that refers to a bundle; empty for none."""
        if digest:
            self[digest].workflows += 1

    def release(self, digest: str, used_ms: int) -> None:
        """Count one workflow less; empty for none. `used_ms` is when it needed the bundle last."""
        if digest:
            bundle = self[digest]
            bundle.workflows -= 1
            bundle.used_ms = max(bundle.used_ms, used_ms)
