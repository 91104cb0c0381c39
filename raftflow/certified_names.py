"""Who a certificate belongs to: a role and a name, as a URI among its alternative names.

`raftflow://agent/a1` is the agent a1, `raftflow://replica/n1` the replica n1, and `raftflow://submit/alice` a client
with the role `submit`. A certificate of raftflow has one such URI. Certificates that others made need none: then they
belong to nobody that raftflow knows by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from raftflow.domain.values.ids import name_problem
from raftflow.domain.values.roles import ROLES

REPLICA: Final = "replica"
"""The role of replicas. No token has it."""
CERTIFIED_ROLES: Final = (*ROLES, REPLICA)
_SCHEME: Final = "raftflow://"


class CertifiedNameError(ValueError):
    """A certificate has a name of raftflow that cannot be used. Says why."""


class CertifiedName(NamedTuple):
    """Whose certificate it is."""

    role: str
    name: str

    @property
    def uri(self) -> str:
        """How the certificate names it."""
        return f"{_SCHEME}{self.role}/{self.name}"


def read_uri(uri: str) -> CertifiedName:
    """Read a URI that begins with `raftflow://`. Raises `CertifiedNameError`."""
    role, slash, name = uri.removeprefix(_SCHEME).partition("/")
    if not uri.startswith(_SCHEME) or not slash or role not in CERTIFIED_ROLES:
        raise CertifiedNameError(f"the certificate is for {uri[:100]!r}, which does not name a role and a name")
    if wrong := name_problem(name):
        raise CertifiedNameError(f"the certificate is for {uri[:100]!r}: the name {wrong}")
    return CertifiedName(role, name)


def owner_of(certificate: Mapping[str, Any]) -> CertifiedName | None:
    """Return whose certificate it is, None if it has no name of raftflow.

    `certificate` is what `ssl` returns of a verified peer. Raises `CertifiedNameError` if it has several names, or
    one that cannot be used.
    """
    found = [value for kind, value in _alternative_names(certificate) if kind == "URI" and value.startswith(_SCHEME)]
    if not found:
        return None
    if len(found) > 1:
        raise CertifiedNameError(f"the certificate has {len(found)} names of raftflow; one certificate is for one")
    return read_uri(found[0])


def is_replica(certificate: Mapping[str, Any], name: str, hosts: Collection[str]) -> bool:
    """Tell whether a verified certificate may stand for the replica `name`, which is reached at some hosts.

    One with a name of raftflow must have that of this replica. One that others made must have the name of the replica
    or one of the hosts, as its common name or among its alternative names.
    """
    try:
        owner = owner_of(certificate)
    except CertifiedNameError:
        return False
    if owner is not None:
        return owner == CertifiedName(REPLICA, name)
    return any(value == name or value in hosts for value in _plain_names(certificate))


def serial_of(certificate: Mapping[str, Any]) -> int:
    """Return the serial number of a verified certificate."""
    return int(certificate.get("serialNumber", "0"), 16)


def _alternative_names(certificate: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    names: Iterable[tuple[str, str]] = certificate.get("subjectAltName", ())
    return names


def _plain_names(certificate: Mapping[str, Any]) -> Iterable[str]:
    for kind, value in _alternative_names(certificate):
        if kind in {"DNS", "IP Address"}:
            yield value
    for group in certificate.get("subject", ()):
        for kind, value in group:
            if kind == "commonName":
                yield value
