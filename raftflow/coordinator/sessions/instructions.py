"""What the answer to a poll tells the agent to do, and what the poll says about the agent's attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raftflow.domain.tasks.states import AgentState
from raftflow.machine.read import queries

if TYPE_CHECKING:
    from raftflow.domain.contract.views import Assignment, PollRequest
    from raftflow.machine.machine import Machine
    from raftflow.machine.rows import AgentRow

ANSWER_BYTES = 1024 * 1024
"""An answer carries about this many bytes of arguments and inputs, and at least one assignment."""


class Instructions(NamedTuple):
    """What an agent has to do, as of now."""

    assign: list[Assignment]
    """New attempts."""
    stop: list[int]
    """Fences of attempts that the agent has to stop."""
    release: list[int]
    """Fences of queued attempts that the agent should give back."""
    draining: bool


def instructions_for(machine: Machine, agent: AgentRow, request: PollRequest) -> Instructions:
    """Return what an agent has to do, given what its poll says that it holds."""
    draining = agent.state is AgentState.DRAINING
    if not (agent.live or agent.void or request.running or request.queued):
        return Instructions([], [], [], draining)
    stop, release = queries.orders(machine, agent.name)
    ended = {end.fence for end in request.ends}
    held = [fence for fence in (*request.running, *request.queued) if fence not in ended]
    if held or stop or release:
        unknown = [fence for fence in held if fence not in agent.live and fence <= machine.tables.fence]
        present = set(held)
        stop = sorted({fence for fence in stop if fence in present or fence > request.seen} | set(unknown))
        release = [fence for fence in release if fence in present]
    # The next answer carries what this one has no room for.
    assign = queries.assignments(machine, agent.name, request.seen, apart=request.fetches, bytes_max=ANSWER_BYTES)
    return Instructions(assign, stop, release, draining)


def missing_fences(agent: AgentRow, request: PollRequest) -> tuple[int, ...]:
    """Return the live fences that the agent was sent and does not mention.

    `poll_service` says why the agent has lost these attempts.
    """
    if not agent.live:
        return ()
    known = {*request.running, *request.queued, *(end.fence for end in request.ends)}
    return tuple([fence for fence in agent.live if fence <= request.seen and fence not in known])


def holds_unknown(agent: AgentRow, request: PollRequest) -> bool:
    """Return True if the agent holds an attempt that is not live on this replica."""
    live = agent.live
    for fences in (request.running, request.queued):
        for fence in fences:
            if fence not in live:
                return True
    return False
