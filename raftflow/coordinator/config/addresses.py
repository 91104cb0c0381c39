"""Addresses and URLs, as they are written in configurations and in requests."""

from __future__ import annotations

import ipaddress
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
