"""Agents with their accounts, and what agents that are up have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.tasks.states import LIVE_ATTEMPT, AgentState, TaskState
from raftflow.machine.rules import ledger
from raftflow.machine.schema.declaration import Counter, Frozen, Limit, Reason, Restoring, Saved, SnapshotError, Table
from raftflow.machine.tables.agenda import JobKind
from raftflow.machine.tables.agents import REVOKED_FENCES_MAX, Agent
from raftflow.machine.tables.copy_on_write import AgentRecord
from raftflow.machine.tables.tasks import attempt_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.agents import AgentClass
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Task

_AGENT = b"A"

_decoder = msgspec.msgpack.Decoder(AgentRecord)


def _freeze(state: State, copying: CopyOnWrite) -> Frozen:
    agents = list(state.agents.values())
    return Frozen(len(agents), ((_AGENT, copying.write_agent(agent)) for agent in agents))


class AgentReader:
    """Reads agents. Their accounts and queues follow from the tasks."""

    def __init__(self, restoring: Restoring) -> None:
        self._restoring = restoring

    def take(self, _: bytes, payload: bytes) -> None:
        """Read an agent."""
        record = _decoder.decode(payload)
        agent = Agent(
            record.name,
            record.instance,
            record.incarnation,
            capacity=record.capacity,
            labels=record.labels,
            prefetch=record.prefetch,
            home=record.home,
            state=record.state,
        )
        agent.void = record.void
        agent.drain_deadline_ms = record.drain_deadline_ms
        agent.losses, agent.lost_ms, agent.faults = record.losses, record.lost_ms, record.faults
        agent.streak, agent.contradicted = record.streak, record.contradicted
        agent.drained = record.drained
        agent.quarantine_until_ms = record.quarantine_until_ms
        self._restoring.state.agents[agent.name] = agent
        self._restoring.names[agent.name] = agent.name

    def finish(self) -> None:
        """Each frame is an agent, so none can be incomplete."""


def _derive_accounts(restoring: Restoring) -> None:
    """Enter the live attempts into the accounts and queues of their agents, in the order of the fences."""
    restoring.live.sort(key=lambda found: found[0])
    for fence, workflow, task in restoring.live:
        attempt = attempt_of(task, fence)
        agent = restoring.state.agents.get(attempt.agent)
        if agent is None or agent.incarnation != attempt.incarnation or not is_held(restoring.state, agent):
            raise SnapshotError(f"{workflow.id}/{task.id}: its attempt is on no agent that is present")
        shape = workflow.profiles[task.profile].shape
        if task.state is TaskState.QUEUED:
            agent.queue.append(fence)
        elif ledger.fits(agent, shape):
            ledger.allocate(agent, shape)
        else:
            raise SnapshotError(f"agent {agent.name}: more is allocated than it has")
        agent.live[fence] = (workflow, task)


# --- what must hold


def _problems(state: State, _: int) -> Iterator[str]:
    for name, agent in state.agents.items():
        for problem in _agent_problems(state, name, agent):
            yield f"agent {name}: {problem}"
    incarnations = [agent.incarnation for agent in state.agents.values()]
    if incarnations != sorted(set(incarnations)):
        yield "agents are out of order of their incarnations"


def _agent_problems(state: State, name: str, agent: Agent) -> Iterator[str]:
    if agent.name != name or not 0 < agent.incarnation <= state.incarnation:
        yield f"is in the table under another name or incarnation ({agent.name}, {agent.incarnation})"
    yield from _state_problems(agent)
    if agent.live and not is_held(state, agent):
        yield f"is {agent.state.value} and still holds attempts"
    yield from _account_problems(name, agent)
    if list(agent.live) != sorted(agent.live):
        yield "its live attempts are out of order"
    if len(agent.void) > REVOKED_FENCES_MAX or any(fence in agent.live for fence in agent.void):
        yield "fences to stop are too many, or live"
    yield from _head_problems(agent)


def _account_problems(name: str, agent: Agent) -> Iterator[str]:
    """What is allocated is the sum of what runs, and the queue holds the rest."""
    allocated = dict.fromkeys(agent.capacity, 0)
    queued = []
    running = alone = 0
    for fence, (workflow, task) in agent.live.items():
        if task.state not in LIVE_ATTEMPT or (fence, name) not in holders(task):
            yield f"holds fence {fence}, which is not the live attempt of {workflow.id}/{task.id}"
        elif task.state is TaskState.QUEUED:
            queued.append(fence)
        else:
            shape = workflow.profiles[task.profile].shape
            alone += shape.exclusive
            running += 1
            for resource, amount in agent.capacity.items() if shape.exclusive else shape.demand:
                allocated[resource] = allocated.get(resource, 0) + amount
    if alone > 1 or (alone and running > 1) or bool(alone) != agent.alone:
        yield f"{running} attempts run, {alone} of them exclusive"
    if queued != list(agent.queue):
        yield f"its queue is {list(agent.queue)}, its tasks give {queued}"
    for resource, amount in allocated.items():
        capacity = agent.capacity.get(resource, 0)
        if amount != capacity - agent.free.get(resource, 0):
            yield f"{capacity - agent.free.get(resource, 0)} {resource} allocated, its attempts need {amount}"
        if amount > capacity:
            yield f"{amount} {resource} allocated, its capacity is {capacity}"
    if list(agent.free) != list(agent.capacity):
        yield "its account names other resources than its capacity"


def is_held(state: State, agent: Agent) -> bool:
    """Tell whether an agent may hold attempts: it is present, or their end is on the agenda."""
    return agent.present or state.agenda.get(JobKind.REMOVE_AGENT, agent.name) is not None


def holders(task: Task) -> list[tuple[int, str]]:
    """Return the fences of a task's live attempts, each with its agent."""
    return [(attempt.fence, attempt.agent) for attempt in (task.last, task.backup) if attempt is not None]


def _state_problems(agent: Agent) -> Iterator[str]:
    if agent.void and not agent.present:
        yield f"is {agent.state.value} and is still told to stop attempts"
    if agent.drain_deadline_ms and agent.state is not AgentState.DRAINING:
        yield f"is {agent.state.value} and has a drain deadline"
    if agent.drained and agent.present and agent.state is not AgentState.DRAINING:
        yield f"is {agent.state.value}, although it was drained"
    if (agent.state is AgentState.QUARANTINE) != bool(agent.quarantine_until_ms):
        yield f"is {agent.state.value}, in quarantine until {agent.quarantine_until_ms}"
    if agent.contradicted and not agent.streak:
        yield f"{agent.contradicted} tasks that failed there succeeded elsewhere, and none failed there"


def _head_problems(agent: Agent) -> Iterator[str]:
    """A queue whose head fits should have moved up."""
    if agent.present and agent.queue and agent.queue[0] in agent.live:
        workflow, task = agent.live[agent.queue[0]]
        shape = workflow.profiles[task.profile].shape
        if shape.exclusive:
            fits = len(agent.live) == len(agent.queue)
        else:
            fits = not agent.alone and all(amount <= agent.free.get(name, 0) for name, amount in shape.demand)
        if fits:
            yield f"the head of its queue, fence {agent.queue[0]}, fits and was not started"


AGENTS = Table(
    name="agents",
    about="agents by name, in order of incarnation, gone ones included",
    saved=Saved(field=12, kinds=(_AGENT,), freeze=_freeze, reader=AgentReader),
    derive=_derive_accounts,
    problems=_problems,
    limit=Limit(name="AGENTS_MAX", rows=lambda state: len(state.agents)),
    retire=Reason("an agent outlives the workflows whose tasks it ran"),
    parts=lambda state: (state.agents,),
)

INCARNATION = Counter(name="incarnation", field=8, problems=Reason("the agents check that theirs are not beyond it"))


# --- classes of agents


def _derive_classes(restoring: Restoring) -> None:
    state = restoring.state
    for agent in state.agents.values():
        if agent.state is AgentState.UP:
            state.add_kind(agent, 1)


def _class_problems(state: State, _: int) -> Iterator[str]:
    kinds: dict[AgentClass, int] = {}
    for agent in state.agents.values():
        if agent.state is AgentState.UP:
            kinds[agent.kind()] = kinds.get(agent.kind(), 0) + 1
    if kinds != state.kinds:
        yield "the table of kinds of agents does not match the agents that are up"
    if not kinds and any(agent.state is AgentState.QUARANTINE for agent in state.agents.values()):
        yield "agents are in quarantine while no agent is up"


KINDS = Table(
    name="kinds",
    about="number of agents that are up, by capacity and labels",
    saved=Reason("the agents tell it"),
    derive=_derive_classes,
    problems=_class_problems,
    limit=Limit(name="AGENTS_MAX", rows=lambda state: len(state.kinds)),
    retire=Reason("an agent outlives the workflows whose tasks it ran"),
    parts=lambda state: (state.kinds,),
)
