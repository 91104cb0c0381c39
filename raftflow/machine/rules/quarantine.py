"""Agents that come and go: how often one was lost, what failed on it, and how long it gets no work for that.

A first loss has no consequence: the agent that returns gets work at once. A second one within `SUCCESSION_MS` of the
first puts it into quarantine when it returns, and every further one within that time of the one before doubles it,
up to `QUARANTINE_MAX_MS`. A loss that comes later leaves the count as it is, until `FORGET_MS` without one forget it.
So an agent that flaps costs its tasks a few losses an hour, not one every few seconds.

The failure history is the share of the agent's last attempts that failed, timed out or vanished there: an integer in
per mille that moves by a sixteenth with every end, so the last sixteen or so count. A task that fails everywhere
raises it everywhere; what matters is the difference between agents. Losing an agent counts as one fault, however many
attempts it held.

A quarantine protects work from an agent that flaps, as long as others are up. No agent is in quarantine while none is
up: an agent that comes back to an empty fleet works at once, and when the last one goes, all quarantines end. A loss
that is part of a mass loss (`RemoveAgent.mass`) does not count: a network that is cut twice says nothing about an
agent.

**Black holes.** An agent on which everything fails at once is always free, so it would get one task after the other,
and each would use up its retries there. So a task whose attempt failed on an agent that has had no success since goes
elsewhere (`preferences.avoided`). When `CONTRADICTIONS_MAX` such tasks have succeeded elsewhere, the agent is put
into quarantine, for twice as long with each further one. A success on it forgets that.

All of it is kept when an agent registers again under the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.states import AgentState, AttemptOutcome
from raftflow.machine.rules.stopping import move_away, order_attempt
from raftflow.machine.tables.tasks import ORDER_NONE, ORDER_RELEASE, attempt_of

if TYPE_CHECKING:
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Task

SUCCESSION_MS = 10 * 60_000
FORGET_MS = 60 * 60_000
QUARANTINE_FIRST_MS = 10_000
QUARANTINE_MAX_MS = 5 * 60_000
CONTRADICTIONS_MAX = 3
STREAK_MAX = 1_000_000
"""Counters stop here."""
_DOUBLINGS_MAX = 5

_PER_MILLE = 1_000
_SHARE_BITS = 4
_OF_THE_TASK = frozenset({AttemptOutcome.FAILED, AttemptOutcome.TIMEOUT})
_FAULTS = _OF_THE_TASK | {AttemptOutcome.LOST, AttemptOutcome.AGENT_FAULT}


def note_end(step: ApplyContext, agent: Agent, outcome: AttemptOutcome) -> None:
    """Count the end of an attempt in the history of a present agent. One that was called off does not count."""
    if not agent.present:
        return
    if outcome in _FAULTS:
        step.touch_agent(agent)
        _count_fault(agent)
        if outcome in _OF_THE_TASK:
            agent.streak = min(agent.streak + 1, STREAK_MAX)
    elif agent.faults and outcome is AttemptOutcome.SUCCEEDED:
        step.touch_agent(agent)
        agent.faults -= (agent.faults + (1 << _SHARE_BITS) - 1) >> _SHARE_BITS
        agent.streak = agent.contradicted = 0


def contradict(step: ApplyContext, task: Task) -> None:
    """A task succeeded that had failed before: count that against agents on which it failed, and nothing succeeds."""
    assert task.last is not None  # noqa: S101 - it has succeeded there
    here = task.last.agent
    names = {each.agent: None for each in task.history if each.outcome in _OF_THE_TASK and each.agent != here}
    for name in names:
        agent = step.state.agents.get(name)
        if agent is None or not agent.streak:
            continue
        step.touch_agent(agent)
        agent.contradicted = min(agent.contradicted + 1, STREAK_MAX)
        if agent.contradicted >= CONTRADICTIONS_MAX and agent.state is AgentState.UP:
            _put_aside(step, agent)


def _put_aside(step: ApplyContext, agent: Agent) -> None:
    """Put an agent that is up, and was touched, into quarantine for what failed there, if another one is up."""
    if sum(step.state.kinds.values()) < 2:
        return
    step.state.add_kind(agent, -1)
    agent.state = AgentState.QUARANTINE
    pause_ms = _pause_ms(agent.contradicted - CONTRADICTIONS_MAX)
    agent.quarantine_until_ms = step.clock_ms + pause_ms
    step.set_agent_timer(agent, agent.quarantine_until_ms)
    for fence in agent.queue:
        workflow, queued = agent.live[fence]
        attempt = attempt_of(queued, fence)
        if attempt.order == ORDER_NONE:
            order_attempt(step, workflow, queued, attempt, ORDER_RELEASE)
    step.notes.append(
        f"agent {agent.name} is in quarantine for {pause_ms // 1000} s: {agent.contradicted} tasks that failed there "
        "succeeded elsewhere, and nothing has succeeded there since"
    )


def _pause_ms(count: int) -> int:
    return min(QUARANTINE_FIRST_MS << min(count, _DOUBLINGS_MAX), QUARANTINE_MAX_MS)


def _count_fault(agent: Agent) -> None:
    agent.faults += (_PER_MILLE - agent.faults) >> _SHARE_BITS


def note_loss(step: ApplyContext, agent: Agent, *, mass: bool = False) -> None:
    """Count a loss of an agent, which the caller has touched, unless it was part of a mass loss."""
    if mass:
        agent.losses = min(agent.losses, 1)  # or it would come back into a quarantine for its earlier ones
        step.notes.append(f"agent {agent.name} was lost with many others, which counts against none of them")
        return
    since_ms = step.clock_ms - agent.lost_ms
    if not agent.losses or since_ms >= FORGET_MS:
        agent.losses = 1
    elif since_ms <= SUCCESSION_MS:
        agent.losses += 1
    agent.lost_ms = step.clock_ms
    _count_fault(agent)
    if agent.losses > 1:
        step.notes.append(f"agent {agent.name} was lost {agent.losses} times in short succession")


def take_over(step: ApplyContext, agent: Agent, before: Agent) -> None:
    """Give a new incarnation, which is not up yet, the history of the one before, and quarantine if that is bad.

    Only one that was lost is kept waiting: an agent that said goodbye does not flap.
    """
    agent.losses, agent.lost_ms, agent.faults = before.losses, before.lost_ms, before.faults
    agent.streak, agent.contradicted = before.streak, before.contradicted
    if before.state is not AgentState.LOST or agent.losses < 2 or step.clock_ms - agent.lost_ms >= FORGET_MS:
        return
    if not step.state.kinds:
        step.notes.append(f"agent {agent.name} is spared a quarantine: no other agent is up")
        return
    pause_ms = _pause_ms(agent.losses - 2)
    agent.state = AgentState.QUARANTINE
    agent.quarantine_until_ms = step.clock_ms + pause_ms
    step.set_agent_timer(agent, agent.quarantine_until_ms)
    step.notes.append(
        f"agent {agent.name} is in quarantine for {pause_ms // 1000} s: lost {agent.losses} times in short succession"
    )


def end_all_if_nobody_is_up(step: ApplyContext) -> None:
    """End every quarantine if no agent is up."""
    if step.state.kinds:
        return
    for agent in step.state.agents.values():
        if agent.state is AgentState.QUARANTINE:
            step.state.agent_timers.clear(agent.name)
            _end(step, agent, ": no other agent is up")


def agent_due(step: ApplyContext, agent: Agent) -> None:
    """Do what an agent's timer is for: its quarantine is over, or its drain."""
    if agent.state is AgentState.QUARANTINE:
        _end(step, agent, "")
    else:
        move_away(step, agent)


def _end(step: ApplyContext, agent: Agent, why: str) -> None:
    step.touch_agent(agent)
    agent.state = AgentState.UP
    agent.quarantine_until_ms = 0
    step.state.add_kind(agent, 1)
    step.notes.append(f"the quarantine of agent {agent.name} is over{why}")
