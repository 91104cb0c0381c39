"""Operations of the members of the cluster."""

from __future__ import annotations

from typing import Final

from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import AnsweredBy, Operation
from raftflow.domain.contract.views import AddMemberRequest, MemberList, TransferRequest

LIST_MEMBERS: Final = Operation(
    name="list_members",
    method="GET",
    path="/v1/members",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List the replicas of the cluster",
    answer=MemberList,
    items="members",
)
ADD_MEMBER: Final = Operation(
    name="add_member",
    method="POST",
    path="/v1/members",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Add a replica that runs with `join = true`: it receives the log until it has caught up, and votes from "
    "then on",
    answer=MemberList,
    body=AddMemberRequest,
    extra_problems=(problems.CONFLICT,),
)
REMOVE_MEMBER: Final = Operation(
    name="remove_member",
    method="POST",
    path="/v1/members/{name}/remove",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Remove a replica for ever; a leader hands leadership over first",
    answer=MemberList,
    extra_problems=(problems.CONFLICT,),
)
TRANSFER_LEADERSHIP: Final = Operation(
    name="transfer_leadership",
    method="POST",
    path="/v1/members/transfer",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Hand leadership to another replica",
    answer=MemberList,
    body=TransferRequest,
    extra_problems=(problems.NOT_FOUND, problems.CONFLICT),
)
