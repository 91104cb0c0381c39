"""Operations of the members of the cluster."""

from __future__ import annotations

from typing import Final

from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Verb
from raftflow.domain.contract.views import AddMemberRequest, MemberList, TransferRequest

_COLUMNS: Final = {
    "MEMBER": "name",
    "PEER": "peer",
    "URL": "url",
    "VOTING": "voting",
    "LEADER": "leader",
    "CONNECTED": "connected",
    "LAG": "lag",
}
LIST_MEMBERS: Final = Operation(
    name="list_members",
    method="GET",
    path="/v1/members",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List the replicas of the cluster as the leader sees them",
    answer=MemberList,
    items="members",
    verb=Verb(noun="member", name="list", stale=True, columns=_COLUMNS, whole=True),
)
ADD_MEMBER: Final = Operation(
    name="add_member",
    method="POST",
    path="/v1/members",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.ADMIN,
    summary="Add a replica that runs on an empty disk with `join = true` in its configuration",
    details="The answer comes when it has caught up and counts for majorities. Send the request again if time "
    "runs out.",
    answer=MemberList,
    body=AddMemberRequest,
    extra_problems=(problems.CONFLICT,),
    items="members",
    answer_s=30.0,
    verb=Verb(
        noun="member",
        name="add",
        given={"name": "NAME", "peer": "--peer HOST:PORT", "url": "--url"},
        columns=_COLUMNS,
        whole=True,
    ),
)
REMOVE_MEMBER: Final = Operation(
    name="remove_member",
    method="POST",
    path="/v1/members/{name}/remove",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.ADMIN,
    summary="Remove a replica for ever",
    details="If it leads, it hands leadership over first. Its process stops by itself.",
    answer=MemberList,
    extra_problems=(problems.CONFLICT,),
    items="members",
    answer_s=30.0,
    verb=Verb(noun="member", name="remove", columns=_COLUMNS, whole=True),
)
TRANSFER_LEADERSHIP: Final = Operation(
    name="transfer_leadership",
    method="POST",
    path="/v1/members/transfer",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.OPERATE,
    summary="Hand leadership to a replica, or to the most caught-up one, before the leader is stopped",
    answer=MemberList,
    body=TransferRequest,
    extra_problems=(problems.NOT_FOUND, problems.CONFLICT),
    items="members",
    verb=Verb(noun="member", name="transfer", given={"to": "NAME"}, columns=_COLUMNS, whole=True),
)
