"""Who may ask: the cluster's token, the names under which a replica answers, and pages of other sites.

The framework and the fast path use the same checks. The fast path asks for a yes or no; a request that does not get a
plain yes goes to the framework, which says what is wrong.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from yarl import URL

from raftflow.api.http import bodies, problems
from raftflow.api.http.hosts import Hosts, check_origin
from raftflow.api.http.problems import ProblemError
from raftflow.domain.contract.operation import Access
from raftflow.domain.contract.operations import OPERATIONS

if TYPE_CHECKING:
    from aiohttp import web

OPEN_PATHS: Final = frozenset(operation.path for operation in OPERATIONS if operation.access is Access.OPEN)


class AccessControl:
    """Checks the requests to one replica.

    Args:
        token: the cluster's; None if it has none.
        hosts: the values of `Host` that the replica accepts.
    """

    def __init__(self, token: str | None, hosts: Hosts) -> None:
        self._token = None if token is None else token.encode()
        self._hosts = hosts

    def allows(self, headers: dict[bytes, bytes]) -> bool:
        """Tell whether a request without `Origin`, to an operation that needs the token, is plainly allowed.

        `headers` are its headers, with names in lower case.
        """
        host = headers.get(b"host")
        if host is None or not self._hosts.is_known(host):
            return False
        return self._token is None or self._has_token(headers.get(b"authorization", b""))

    def check(self, request: web.Request) -> None:
        """Refuse a request that is not allowed. Raises `ProblemError`."""
        bodies.require_plain(request)
        if request.method == "CONNECT":
            raise ProblemError(
                problems.METHOD_NOT_ALLOWED, "a replica is not a proxy", headers={"Allow": "", "Connection": "close"}
            )
        is_open = request.path in OPEN_PATHS
        self._check_host(request, is_open=is_open)
        authorization = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not is_open and not self._has_token(authorization):
            raise ProblemError(
                problems.UNAUTHORIZED,
                "send Authorization: Bearer and the cluster's token (RAFTFLOW_TOKEN)",
                headers={"WWW-Authenticate": 'Bearer realm="raftflow"'},
            )
        check_origin(request.headers.getall("Origin", []), request.headers.get("Host"))

    def _has_token(self, authorization: bytes) -> bool:
        if self._token is None:
            return True
        scheme, _, given = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)

    def _check_host(self, request: web.Request, *, is_open: bool) -> None:
        """Refuse a name that is not this replica's. Open operations, such as health, answer under any name."""
        host, target = request.headers.get("Host"), request.raw_path
        # A target that begins with "/" names no host.
        if not target.startswith("/") and _authority_of(target) not in {None, (host or "").lower()}:
            raise ProblemError(problems.INVALID_DOCUMENT, "the request line and Host name different hosts")
        if not is_open:
            name = request.transport.get_extra_info("sockname") if request.transport is not None else None
            self._hosts.check(host, str(name[0]) if isinstance(name, tuple) else "")


def _authority_of(target: str) -> str | None:
    """Return the host and port that the target of a request names in lower case, None if it names none."""
    url = URL(target, encoded=True)  # aiohttp has read the target in the same way before
    return url.raw_authority.lower() if url.absolute else None
