"""Code bundles sent to, and fetched from, the other replicas over their API."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import aiohttp
import msgspec
from yarl import URL

from raftflow.certified_names import REPLICA, CertifiedName
from raftflow.coordinator.bundles.replication import BundlePeerError
from raftflow.domain.contract.operations.bundles import KEEP_BUNDLE, READ_BUNDLE
from raftflow.domain.contract.problem_kinds import BEHIND
from raftflow.domain.contract.views import (
    HEADER_FORWARDED,
    HEADER_FORWARDED_IDENTITY,
    HEADER_FORWARDED_PROOF,
    HEADER_REQUEST_ID,
    PROBLEM_TYPE_PREFIX,
    Problem,
)
from raftflow.domain.limits import BUNDLE_PIECE_BYTES_MAX
from raftflow.domain.values.exact import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from raftflow.api.forwarding.proof import ForwardingProof

_ANSWER_BYTES_MAX: Final = 2 * BUNDLE_PIECE_BYTES_MAX
_TEXT_BYTES: Final = 2_000


class _PeerRefusedError(BundlePeerError):
    """Another replica has answered that it does not do it."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"status {status} {content.decode(errors='replace')[:300]}")
        try:
            self.kind = msgspec.json.decode(content, type=Problem).type
        except UNREADABLE:
            self.kind = ""


class ApiBundlePeers:
    """Implements `BundlePeers`.

    Args:
        request: returns a request to another replica, as `aiohttp.ClientSession.request` does.
        proof: proves that this is a replica of the cluster.
        token: returns the cluster's; None if it has none.
        name: of this replica.
    """

    def __init__(
        self,
        request: Callable[..., AbstractAsyncContextManager[aiohttp.ClientResponse]],
        proof: ForwardingProof,
        token: Callable[[], str | None],
        name: str,
    ) -> None:
        self._request = request
        self._proof = proof
        self._token = token
        self._name = name

    async def send(self, url: str, digest: str, bundle: bytes) -> None:
        """Have a replica keep a bundle."""
        await self._ask(KEEP_BUNDLE.method, url, KEEP_BUNDLE.target(digest), bundle)

    async def fetch(self, url: str, digest: str, size: int) -> bytes:
        """Return the bytes that a replica has for a bundle, piece by piece."""
        content = bytearray()
        while len(content) < size:
            target = f"{READ_BUNDLE.target(digest)}?offset={len(content)}"
            piece = await self._ask(READ_BUNDLE.method, url, target)
            content += piece
            if not piece or len(content) > size:
                raise BundlePeerError(f"it has {len(content)} bytes, not {size}")
        return bytes(content)

    async def has(self, url: str, digest: str, size: int) -> bool:
        """Ask a replica for the end of a bundle, where there is nothing to read."""
        try:
            await self._ask(READ_BUNDLE.method, url, f"{READ_BUNDLE.target(digest)}?offset={size}")
        except _PeerRefusedError as error:
            if error.kind == PROBLEM_TYPE_PREFIX + BEHIND.word:
                return False
            raise
        return True

    async def _ask(self, method: str, url: str, target: str, body: bytes | None = None) -> bytes:
        request_id = secrets.token_hex(8)
        token = self._token()
        identity = CertifiedName(REPLICA, self._name).uri if token is None else ""
        headers = {
            HEADER_REQUEST_ID: request_id,
            HEADER_FORWARDED: self._name,
            HEADER_FORWARDED_PROOF: self._proof.make(self._name, method, target, request_id, identity),
        }
        if identity:
            headers[HEADER_FORWARDED_IDENTITY] = identity
        if body is not None:
            headers["Content-Type"] = KEEP_BUNDLE.body_media_type
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        where = URL(url.rstrip("/") + target, encoded=True)
        try:
            async with self._request(method, where, data=body, headers=headers, allow_redirects=False) as answer:
                content = await answer.content.read(_TEXT_BYTES) if answer.status != 200 else await _read(answer)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise BundlePeerError(f"{type(error).__name__} {error}".rstrip()) from error
        if answer.status != 200:
            raise _PeerRefusedError(answer.status, content)
        return content


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for piece in answer.content.iter_any():
        content += piece
        if len(content) > _ANSWER_BYTES_MAX:
            raise BundlePeerError("its answer is too large")
    return bytes(content)
