"""The proof of a replica that passes a request on: that it holds the cluster's secret.

A request that was passed on names the client that it came from, and clients take turns by that name. Anybody could
name as many clients as he likes, so the name is believed from replicas alone. The proof covers the name, the request
line and the request's id, and the time: it cannot be used for another request, nor for long.
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from typing import Final

FRESH_S: Final = 60
"""How old a proof may be, and how far the clocks of two replicas may be apart."""
_PURPOSE: Final = b"raftflow: request passed on, 1"
_VALUE_CHARS_MAX: Final = 100


class ForwardingProof:
    """Makes and checks proofs. Replicas with another secret, or with another time, are not believed."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, _PURPOSE, sha256)

    def make(self, client: str, method: str, target: str, request_id: str) -> str:
        """Return the proof that goes with a request.

        Args:
            client: the address that the request came from.
            method: of the request.
            target: path and query, as they are sent.
            request_id: as it is sent.
        """
        now = str(int(time.time()))
        return f"{now}.{self._mac(now, client, method, target, request_id)}"

    def holds(self, proof: str, client: str, method: str, target: str, request_id: str) -> bool:
        """Tell whether a replica of this cluster made this proof for this request, just now."""
        made, dot, mac = proof.partition(".")
        if not dot or len(proof) > _VALUE_CHARS_MAX or not (proof.isascii() and made.isdigit()):
            return False
        if abs(time.time() - int(made)) > FRESH_S:
            return False
        return hmac.compare_digest(mac, self._mac(made, client, method, target, request_id))

    def _mac(self, *parts: str) -> str:
        fields = [part.encode("utf-8", "surrogateescape") for part in parts]
        return hmac.digest(self._key, b"".join(b"%d:%b," % (len(field), field) for field in fields), sha256).hex()
