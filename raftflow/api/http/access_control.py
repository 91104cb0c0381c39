"""Who may ask: tokens and roles, the names under which a replica answers, and pages of other sites.

Each operation says what it needs (`Operation.access`), each role what it grants (`contract/identities/grants.py`).

The framework and the fast path use the same checks. The fast path asks for a yes or no; a request that does not get a
plain yes goes to the framework, which says what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from yarl import URL

from raftflow.api.http import bodies, problems
from raftflow.api.http.hosts import Hosts, check_fetch_site, check_origin
from raftflow.api.http.identity import TOKEN_PREFIX
from raftflow.api.http.problems import ProblemError
from raftflow.domain.contract.identities.grants import roles_for
from raftflow.domain.contract.operation import Access, Operation
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.contract.views import HEADER_FORWARDED_IDENTITY

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from raftflow.api.http.identity import ClientIdentity, Identities

OPEN_PATHS: Final = frozenset(operation.path for operation in OPERATIONS if operation.access is Access.OPEN)


class AccessControl:
    """Checks the requests to one replica.

    Args:
        identities: tells who a token or a certificate belongs to.
        hosts: the values of `Host` that the replica accepts.
        is_of_a_replica: tells whether a replica of this cluster sent a request.
    """

    def __init__(self, identities: Identities, hosts: Hosts, is_of_a_replica: Callable[[web.Request], bool]) -> None:
        self.identities = identities
        self._hosts = hosts
        self._is_of_a_replica = is_of_a_replica

    def identify(
        self,
        headers: dict[bytes, bytes],
        access: Access,
        agent: str = "",
        certified: ClientIdentity | None = None,
    ) -> ClientIdentity | None:
        """Return who sends a request without `Origin`, if it is plainly allowed; else None.

        Args:
            headers: of the request, with names in lower case.
            access: what the operation needs.
            agent: the agent that it is sent for, if any.
            certified: who the certificate of the connection belongs to, if to anybody.
        """
        host = headers.get(b"host")
        if host is None or not self._hosts.is_known(host):
            return None
        identity = self.identities.identify(headers.get(b"authorization", b""), certified)
        if identity is None or not identity.is_authorized(access) or (agent and not identity.can_be(agent)):
            return None
        return identity

    def check(self, request: web.Request, operation: Operation[Any] | None) -> ClientIdentity | None:
        """Refuse a request that is not allowed. Return who sends it, None if nobody has to be known.

        `operation` is what it asks for, None if there is nothing at its path. Raises `ProblemError`.
        """
        bodies.require_plain(request)
        if request.method == "CONNECT":
            raise ProblemError(
                problems.METHOD_NOT_ALLOWED, "a replica is not a proxy", headers={"Allow": "", "Connection": "close"}
            )
        is_open = request.path in OPEN_PATHS
        self._check_host(request, is_open=is_open)
        if len(request.headers.getall("Authorization", ())) > 1:
            raise ProblemError(problems.INVALID_DOCUMENT, "Authorization is there twice: who asks is not plain")
        identity = self.sender_of(request)
        if not is_open and identity is None:
            raise ProblemError(
                problems.UNAUTHORIZED,
                "send Authorization: Bearer and a valid token (RAFTFLOW_TOKEN)",
                headers={"WWW-Authenticate": 'Bearer realm="raftflow"'},
            )
        check_origin(request.headers.getall("Origin", []), request.headers.get("Host"))
        if not is_open:
            check_fetch_site(request.headers.getall("Sec-Fetch-Site", []))
        if operation is not None and identity is not None:
            _require_right(request, operation, identity)
        return identity

    def sender_of(self, request: web.Request) -> ClientIdentity | None:
        """Return who sends a request, None if neither its token nor its certificate is valid.

        Others learn nothing of the cluster.
        """
        authorization = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return self.identities.identify(authorization, None if authorization else self._certified(request))

    def _certified(self, request: web.Request) -> ClientIdentity | None:
        """Return who the certificate of a request belongs to; of a forwarded one, as the other replica proves."""
        forwarded = request.headers.get(HEADER_FORWARDED_IDENTITY)
        if forwarded is not None and self._is_of_a_replica(request):
            return self.identities.of_replica(forwarded)
        return getattr(request.protocol, "certified", None)

    def may_be_new(self, request: web.Request) -> bool:
        """Tell whether the token of a request looks like one that this replica may not know yet."""
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape").partition(b" ")[2]
        return given.strip().startswith(TOKEN_PREFIX) and self.sender_of(request) is None

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


def _require_right(request: web.Request, operation: Operation[Any], identity: ClientIdentity) -> None:
    """Refuse what the role of the sender does not grant, and what it may not do in the name of an agent."""
    if not identity.is_authorized(operation.access):
        roles = " or ".join(roles_for(operation.access)) or "that of a replica"
        raise ProblemError(
            problems.FORBIDDEN,
            f"{identity.shown} {identity.name!r} has the role {identity.role}; this needs {roles}",
        )
    if operation.access is Access.AGENT and "id" in request.match_info:
        identity.require_agent(request.match_info["id"])
