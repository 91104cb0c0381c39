"""Host names under which clients reach a replica, as `Host` headers and the configuration contain them."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,255})(?::([0-9]{1,5}))?")


class HostName(NamedTuple):
    """A name or address in lower case (IPv6 without brackets), and a port if one is given."""

    name: str
    port: int | None


def parse_host(text: str) -> HostName | None:
    """Read the value of a `Host` header, None if it is invalid."""
    match = _HOST.fullmatch(text.lower())
    if match is None:
        return None
    name, port = match[1].strip("[]"), None if match[2] is None else int(match[2])
    if ":" not in name:
        return HostName(name, port)
    try:
        return HostName(str(ipaddress.ip_address(name)), port)
    except ValueError:
        return None
