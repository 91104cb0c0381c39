"""Operations of agents: those that operators use, and those that agents use themselves."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import AnsweredBy, Operation, Param, UsedBy
from raftflow.domain.contract.views import (
    AgentList,
    AgentView,
    DrainRequest,
    ForgottenAgent,
    InputsPiece,
    PollRequest,
    PollResponse,
    RegisterRequest,
    RegisterResponse,
)

REGISTER_AGENT: Final = Operation(
    name="register_agent",
    method="POST",
    path="/v1/agents",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Register an agent, or a new instance of one",
    answer=RegisterResponse,
    used_by=UsedBy.AGENT,
    body=RegisterRequest,
    extra_problems=(problems.CONFLICT, problems.NAME_IN_USE, problems.TOO_LARGE),
)
LIST_AGENTS: Final = Operation(
    name="list_agents",
    method="GET",
    path="/v1/agents",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List agents",
    answer=AgentList,
    items="agents",
)
SHOW_AGENT: Final = Operation(
    name="show_agent",
    method="GET",
    path="/v1/agents/{id}",
    answered_by=AnsweredBy.LEADER_READ,
    summary="Show an agent",
    answer=AgentView,
)
POLL: Final = Operation(
    name="poll",
    method="POST",
    path="/v1/agents/{id}/poll",
    answered_by=AnsweredBy.LEADER_POLL,
    summary="Report, renew the lease and fetch work. A report of stale attempts alone is answered with 200 and "
    "verdicts; one of a stale incarnation is refused as a whole",
    answer=PollResponse,
    used_by=UsedBy.AGENT,
    body=PollRequest,
    extra_problems=(problems.STALE_INCARNATION, problems.TOO_LARGE),
)
DRAIN_AGENT: Final = Operation(
    name="drain_agent",
    method="POST",
    path="/v1/agents/{id}/drain",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Give an agent no new work until it is resumed, even if it is lost or leaves meanwhile. With a deadline, "
    "work that still runs then is moved to other agents",
    answer=AgentView,
    body=DrainRequest,
    body_required=False,
    extra_problems=(problems.CONFLICT,),
)
RESUME_AGENT: Final = Operation(
    name="resume_agent",
    method="POST",
    path="/v1/agents/{id}/resume",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Let a draining agent work again, whether it is present or not",
    answer=AgentView,
    extra_problems=(problems.CONFLICT,),
)
FORGET_AGENT: Final = Operation(
    name="forget_agent",
    method="POST",
    path="/v1/agents/{id}/forget",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Remove an agent that is lost or has left from the list, with its drain and the history of its faults",
    answer=ForgottenAgent,
    extra_problems=(problems.CONFLICT,),
)
FETCH_INPUTS: Final = Operation(
    name="fetch_inputs",
    method="GET",
    path="/v1/agents/{id}/attempts/{fence}/inputs",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Fetch inputs of an attempt that are too large to come with its assignment. Any replica that knows the "
    "attempt answers; one that is behind says so with 503",
    answer=InputsPiece,
    used_by=UsedBy.AGENT,
    params=(
        Param(
            "first",
            "integer",
            "position of the need to begin with: 0, and then the `next` of the piece before",
            maximum=limits.NEEDS_PER_TASK_MAX,
            default=0,
        ),
    ),
    extra_problems=(problems.CONFLICT, problems.BEHIND),
)
