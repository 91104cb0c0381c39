"""The names under which a replica is asked, as they stand in `Host` and in the configuration."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, NamedTuple

_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,255})(?::([0-9]{1,5}))?")


class HostName(NamedTuple):
    """A name or address, in lower case and an IPv6 one without brackets, and a port; None where none is given."""

    name: str
    port: int | None


def parse_host(text: str) -> HostName | None:
    """Read the value of `Host`, None if it is no such value."""
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
