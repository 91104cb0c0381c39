"""Operations about one replica: its status, its health, its figures, and the leader that it knows."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Param, UsedBy, Verb
from raftflow.domain.contract.views import HealthView, HostView, LeaderNotice, ReplicaStatus

SHOW_STATUS: Final = Operation(
    name="show_status",
    method="GET",
    path="/v1/status",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.READ,
    summary="Show this replica: role, term, leader, indexes",
    answer=ReplicaStatus,
    verb=Verb(noun="cluster", name="status", by_hand=True),
)
SHOW_HOST: Final = Operation(
    name="show_host",
    method="GET",
    path="/v1/host",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.OPERATE,
    summary="Show the machine and the process of this replica: clocks, disk, files, certificates, pressure",
    answer=HostView,
    verb=Verb(noun="cluster", name="doctor", by_hand=True),
)
SHOW_LEADER: Final = Operation(
    name="show_leader",
    method="GET",
    path="/v1/leader",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.ANY,
    summary="Name the leader that this replica knows",
    details="With `wait_ms`, as soon as that is the leader of a later term. A client that waits for a silent leader "
    "learns from another replica that there is a new one.",
    answer=LeaderNotice,
    params=(
        Param("term", "integer", "a leader of this term, or of an earlier one, is not news", default=0),
        Param("wait_ms", "integer", "how long to wait for news", maximum=limits.LEADER_WAIT_MS_MAX, default=0),
    ),
    no_verb="clients ask by themselves while a leader is silent; people use `cluster status`",
)
CHECK_HEALTH: Final = Operation(
    name="check_health",
    method="GET",
    path="/healthz",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Tell whether the process is alive",
    answer=HealthView,
    access=Access.OPEN,
    used_by=UsedBy.TOOL,
)
CHECK_READINESS: Final = Operation(
    name="check_readiness",
    method="GET",
    path="/readyz",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Tell whether this replica serves",
    answer=HealthView,
    access=Access.OPEN,
    used_by=UsedBy.TOOL,
    extra_problems=(problems.NO_LEADER,),
)
SHOW_METRICS: Final = Operation(
    name="show_metrics",
    method="GET",
    path="/metrics",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.READ,
    summary="Figures as Prometheus text",
    answer=bytes,
    media_type="text/plain",
    used_by=UsedBy.TOOL,
)
