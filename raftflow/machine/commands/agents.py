"""Agents: registering, draining, leaving. The history of one that comes and goes: `rules/quarantine.py`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final, TypeVar

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import AgentAccepted, Done
from raftflow.domain.tasks.checks import label_problems, resource_problems
from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskState
from raftflow.domain.tasks.workflow import GraphProblem
from raftflow.domain.values.ids import name_problem
from raftflow.machine.commands.attempts import end_attempt, unreported
from raftflow.machine.rules import ledger
from raftflow.machine.rules.quarantine import end_all_if_nobody_is_up, note_loss, take_over
from raftflow.machine.rules.step_limits import ATTEMPT_STEPS
from raftflow.machine.rules.stopping import give_order
from raftflow.machine.tables.agenda import AgendaJob, JobKind
from raftflow.machine.tables.agents import DRAIN_OVER, Agent
from raftflow.machine.tables.tasks import ORDER_NONE, ORDER_RELEASE

if TYPE_CHECKING:
    from raftflow.domain.commands import DrainAgent, ForgetAgent, RegisterAgent, RemoveAgent, ResumeAgent
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task

T = TypeVar("T")

_HOME_CHARS_MAX: Final = 64


def register_agent(step: ApplyContext, command: RegisterAgent) -> AgentAccepted | Rejection:
    """Bring an agent up, or find that it is up."""
    state = step.state
    problems = _problems(command)
    if problems:
        message = "; ".join(f"{problem.path} {problem.message}" for problem in problems[:5])
        return Rejection(RejectionCode.INVALID, message, tuple(problems))
    known = state.agents.get(command.name)
    if known is not None and _is_leaving(known):
        return _refuse_leaving(known)
    if known is not None and known.present and known.instance == command.instance:
        return _update(step, known, command)
    if known is not None and known.present and not _takes_its_place(known, command):
        return Rejection(
            RejectionCode.NAME_IN_USE,
            f"an agent named {command.name} is {known.state.value}, and this is another one. Give this one a name of "
            "its own (--name). If the other one is gone, try again when its lease has run out",
        )
    if known is None and len(state.agents) >= limits.AGENTS_MAX:
        absent = [agent for agent in state.agents.values() if not agent.present and not agent.live]
        gone = min(absent, key=_is_drained, default=None)
        if gone is None:
            return Rejection(
                RejectionCode.LIMIT,
                f"{limits.AGENTS_MAX} agents are present, no more are taken",
                limit=limits.AGENTS_MAX,
            )
        del state.agents[gone.name]
    if known is not None and not step.spend(ATTEMPT_STEPS * len(known.live)):
        return Rejection(
            RejectionCode.PENDING,
            f"agent {known.name} holds {len(known.live)} attempts of its former process; remove it first",
        )
    if known is not None:
        take_out(step, known, AgentState.LOST, "another agent registered under its name", count_loss=True)
        del state.agents[known.name]
    state.incarnation += 1
    agent = Agent(
        command.name,
        command.instance,
        state.incarnation,
        capacity=_sorted(command.capacity),
        labels=_sorted(command.labels),
        prefetch=command.prefetch,
        home=command.home,
    )
    if known is not None:
        take_over(step, agent, known)
        if known.drained:
            _go_on_draining(step, agent)
    state.agents[agent.name] = agent
    if agent.state is AgentState.UP:
        state.add_kind(agent, 1)
    step.agents_changed[agent.name] = None
    return AgentAccepted(agent.name, agent.incarnation)


def _takes_its_place(known: Agent, command: RegisterAgent) -> bool:
    """Tell whether another process may have the name of a present agent: then the process of that one is gone."""
    return command.home != "" and command.home == known.home


def _is_leaving(agent: Agent) -> bool:
    """Tell whether attempts of an agent that is gone have not ended yet."""
    return not agent.present and bool(agent.live)


def _refuse_leaving(agent: Agent) -> Rejection:
    return Rejection(
        RejectionCode.PENDING,
        f"{len(agent.live)} attempts of agent {agent.name}, which is gone, have not ended yet; try again in a moment",
    )


def _is_drained(agent: Agent) -> bool:
    """Sort key of gone agents: the one with the smallest is forgotten first."""
    return agent.drained


def _go_on_draining(step: ApplyContext, agent: Agent) -> None:
    """Bring up a new incarnation, which is not in the table yet, of an agent that was drained and not resumed."""
    agent.drained = True
    agent.state = AgentState.DRAINING
    agent.quarantine_until_ms = 0
    step.state.agent_timers.clear(agent.name)
    step.notes.append(f"agent {agent.name} was drained before, and drains on; `agent resume` gives it work again")


def _sorted(values: dict[str, T]) -> dict[str, T]:
    return {key: values[key] for key in sorted(values)}


def _problems(command: RegisterAgent) -> list[GraphProblem]:
    problems = []
    wrong = name_problem(command.name)
    if wrong is not None:
        problems.append(GraphProblem("name", f"{command.name[:80]!r} {wrong}"))
    if not 1 <= len(command.instance) <= limits.NAME_CHARS_MAX:
        problems.append(GraphProblem("instance", f"must have 1 to {limits.NAME_CHARS_MAX} characters"))
    problems += [GraphProblem("resources", message) for message in resource_problems(command.capacity)]
    problems += [GraphProblem("labels", message) for message in label_problems(command.labels)]
    if len(command.home) > _HOME_CHARS_MAX:
        problems.append(GraphProblem("home", f"must have at most {_HOME_CHARS_MAX} characters"))
    if not 0 <= command.prefetch <= limits.PREFETCH_MAX:
        problems.append(GraphProblem("prefetch", f"must be 0 to {limits.PREFETCH_MAX}"))
    return problems


def _update(step: ApplyContext, agent: Agent, command: RegisterAgent) -> AgentAccepted | Rejection:
    """Take what a repeated registration says; what runs must still fit."""
    accepted = AgentAccepted(agent.name, agent.incarnation)
    capacity = _sorted(command.capacity)
    labels = _sorted(command.labels)
    if capacity == agent.capacity and labels == agent.labels and command.prefetch == agent.prefetch:
        return accepted
    free = dict(capacity)
    if agent.alone and capacity != agent.capacity:
        return Rejection(
            RejectionCode.CONFLICT,
            f"agent {agent.name}: an exclusive attempt holds the whole of its capacity; drain it first",
        )
    for name, amount in agent.capacity.items():
        allocated = amount - agent.free[name]
        if allocated:
            free[name] = free.get(name, 0) - allocated
            if free[name] < 0:
                return Rejection(
                    RejectionCode.CONFLICT,
                    f"agent {agent.name}: more {name} is allocated than the new capacity holds; drain it first",
                )
    step.touch_agent(agent)
    up = agent.state is AgentState.UP
    if up:
        step.state.add_kind(agent, -1)
    agent.capacity, agent.labels, agent.prefetch, agent.free = capacity, labels, command.prefetch, free
    if up:
        step.state.add_kind(agent, 1)
    ledger.promote(step, agent)
    return accepted


def resume_agent(step: ApplyContext, command: ResumeAgent) -> Done | Rejection:
    """Let an agent work again."""
    agent = _find(step, command.name)
    if isinstance(agent, Rejection):
        return agent
    if agent.drained:
        step.touch_agent(agent)
        agent.drained = False
        if not agent.present:
            return Done()
    if not agent.present:
        return _is_gone(agent)
    if agent.state is AgentState.UP:
        return Done(changed=False)
    _control(step, agent, AgentState.UP)
    return Done()


def drain_agent(step: ApplyContext, command: DrainAgent) -> Done | Rejection:
    """Drain an agent until it is resumed, or until it is gone if it is leaving."""
    agent = _find(step, command.name)
    if isinstance(agent, Rejection):
        return agent
    if not 0 <= command.deadline_ms <= limits.DURATION_MS_MAX:
        return Rejection(
            RejectionCode.INVALID, f"the deadline must be 0 to {limits.DURATION_MS_MAX} ms, not {command.deadline_ms}"
        )
    if command.leaving:
        return _drain_leaving(step, agent)
    changed = not agent.drained
    if changed:
        step.touch_agent(agent)
        agent.drained = True
    if not agent.present:
        return Done(changed=changed)
    due_ms = step.clock_ms + command.deadline_ms if command.deadline_ms else 0
    if agent.state is AgentState.DRAINING:
        if agent.drain_deadline_ms in {due_ms, DRAIN_OVER}:  # what was told to move cannot be called back
            return Done(changed=changed)
        step.touch_agent(agent)
    else:
        _control(step, agent, AgentState.DRAINING)
    agent.drain_deadline_ms = due_ms
    if due_ms:
        step.set_agent_timer(agent, due_ms)
    else:
        step.state.agent_timers.clear(agent.name)
    end_all_if_nobody_is_up(step)
    return Done()


def _drain_leaving(step: ApplyContext, agent: Agent) -> Done | Rejection:
    """Drain a present agent until it is gone."""
    if not agent.present:
        return _is_gone(agent)
    if agent.state is AgentState.DRAINING:
        return Done(changed=False)
    _control(step, agent, AgentState.DRAINING)
    end_all_if_nobody_is_up(step)
    return Done()


def forget_agent(step: ApplyContext, command: ForgetAgent) -> Done | Rejection:
    """Take an agent that is gone out of the table."""
    agent = _find(step, command.name)
    if isinstance(agent, Rejection):
        return agent
    if agent.present:
        return Rejection(
            RejectionCode.CONFLICT,
            f"agent {agent.name} is {agent.state.value}: only one that is lost or left can be forgotten. Stop it",
        )
    if _is_leaving(agent):
        return _refuse_leaving(agent)
    step.touch_agent(agent)
    del step.state.agents[agent.name]
    step.agents_changed[agent.name] = None
    return Done()


def _find(step: ApplyContext, name: str) -> Agent | Rejection:
    agent = step.state.agents.get(name)
    if agent is None:
        return Rejection(RejectionCode.NOT_FOUND, f"there is no agent {name[:80]!r}")
    return agent


def _is_gone(agent: Agent) -> Rejection:
    return Rejection(RejectionCode.CONFLICT, f"agent {agent.name} is {agent.state.value}")


def _control(step: ApplyContext, agent: Agent, wanted: AgentState) -> None:
    """Turn a present agent to draining or up, with what that means for its queue. A quarantine ends with it."""
    step.touch_agent(agent)
    draining = wanted is AgentState.DRAINING
    _set_state(step, agent, wanted)
    for fence in agent.queue:
        workflow, task = agent.live[fence]
        attempt = task.last
        assert attempt is not None  # noqa: S101 - a queued task has one, and no backup
        if draining and attempt.order == ORDER_NONE:
            give_order(step, workflow, task, ORDER_RELEASE)
        elif not draining and attempt.order == ORDER_RELEASE and not (workflow.paused or workflow.used_up):
            give_order(step, workflow, task, ORDER_NONE)


def _set_state(step: ApplyContext, agent: Agent, wanted: AgentState) -> None:
    """Change a present agent's state, after it was touched: no timer of the former state is left."""
    if agent.state is AgentState.UP:
        step.state.add_kind(agent, -1)
    elif wanted is AgentState.UP:
        step.state.add_kind(agent, 1)
    agent.state = wanted
    step.state.agent_timers.clear(agent.name)
    agent.drain_deadline_ms = 0
    agent.quarantine_until_ms = 0


def remove_agent(step: ApplyContext, command: RemoveAgent) -> Done | Rejection:
    """Mark an agent as lost or left, and end its live attempts."""
    agent = step.state.agents.get(command.name)
    if agent is None:
        return Rejection(RejectionCode.NOT_FOUND, f"there is no agent {command.name[:80]!r}")
    if agent.incarnation != command.incarnation:
        return Rejection(
            RejectionCode.STALE_INCARNATION,
            f"agent {agent.name} has incarnation {agent.incarnation}, not {command.incarnation}",
        )
    if not agent.present:
        return Done(changed=False)
    if command.reason == "left":
        take_out(step, agent, AgentState.LEFT, "its agent left")
    else:
        why = "its agent was silent for longer than its lease"
        take_out(step, agent, AgentState.LOST, why, count_loss=not command.mass, mass=command.mass)
    end_all_if_nobody_is_up(step)
    return Done()


def take_out(
    step: ApplyContext,
    agent: Agent,
    state: AgentState,
    why: str,
    *,
    count_loss: bool = False,
    mass: bool = False,
    outcome: AttemptOutcome = AttemptOutcome.LOST,
) -> None:
    """Mark an agent as gone and end what it held, in the order in which it was assigned, with this outcome.

    With `count_loss` the loss counts against the attempts that may have caused it. A `mass` loss counts against none.
    """
    if not agent.present:
        return
    step.touch_agent(agent)
    _set_state(step, agent, state)
    agent.void = []
    if state is AgentState.LOST:
        note_loss(step, agent, mass=mass)
    # What runs there may have stopped the agent: of it that which lost most agents before.
    running = [task for _, task in agent.live.values() if task.state is TaskState.RUNNING] if count_loss else []
    lost_most = max(map(_agents_lost, running), default=-1)
    job = AgendaJob(JobKind.REMOVE_AGENT, agent.name, why=why, outcome=outcome, lost_most=lost_most)
    if not continue_removal(step, agent, job):
        step.state.agenda.put(job)


def continue_removal(step: ApplyContext, agent: Agent, job: AgendaJob) -> bool:
    """End the next attempts of an agent that is gone. Returns True when all have ended."""
    count = max(step.budget // ATTEMPT_STEPS, 1)
    step.budget -= ATTEMPT_STEPS * min(count, len(agent.live))
    for fence, (workflow, task) in list(islice(agent.live.items(), count)):
        blamed = task.state is TaskState.RUNNING and _agents_lost(task) == job.lost_most
        end_attempt(step, agent, workflow, task, unreported(fence, job.outcome, job.why), counts_loss=blamed)
    return not agent.live


def _agents_lost(task: Task) -> int:
    return 0 if task.mishaps is None else task.mishaps.agents_lost
