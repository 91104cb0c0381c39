"""Whether a certificate may stand for a replica: it must have its name, be valid now, and not be revoked."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Any

from raftflow.certified_names import is_replica, serial_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from raftflow.revoked_certificates import RevokedCertificates


def ends_s(certificate: Mapping[str, Any]) -> float:
    """Return when a certificate ends, in seconds since the epoch."""
    return float(ssl.cert_time_to_seconds(certificate["notAfter"]))


class PeerCertificates:
    """Judges the certificates of peers after the handshake, and again while the links are up.

    Args:
        revoked: which certificates are revoked.
        now_s: returns the time in seconds since the epoch.
    """

    def __init__(self, revoked: RevokedCertificates | None = None, now_s: Callable[[], float] = time.time) -> None:
        self._revoked = revoked
        self._now_s = now_s

    def problem(self, certificate: Mapping[str, Any], peer: str, hosts: Collection[str]) -> str | None:
        """Return why a verified certificate cannot stand for a peer, None if it can.

        `hosts` are the hosts at which the peer is known.
        """
        if self._revoked is not None and self._revoked.is_revoked(serial_of(certificate)):
            return "its certificate is revoked"
        if ends_s(certificate) <= self._now_s():
            return "its certificate has expired"
        if not is_replica(certificate, peer, hosts):
            return f"its certificate is not that of the replica {peer}; issue it one with that name, or its host"
        return None
