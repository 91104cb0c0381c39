"""Routes of the members of the cluster."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from urllib.parse import urlsplit

from raftflow.api.dispatch.requests import Request, Response, Route
from raftflow.api.http import bodies, problems
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.config.addresses import dial_problem, parse_address, parse_url
from raftflow.coordinator.config.values import ConfigError
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import (
    ADDRESS_PATTERN,
    URL_PATTERN,
    AddMemberRequest,
    FieldProblem,
    TransferRequest,
)
from raftflow.domain.values.ids import name_problem
from raftflow.replication.members.membership import ChangeRefusedError, MemberInfo, NotReadyError

_ADDRESS, _URL = re.compile(ADDRESS_PATTERN), re.compile(URL_PATTERN)


async def list_members(call: Request) -> Response:
    """List the replicas."""
    return Response(call.replica.cluster.members())


async def transfer_leadership(call: Request) -> Response:
    """Hand leadership over. Does nothing if the named replica leads already."""
    target = bodies.decode(call.body, TransferRequest).to
    replica = call.replica
    if target == replica.config.name:
        return Response(replica.cluster.members())
    listed = replica.cluster.members()
    if target is not None and not any(member.name == target and member.voting for member in listed.members):
        raise ProblemError(problems.NOT_FOUND, f"no voting member is called {target[:100]!r}")
    if not await replica.transfer(target):
        if not replica.leader.leading:
            raise replica.submitter.no_leader_error()  # another replica leads now: that one must hand over
        raise ProblemError(
            problems.CONFLICT,
            f"{'no other replica' if target is None else target[:100]} took leadership over in time: out of reach, "
            f"too far behind, or another transfer is under way",
        )
    return Response(replica.cluster.members())


async def add_member(call: Request) -> Response:
    """Add a replica. The answer comes when it is a voter."""
    given = bodies.decode(call.body, AddMemberRequest)
    if wrong := name_problem(given.name):
        raise _invalid("name", f"{given.name[:100]!r} {wrong}")
    if not _ADDRESS.fullmatch(given.peer):
        raise _invalid("peer", f"{given.peer[:100]!r} is not an address such as 10.0.0.1:7101")
    if not _URL.fullmatch(given.url):
        raise _invalid("url", f"{given.url[:100]!r} is not a URL such as http://10.0.0.1:7001")
    try:
        peer = parse_address(given.peer, "peer")
        url = parse_url(given.url, "url")
    except ConfigError as error:
        raise _invalid("", str(error)[:500]) from error
    known = [member.peer.rpartition(":")[0].strip("[]") for member in call.replica.cluster.members().members]
    for field, host in (("peer", peer.host), ("url", urlsplit(url).hostname or "")):
        if problem := dial_problem(host, known):
            raise _invalid(field, f"{host[:100]!r} {problem}")
    await _change(call.replica.membership.add(MemberInfo(given.name, str(peer), url)))
    return Response(call.replica.cluster.members())


async def remove_member(call: Request) -> Response:
    """Remove a replica for ever."""
    await _change(call.replica.membership.remove(call.path("name")))
    return Response(call.replica.cluster.members())


async def _change(change: Awaitable[None]) -> None:
    try:
        await change
    except ChangeRefusedError as error:
        raise ProblemError(problems.CONFLICT, str(error)) from error
    except NotReadyError as error:
        raise problems.outcome_unknown(str(error)) from error


def _invalid(path: str, message: str) -> ProblemError:
    return ProblemError(problems.INVALID_DOCUMENT, message, errors=[FieldProblem(path, message)])


ROUTES: tuple[Route, ...] = (
    Route(operations.members.LIST_MEMBERS, list_members),
    Route(operations.members.ADD_MEMBER, add_member),
    Route(operations.members.REMOVE_MEMBER, remove_member),
    Route(operations.members.TRANSFER_LEADERSHIP, transfer_leadership),
)
