"""Addresses and URLs, as they are written in configurations and in requests."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from raftflow.coordinator.config.values import ConfigError


class Address(NamedTuple):
    """Where to listen or connect."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return `host:port`, with an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_url(text: str, where: str) -> str:
    """Read the URL of a replica, and drop a slash at its end. Raises `ConfigError`."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and not (parts.path.strip("/") or parts.query)
        good = good and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{where} {text!r} is not a URL such as http://10.0.0.1:7001")
    return text.rstrip("/")


def parse_address(text: str, where: str) -> Address:
    """Read `host:port`, with an IPv6 host in brackets. Raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{where} {text!r} is not an address such as 10.0.0.1:7101")
    return Address(host, int(port))


def dial_problem(host: str, known: Iterable[str]) -> str | None:
    """Say why replicas do not connect to this host when it is to become a member; None if they do.

    A member is never a link-local address (where clouds answer with the keys of a machine), a multicast address or
    one that names no machine. It is on loopback only if one of the `known` hosts, those of the members, is. Names are
    not looked up: what they mean may change.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "is a name of this machine itself, and no member is" if _is_local(host, known) else None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return "is on loopback, and no member is" if _is_local(str(address), known) else None
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return "is not an address of a machine (link-local, multicast, reserved or empty)"
    return None


def _is_local(host: str, known: Iterable[str]) -> bool:
    """Tell whether a host is on loopback while none of the others is."""
    local = Address(host.lower().rstrip("."), 0).is_loopback
    return local and not any(Address(each, 0).is_loopback for each in known)
