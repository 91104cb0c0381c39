"""Who asks: what a request's token says of its sender."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.certified_names import REPLICA, CertifiedNameError, owner_of, read_uri, serial_of
from raftflow.domain.contract.identities.grants import ALL, is_granted
from raftflow.domain.values.roles import fits_agent
from raftflow.machine.read.identities import tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from raftflow.certified_names import CertifiedName
    from raftflow.domain.contract.operation import Access
    from raftflow.machine.machine import Machine
    from raftflow.revoked_certificates import RevokedCertificates

TOKEN_PREFIX: Final = b"rft-"
"""Begins every token that the cluster makes."""


class ClientIdentity(NamedTuple):
    """Who asks, and for what it may ask."""

    name: str
    role: str
    agents: str = ""
    """Which agents it may be; empty for all."""
    labels: Mapping[str, str] = {}
    """If there are any, it may claim these labels of an agent and no others."""
    digest: bytes = b""
    """Of its secret; empty if none is needed."""
    serial: int = 0
    """Of its certificate, if it has shown one instead of a token."""

    @property
    def actor(self) -> str:
        """How the audit names it."""
        return f"client:{self.name}"

    @property
    def shown(self) -> str:
        """What shows who it is."""
        return "certificate" if self.serial else "token"

    @property
    def forwarded(self) -> str:
        """How a replica names it to another one, if it has shown a certificate; else empty."""
        return f"{self.serial:x} raftflow://{self.role}/{self.name}" if self.serial else ""

    def is_authorized(self, access: Access) -> bool:
        """Tell whether it may use operations with this access."""
        return is_granted(self.role, access)

    def can_be(self, agent: str) -> bool:
        """Tell whether it may act as this agent."""
        return fits_agent(self.agents, agent)

    def require_agent(self, agent: str, labels: Mapping[str, str] | None = None) -> None:
        """Refuse to let it act as another agent, or claim labels that are not its own. Raises `ProblemError`."""
        if not self.can_be(agent):
            raise ProblemError(
                problems.FORBIDDEN,
                f"{self.shown} {self.name!r} is for agents called {self.agents}, not for {agent[:80]!r}",
            )
        if self.labels:
            for name, value in (labels or {}).items():
                if self.labels.get(name) != value:
                    raise ProblemError(
                        problems.FORBIDDEN, f"{self.shown} {self.name!r} may not claim the label {name}={value[:80]}"
                    )


ANYBODY: Final = ClientIdentity("api", ALL)
"""Who comes with the token of the configuration, and everybody in a cluster without one."""


class Identities:
    """Tells who a token belongs to.

    Args:
        tokens: those of the configuration, of which the first is used; if it has none, everybody is let in.
        machine: has the other tokens.
        now_ms: returns the time in ms since the epoch.
        revoked: which certificates are revoked; None if certificates of clients do not count.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        machine: Machine,
        now_ms: Callable[[], int],
        revoked: RevokedCertificates | None = None,
    ) -> None:
        self._shared = _shared_identities(tokens)
        self._machine = machine
        self._now_ms = now_ms
        self._revoked = revoked
        self._version = -1, -1
        self._end_ms: int | None = None

    def use_tokens(self, tokens: Sequence[str]) -> None:
        """Accept these tokens of the configuration from now on, at least one, and no others."""
        self._shared = _shared_identities(tokens)
        self._version = -1, -1

    def first_token(self) -> str | None:
        """Return the token of the configuration that is used; None if it has none."""
        return self._shared[0][0].decode() if self._shared else None

    def identify(self, authorization: bytes, certified: ClientIdentity | None = None) -> ClientIdentity | None:
        """Return who sends a request, None if nobody who is let in.

        Args:
            authorization: the value of the header `Authorization`. A token says who it is; only without one does the
                certificate.
            certified: who the certificate of the connection, or a replica, says it is.
        """
        if not authorization and certified is not None:
            return certified if self.is_valid(certified) else None
        if not self._shared and self._revoked is None:
            return ANYBODY
        scheme, _, given = authorization.partition(b" ")
        given = given.strip()
        if scheme.lower() != b"bearer" or not given:
            return None
        for token, identity in self._shared:
            if hmac.compare_digest(given, token):
                return identity
        if not given.startswith(TOKEN_PREFIX):
            return None
        digest = digest_of(given)
        row = tokens.find_valid(self._machine, digest, self._now_ms())
        return None if row is None else ClientIdentity(row.name, row.role, row.agents, row.labels, digest)

    def is_valid(self, identity: ClientIdentity) -> bool:
        """Tell whether who was let in before would be let in now."""
        if identity.serial:
            return self._revoked is not None and not self._revoked.is_revoked(identity.serial)
        if not identity.digest or any(identity.digest == shared.digest for _, shared in self._shared):
            return True
        row = tokens.find_valid(self._machine, identity.digest, self._now_ms())
        return row is not None and row.name == identity.name

    def have_changed(self) -> bool:
        """Tell whether a token was changed, or has ended by itself, since the last call."""
        now_ms = self._now_ms()
        version = tokens.version(self._machine), 0 if self._revoked is None else self._revoked.version
        changed = version != self._version or (self._end_ms is not None and now_ms >= self._end_ms)
        if changed:
            self._version, self._end_ms = version, tokens.next_end_ms(self._machine, now_ms)
        return changed

    def of_certificate(self, certificate: Mapping[str, Any] | None) -> ClientIdentity | None:
        """Return whose verified certificate it is, None if it has no name of raftflow."""
        if not certificate or self._revoked is None:
            return None
        try:
            owner = owner_of(certificate)
        except CertifiedNameError:
            return None
        serial = serial_of(certificate)
        # One without a serial number could not be revoked.
        return None if owner is None or not serial else _certified(owner, serial)

    def of_replica(self, forwarded: str) -> ClientIdentity | None:
        """Return who a replica of the cluster has said sends a request (`ClientIdentity.forwarded`).

        A replica that asks for itself says so without a serial number.
        """
        serial, _, uri = forwarded.rpartition(" ")
        try:
            owner = read_uri(uri)
            number = int(serial or "0", 16)
        except ValueError:
            return None
        if owner.role == REPLICA and not number:
            return ClientIdentity(owner.name, ALL)
        return _certified(owner, number) if number > 0 else None


def _certified(owner: CertifiedName, serial: int) -> ClientIdentity:
    return ClientIdentity(owner.name, owner.role, owner.name if owner.role == "agent" else "", serial=serial)


def _shared_identities(tokens: Sequence[str]) -> list[tuple[bytes, ClientIdentity]]:
    """Return the tokens of the configuration, each with who comes with it."""
    given = [token.encode() for token in tokens]
    return [(token, ClientIdentity(ANYBODY.name, ALL, digest=digest_of(token))) for token in given]


def digest_of(token: bytes) -> bytes:
    """Return what the cluster keeps of a token."""
    return sha256(token).digest()
