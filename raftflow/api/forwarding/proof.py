"""The proof that a forwarded request comes from a replica of this cluster, which holds the cluster's secret.

A forwarded request names the client that it came from, and clients take turns by that name. A client could name as
many others as it likes, so only the name that a replica proves counts. The proof covers the name, the request line,
the request's id, whose certificate the client has shown, and the time. It is invalid for another request, and after a
short time.
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from raftflow.domain.contract.views import (
    HEADER_FORWARDED,
    HEADER_FORWARDED_IDENTITY,
    HEADER_FORWARDED_PROOF,
    HEADER_REQUEST_ID,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

UNKNOWN_CLIENT: Final = "unknown"
"""Stands for the address of a connection that has none."""
FRESH_S: Final = 60
"""How old a proof may be, and how far the clocks of two replicas may be apart."""
_PURPOSE: Final = b"raftflow: request passed on, 1"
_VALUE_CHARS_MAX: Final = 100


class ForwardingProof:
    """Makes and checks proofs. A proof made with another secret, or at another time, is invalid.

    `secrets` returns those that are accepted now; the first is used.
    """

    def __init__(self, secrets: Callable[[], tuple[bytes, ...]]) -> None:
        self._secrets = secrets
        self._known: tuple[bytes, ...] = ()
        self._keys: list[bytes] = []

    def make(self, client: str, method: str, target: str, request_id: str, identity: str = "") -> str:
        """Return the proof that is sent with a request.

        Args:
            client: the address that the request came from.
            method: of the request.
            target: path and query, as they are sent.
            request_id: as it is sent.
            identity: whose certificate the client has shown, as it is sent.
        """
        now = str(int(time.time()))
        return f"{now}.{_mac(self._current_keys()[0], now, client, method, target, request_id, identity)}"

    def client_of(self, request: web.Request) -> str:
        """Return the address of the client. For a forwarded request that is the one that the other replica proves."""
        client, named = request.remote or UNKNOWN_CLIENT, request.headers.get(HEADER_FORWARDED)
        return named if named is not None and self.is_of_a_replica(request) else client

    def is_of_a_replica(self, request: web.Request) -> bool:
        """Tell whether a replica of this cluster sent the request, its own or one that it forwards."""
        named = request.headers.get(HEADER_FORWARDED)
        if named is None:
            return False
        proof = request.headers.get(HEADER_FORWARDED_PROOF, "")
        request_id = request.headers.get(HEADER_REQUEST_ID, "")
        target = request.rel_url.raw_path_qs
        identity = request.headers.get(HEADER_FORWARDED_IDENTITY, "")
        return self.is_valid(proof, named, request.method, target, request_id, identity)

    def is_valid(  # noqa: PLR0917 - all that is proven
        self, proof: str, client: str, method: str, target: str, request_id: str, identity: str = ""
    ) -> bool:
        """Tell whether a replica of this cluster made this proof for this request, within `FRESH_S`."""
        made, dot, mac = proof.partition(".")
        if not dot or len(proof) > _VALUE_CHARS_MAX or not (proof.isascii() and made.isdigit()):
            return False
        if abs(time.time() - int(made)) > FRESH_S:
            return False
        fields = (made, client, method, target, request_id, identity)
        return any(hmac.compare_digest(mac, _mac(key, *fields)) for key in self._current_keys())

    def _current_keys(self) -> list[bytes]:
        secrets = self._secrets()
        if secrets is not self._known:
            self._known, self._keys = secrets, [hmac.digest(secret, _PURPOSE, sha256) for secret in secrets]
        return self._keys


def _mac(key: bytes, *parts: str) -> str:
    fields = [part.encode("utf-8", "surrogateescape") for part in parts]
    return hmac.digest(key, b"".join(b"%d:%b," % (len(field), field) for field in fields), sha256).hex()
