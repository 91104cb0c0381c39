"""The part of the client that sends code bundles, once for each cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from raftflow.client.errors import BadAnswer, NotFound
from raftflow.domain.contract import operations
from raftflow.domain.contract.operation import STALE
from raftflow.domain.contract.views import BundleView
from raftflow.domain.limits import BUNDLE_PIECE_BYTES_MAX
from raftflow.domain.values.code_bundle import digest_of
from raftflow.sdk.code import CodeBundle, FolderCode

if TYPE_CHECKING:
    from raftflow.client.operation_calls import OperationCalls


class BundleCalls:
    """Methods of `AsyncClient`."""

    _calls: OperationCalls
    _code: FolderCode | None
    """The code of workflows that name none."""
    _sent: set[str]
    """Digests of bundles that the cluster had when it was asked last."""

    async def bundles(self, *, stale: bool = False) -> list[BundleView]:
        """Return the code bundles that the cluster keeps, in the order in which they were registered.

        `stale` returns the view of any replica without asking the leader.
        """
        params = {STALE.name: "1"} if stale else None
        return (await self._calls.call(operations.bundles.LIST_BUNDLES, params=params)).bundles

    async def bundle(self, digest: str) -> BundleView:
        """Return one code bundle. Raises `NotFound`."""
        return await self._calls.call(operations.bundles.SHOW_BUNDLE, digest)

    async def bundle_content(self, digest: str) -> bytes:
        """Return the bytes of a code bundle. Raises `BadAnswer` if they do not have the digest."""
        content = b""
        while True:
            piece = await self._calls.call(operations.bundles.READ_BUNDLE, digest, params={"offset": len(content)})
            content += piece
            if len(piece) < BUNDLE_PIECE_BYTES_MAX:
                break
        if digest_of(content) != digest:
            raise BadAnswer(f"a replica gave other bytes than those of the code bundle {digest}")
        return content

    async def send_bundle(self, folder: Path | str) -> BundleView:
        """Send the code in a folder, also if the cluster knows it already. Documents can name its digest as `code`.

        Raises `UsageError` for what cannot be sent.
        """
        return await self._send_bundle(await asyncio.to_thread(lambda: FolderCode(folder).bundle()))

    async def _send_bundle(self, bundle: CodeBundle) -> BundleView:
        view = await self._calls.call(operations.bundles.SEND_BUNDLE, bundle.digest, body=bundle.content)
        self._sent.add(bundle.digest)
        return view

    async def _ensure_bundle(self, bundle: CodeBundle) -> None:
        """Send a bundle if the cluster does not have it."""
        if bundle.digest in self._sent:
            return
        try:
            await self.bundle(bundle.digest)
        except NotFound:
            await self._send_bundle(bundle)
        self._sent.add(bundle.digest)
