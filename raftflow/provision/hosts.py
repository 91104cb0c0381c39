"""The hosts of a new cluster, as an operator names them: `10.0.0.1`, `n1.example:7001`, `[fd00::1]:7001`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.loading import MEMBERS_MAX

PORT_DEFAULT: Final = 7001
"""Where clients and agents reach a replica."""
PEER_PORT_OFFSET: Final = 100
"""Replicas reach each other at the port for clients plus this."""
REPLICAS_MIN: Final = 3
_PORT_MAX: Final = 65_535 - PEER_PORT_OFFSET
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_NAME_CHARS_MAX: Final = 253
_WITH_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::([^:]*))?")


class ProvisionError(ValueError):
    """The files of a cluster cannot be written this way. Says why and what to do."""


class Host(NamedTuple):
    """One machine of the cluster."""

    host: str
    """A name, an IPv4 address, or an IPv6 address without brackets."""
    port: int

    @property
    def api(self) -> Address:
        """Where clients and agents reach the replica."""
        return Address(self.host, self.port)

    @property
    def peer(self) -> Address:
        """Where the other replicas reach it."""
        return Address(self.host, self.port + PEER_PORT_OFFSET)

    @property
    def listen(self) -> str:
        """The address to listen on: all of the machine's, or the loopback address itself if it is one."""
        if self.api.is_loopback:
            return self.host
        return "::" if ":" in self.host else "0.0.0.0"


def parse_hosts(text: str, nodes: int | None = None) -> tuple[Host, ...]:
    """Read a list with commas. Raises `ProvisionError` unless it names 3, 5, 7 or 9 hosts, and `nodes` if given."""
    if nodes is not None:
        _check_count(nodes, "--nodes")
    entries = [entry.strip() for entry in text.split(",")]
    hosts = tuple(_parse_host(entry, f"--hosts: host {number}") for number, entry in enumerate(entries, start=1))
    if nodes is not None and len(hosts) != nodes:
        raise ProvisionError(
            f"--nodes is {nodes}, but --hosts names {len(hosts)}: {', '.join(entries)}. Name one for each replica"
        )
    _check_count(len(hosts), "the number of hosts in --hosts")
    _check_distinct(hosts)
    return hosts


def parse_host(text: str) -> Host:
    """Read one host. Raises `ProvisionError`."""
    return _parse_host(text.strip(), "--host")


def shared_machines(hosts: Sequence[Host]) -> list[str]:
    """Return the hosts that hold more than one replica."""
    names = [host.host for host in hosts]
    return sorted({name for name in names if names.count(name) > 1})


def _check_count(count: int, what: str) -> None:
    if count < REPLICAS_MIN:
        raise ProvisionError(
            f"{what} is {count}, and a real cluster has at least {REPLICAS_MIN} replicas: fewer survive no loss. "
            "For a trial on one machine use `raftflow cluster up`"
        )
    if count > MEMBERS_MAX:
        raise ProvisionError(f"{what} is {count}; the limit is {MEMBERS_MAX}. 3 replicas survive 1 loss, 5 survive 2")
    if count % 2 == 0:
        raise ProvisionError(
            f"{what} is {count}; an odd number is needed. {count} replicas survive no more losses than {count - 1}: "
            f"use {count - 1} or {count + 1}"
        )


def _check_distinct(hosts: Sequence[Host]) -> None:
    taken: dict[Address, str] = {}
    for number, host in enumerate(hosts, start=1):
        for address, use in ((host.api, "clients"), (host.peer, "replicas")):
            if address == host.api and taken.get(address, "").endswith("clients"):
                raise ProvisionError(
                    f"--hosts: {address} is listed twice. Each replica has a machine of its own. For a trial on one "
                    f"machine give each a port: {host.host}:7001,{host.host}:7002,{host.host}:7003"
                )
            if address in taken:
                raise ProvisionError(
                    f"--hosts: host {number} uses {address} for {use}, and {taken[address]}. The port for replicas "
                    f"is the port for clients plus {PEER_PORT_OFFSET}: choose ports that lie closer together"
                )
            taken[address] = f"host {number} uses it for {use}"


def _parse_host(text: str, where: str) -> Host:
    if not text:
        raise ProvisionError(f"{where} is empty; give a name or an address, such as 10.0.0.1")
    if "/" in text:
        raise ProvisionError(f"{where} {text!r} is a URL or a path; give a host alone, such as 10.0.0.1:7001")
    try:
        bare = ipaddress.ip_address(text)
    except ValueError:
        pass
    else:
        return Host(_address(bare, where, text), PORT_DEFAULT)
    match = _WITH_PORT.fullmatch(text)
    if match is None:
        raise ProvisionError(f"{where} {text!r} is not a host; an IPv6 address with a port is written [fd00::1]:7001")
    name, port = match[1], _parse_port(match[2], where, text)
    if name.startswith("["):
        try:
            return Host(_address(ipaddress.IPv6Address(name[1:-1]), where, text), port)
        except ipaddress.AddressValueError:
            raise ProvisionError(f"{where} {text!r} is not an IPv6 address such as [fd00::1]:7001") from None
    if name.replace(".", "").isdigit():
        try:
            return Host(_address(ipaddress.IPv4Address(name), where, text), port)
        except ipaddress.AddressValueError:
            raise ProvisionError(f"{where} {text!r} is not an IPv4 address such as 10.0.0.1") from None
    labels = name.split(".")
    if len(name) > _NAME_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise ProvisionError(f"{where} {text!r} is not a host name; give a name or an address, such as 10.0.0.1:7001")
    return Host(name.lower(), port)


def _address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, where: str, text: str) -> str:
    if address.is_unspecified or address.is_multicast:
        raise ProvisionError(f"{where} {text!r} is not the address of one machine; give the one that others reach")
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ProvisionError(f"{where} {text!r} has a scope (%{address.scope_id}); give an address without one")
    return str(address)


def _parse_port(text: str | None, where: str, whole: str) -> int:
    if text is None:
        return PORT_DEFAULT
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 0 < int(text) <= _PORT_MAX:
        raise ProvisionError(f"{where} {whole!r}: the port is a number from 1 to {_PORT_MAX}")
    return int(text)
