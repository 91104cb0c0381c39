"""Routes about the replicas of the cluster: who belongs to it, who leads."""

from __future__ import annotations

from raftflow.api import bodies, problems
from raftflow.api.calls import Access, Answer, Call, Route
from raftflow.api.problems import ProblemError
from raftflow.domain.contract import MemberList, TransferRequest


async def list_members(call: Call) -> Answer:
    """List the replicas."""
    return Answer(call.replica.members())


async def transfer(call: Call) -> Answer:
    """Hand leadership over; done at once if the named replica leads already."""
    target = bodies.decode(call.body, TransferRequest).to
    replica = call.replica
    if target == replica.config.name:
        return Answer(replica.members())
    listed = replica.members()
    if target is not None and not any(member.name == target and member.voting for member in listed.members):
        raise ProblemError(problems.NOT_FOUND, f"no voting member is called {target[:100]!r}")
    if not await replica.transfer(target):
        raise ProblemError(
            problems.CONFLICT,
            f"{'no other replica' if target is None else target[:100]} took leadership over in time: out of reach, "
            f"too far behind, or another transfer is under way",
        )
    return Answer(replica.members())


ROUTES: tuple[Route, ...] = (
    Route("GET", "/v1/members", Access.READ, list_members, "List the replicas of the cluster", MemberList),
    Route(
        "POST",
        "/v1/members/transfer",
        Access.WRITE,
        transfer,
        "Hand leadership to another replica",
        MemberList,
        body=TransferRequest,
        problems=(problems.NOT_FOUND, problems.CONFLICT),
    ),
)
