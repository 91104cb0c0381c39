"""Operations of agents: those that operators use, and those that agents use themselves."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Param, UsedBy, Verb
from raftflow.domain.contract.views import (
    AgentList,
    AgentView,
    CallsRequest,
    CallsResponse,
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
    access=Access.AGENT,
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
    access=Access.READ,
    summary="List the agents with what they offer and what is allocated",
    answer=AgentList,
    items="agents",
    verb=Verb(
        noun="agent",
        name="list",
        columns={
            "NAME": "name",
            "STATE": "state",
            "RUNNING": "running",
            "QUEUED": "queued",
            "ALLOCATED": "allocated",
            "CAPACITY": "resources",
            "LABELS": "labels",
            "SEEN_S": "last_seen_s",
        },
    ),
)
SHOW_AGENT: Final = Operation(
    name="show_agent",
    method="GET",
    path="/v1/agents/{id}",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Show one agent",
    answer=AgentView,
    verb=Verb(noun="agent", name="show", parts=("NAME",)),
)
POLL: Final = Operation(
    name="poll",
    method="POST",
    path="/v1/agents/{id}/poll",
    answered_by=AnsweredBy.LEADER_POLL,
    access=Access.AGENT,
    summary="Report, renew the lease and fetch work",
    details="A report of stale attempts alone is answered with 200 and verdicts. A report of a stale incarnation is "
    "refused as a whole.",
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
    access=Access.OPERATE,
    summary="Give an agent no new work until it is resumed; running attempts end",
    details="The drain outlives the agent: one that is lost, restarted or started later under this name gets no work "
    "either. With a deadline, attempts that still run then are stopped and run elsewhere, at no cost in retries.",
    answer=AgentView,
    body=DrainRequest,
    body_required=False,
    extra_problems=(problems.CONFLICT,),
    verb=Verb(noun="agent", name="drain", parts=("NAME",), given={"deadline_s": "--deadline"}, line="{name} {state}"),
)
RESUME_AGENT: Final = Operation(
    name="resume_agent",
    method="POST",
    path="/v1/agents/{id}/resume",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.OPERATE,
    summary="Let a draining agent work again, whether it is present or not",
    answer=AgentView,
    extra_problems=(problems.CONFLICT,),
    verb=Verb(noun="agent", name="resume", parts=("NAME",), line="{name} {state}"),
)
FORGET_AGENT: Final = Operation(
    name="forget_agent",
    method="POST",
    path="/v1/agents/{id}/forget",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.OPERATE,
    summary="Remove an agent that is lost or has left from the list",
    details="Its drain and the history of its faults are forgotten as well. An agent that is present is refused: "
    "stop it first.",
    answer=ForgottenAgent,
    extra_problems=(problems.CONFLICT,),
    verb=Verb(noun="agent", name="forget", parts=("NAME",), line="{name} forgotten"),
)
SEND_CALLS: Final = Operation(
    name="send_calls",
    method="POST",
    path="/v1/agents/{id}/calls",
    answered_by=AnsweredBy.LEADER_POLL,
    access=Access.AGENT,
    summary="Pass on what running attempts ask of the cluster: durable steps",
    details="Each call has an answer of its own. The answer to a step comes when its record is committed. A request "
    "may be sent again: a step has one record.",
    answer=CallsResponse,
    used_by=UsedBy.AGENT,
    body=CallsRequest,
    extra_problems=(problems.TOO_LARGE,),
)
FETCH_INPUTS: Final = Operation(
    name="fetch_inputs",
    method="GET",
    path="/v1/agents/{id}/attempts/{fence}/inputs",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.AGENT,
    summary="Fetch inputs of an attempt that are too large to come with its assignment",
    details="Any replica that knows the attempt answers. One that is behind says so with 503.",
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
