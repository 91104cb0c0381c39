"""The names under which a replica answers, and the web sites whose pages it answers.

A page of the Web can make a browser send requests to any address. The header `Origin` reveals such requests, unless
the page's own name points at the replica (DNS rebinding): then `Origin` and `Host` agree. Without a token nothing
else would stop such a page, so `Host` must be a name that no other site can have. Requests for pictures and scripts
have no `Origin`; `Sec-Fetch-Site` reveals them.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.config.hostnames import HostName, parse_host

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.config.replica_config import CoordinatorConfig

_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]{0,30}://(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,255})(:[0-9]{1,5})?")
_OWN_SITES: Final = frozenset({"same-origin", "none"})
"""`none`: a person has typed the address."""
_REMEMBERED_MAX: Final = 256
_SHOWN_CHARS_MAX: Final = 100


class Hosts:
    """The values of `Host` that a replica accepts.

    These are: every loopback address and `localhost`, with any port (no site has them, and tunnels change ports); the
    bound address and the local address of the connection, with the bound port; the URLs of the members; and the
    entries of `replica.hosts`. A replica with a token and without such a list accepts every value.

    Args:
        config: the configuration of this replica.
        bound_port: returns the port of the API.
        member_urls: returns the members' URLs in the log, separated by commas.
    """

    def __init__(
        self, config: CoordinatorConfig, bound_port: Callable[[], int], member_urls: Callable[[], str]
    ) -> None:
        self.checked = config.token is None or bool(config.hosts)
        """False if every value is accepted."""
        self._bound_port = bound_port
        self._member_urls = member_urls
        self._bound = config.bind.host.lower()
        self._port_unsaid = 80 if config.tls.api_cert is None else 443
        self._listed = {host for text in config.hosts if (host := parse_host(text)) is not None}
        self._urls = tuple(member.url for member in config.members)
        self._known: set[bytes] = set()

    def is_known(self, value: bytes) -> bool:
        """Tell whether a value is plainly accepted. `check` may accept a value for which this returns False."""
        if not self.checked or value in self._known:
            return True
        host = parse_host(value.decode("latin-1"))
        if host is None or not self._accepts(host, ""):
            return False
        self._remember(value)
        return True

    def check(self, value: str | None, local: str) -> None:
        """Refuse a request whose `Host` is not accepted. Raises `ProblemError`.

        Args:
            value: the header's; None if it is missing.
            local: the local address of the connection.
        """
        if not self.checked:
            return
        host = parse_host(value or "")
        if host is None:
            raise ProblemError(
                problems.INVALID_DOCUMENT, f"Host {(value or '')[:_SHOWN_CHARS_MAX]!r} does not name a host"
            )
        if not self._accepts(host, local):
            raise ProblemError(
                problems.WRONG_HOST,
                f"this replica does not answer as {(value or '')[:_SHOWN_CHARS_MAX]!r}; ask it at its address or its "
                f"configured URL, or add that name to replica.hosts of its configuration",
            )
        self._remember((value or "").encode("latin-1"))

    def _remember(self, value: bytes) -> None:
        if len(self._known) >= _REMEMBERED_MAX:
            self._known.clear()
        self._known.add(value)

    def _accepts(self, host: HostName, local: str) -> bool:
        name, port = host.name, self._port_unsaid if host.port is None else host.port
        if _is_loopback(name) or HostName(name, None) in self._listed or HostName(name, port) in self._listed:
            return True
        if port == self._bound_port() and name in (self._bound, local.partition("%")[0].lower()):
            return True
        return any(_of_url(url) == (name, port) for url in (*self._urls, *self._member_urls().split(",")))


def check_origin(origins: list[str], host: str | None) -> None:
    """Refuse a request that a page of another site sends. Raises `ProblemError`.

    Args:
        origins: the values of `Origin`; empty for a request that does not come from a page.
        host: the value of `Host`.
    """
    if not origins:
        return
    origin = origins[0]
    if origin == "null":
        raise ProblemError(problems.FORBIDDEN, "a page without an origin may not send requests here")
    match = _ORIGIN.fullmatch(origin.lower())
    if len(origins) > 1 or match is None:
        raise ProblemError(
            problems.INVALID_DOCUMENT, f"Origin {', '.join(origins)[:_SHOWN_CHARS_MAX]!r} is not an origin"
        )
    if match[1] + (match[2] or "") != (host or "").lower():
        raise ProblemError(problems.FORBIDDEN, f"the page at {origin[:_SHOWN_CHARS_MAX]} may not send requests here")


def check_fetch_site(told: list[str]) -> None:
    """Refuse a request that a browser makes for the page of another site, or for another port of this machine.

    Browsers say so in `Sec-Fetch-Site`, also where they send no `Origin`: for pictures, scripts, frames and links. A
    page can neither set nor remove that header. Raises `ProblemError`.
    """
    if any(each not in _OWN_SITES for each in told):
        raise ProblemError(problems.FORBIDDEN, "a page of another site may not send requests here (Sec-Fetch-Site)")


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _of_url(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        host = parse_host(parts.netloc)
    except ValueError:
        return None
    return None if host is None else (host.name, host.port or (443 if parts.scheme == "https" else 80))
