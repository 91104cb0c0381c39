"""Why this agent and not another one: the candidates of a task in words, from the view of a decision.

The scores come from the same `Lane` that decides. The first candidate is the one that `place` takes if the task is
decided alone. In a decision with other tasks, those before it have taken their room already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from raftflow.domain.tasks.feasibility import NEAR_MAX, AgentRoom, ReadyTask, suits
from raftflow.domain.tasks.resources import CPU, MEMORY, show_amount
from raftflow.scheduler.queue.fleet import Fleet, Lane, Score
from raftflow.scheduler.scores import PER_MILLE, SCARCE_SHIFT
from raftflow.scheduler.view import PRESSURE_MAX

if TYPE_CHECKING:
    from raftflow.domain.tasks.feasibility import Shape
    from raftflow.scheduler.view import PlacementView

CANDIDATES_MAX: Final = 5

_QUARTER: Final = 25
"""One step of pressure or faults, in percent."""

_WEIGHT_MASK: Final = (1 << SCARCE_SHIFT) - 1


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as a task sees it."""

    agent: str
    where: Literal["run", "queue", "no"]
    """Whether the task could run there at once, wait in its queue, or neither."""
    score: tuple[int, ...]
    """Compared one after the other, the lowest is best: scarce resources blocked, failed there before, weight of the
    agent, locality (the place among those that hold inputs), left over. In a queue the wait replaces the weight."""
    why: str


def candidates(view: PlacementView, task: ReadyTask, limit: int = CANDIDATES_MAX) -> list[Candidate]:
    """Return the best `limit` agents for a task, best first, and after them those that cannot take it now."""
    fleet = Fleet(view)
    lane = Lane(task.shape, fleet)
    hard = lane.hard(task)
    runs: list[tuple[tuple[int, ...], int]] = []
    queues: list[tuple[tuple[int, ...], int]] = []
    rejected: list[Candidate] = []
    for number, agent in enumerate(fleet.agents):
        run, queue = lane.run_score(number), lane.queue_score(number)
        if agent.name in hard or (run is None and queue is None):
            rejected.append(_rejected(agent.name, _why_not(view, agent, task, lost=agent.name in hard)))
        elif run is not None:
            runs.append(((*_key(fleet, task, run, agent), run[1]), number))
        else:
            assert queue is not None  # noqa: S101 - one of the two is there
            key = _key(fleet, task, (queue[0] & ~_WEIGHT_MASK | queue[1], 0, *queue[2:]), agent)
            queues.append(((*key, 0), number))
    runs.sort()
    queues.sort()
    found = [_accepted(fleet, task, "run", score, number) for score, number in runs]
    found += [_accepted(fleet, task, "queue", score, number) for score, number in queues]
    rejected += [
        _rejected(agent.name, "the leader has not heard it for a while") for agent in view.agents if agent.suspect
    ]
    return (found + rejected)[:limit]


def _key(fleet: Fleet, task: ReadyTask, score: Score, agent: AgentRoom) -> tuple[int, int, int, int]:
    """Return what is compared before the left-over."""
    avoided = agent.name in task.avoid or agent.name in task.avoid_hard
    holds = fleet.rule.locality and not avoided and agent.name in task.near
    near = task.near.index(agent.name) if holds else NEAR_MAX
    return score[0] >> SCARCE_SHIFT, int(avoided), score[0] & _WEIGHT_MASK, near


def _accepted(
    fleet: Fleet, task: ReadyTask, where: Literal["run", "queue"], score: tuple[int, ...], number: int
) -> Candidate:
    agent = fleet.agents[number]
    words = ["has room now" if where == "run" else f"its queue has room: {fleet.queued[number]} would be ahead of it"]
    wanted = {name for name, _ in task.shape.demand}
    blocked = [
        name for name, amount in agent.capacity.items() if amount and name not in {CPU, MEMORY} and name not in wanted
    ]
    if blocked:
        words.append(f"keeps {', '.join(blocked)} from tasks that need it")
    if agent.name in task.avoid:
        words.append("an attempt failed there")
    if agent.name in task.avoid_hard:
        words.append("an attempt was lost or failed there, and no other agent could ever run it")
    if agent.pressure:
        words.append(_busy(agent.pressure))
    if agent.faults:
        words.append(f"at least {agent.faults * _QUARTER}% of the attempts that ended there lately failed")
    if agent.speed != PER_MILLE:
        words.append(f"tasks take {PER_MILLE / max(1, agent.speed):.2g} times as long there as expected")
    if agent.name in task.near:
        words.append("holds inputs")
    if where == "run" and fleet.rule.fit:
        left = fleet.rule.fit * score[-1]
        words.append(f"leaves {left / PER_MILLE / max(1, len(agent.capacity)):.0%} of it free")
    return Candidate(agent=agent.name, where=where, score=score, why="; ".join(words))


def _busy(pressure: int) -> str:
    """Say how much busier an agent is than its attempts explain (`AgentRoom.pressure`)."""
    if pressure == PRESSURE_MAX:
        return "other work keeps its CPUs busy, or uses the memory that it offers"
    return f"other work keeps at least {pressure * _QUARTER}% of its CPUs busy"


def _rejected(name: str, why: str) -> Candidate:
    return Candidate(agent=name, where="no", score=(), why=why)


def _why_not(view: PlacementView, agent: AgentRoom, task: ReadyTask, *, lost: bool) -> str:
    shape = task.shape
    if not suits(shape, agent.capacity, agent.labels):
        return _never(shape, agent)
    if lost:
        return "an attempt was lost there, and another agent could run it"
    if view.reserved.get(agent.name, shape) != shape:
        return "it is reserved for a task that waited too long"
    if agent.queued:
        return f"its queue is full ({agent.queued} wait), and no task passes a queue"
    short = [
        f"{show_amount(name, agent.free.get(name, 0))} {name} is free, {show_amount(name, amount)} is needed"
        for name, amount in shape.demand
        if agent.free.get(name, 0) < amount
    ]
    return "; ".join(short) or "other tasks run there, and the task is exclusive"


def _never(shape: Shape, agent: AgentRoom) -> str:
    wrong = [f"{key}={value}" for key, value in shape.labels if agent.labels.get(key) != value]
    if wrong:
        return f"it does not have the label {', '.join(wrong)}"
    short = []
    for name, amount in shape.demand:
        offered = agent.capacity.get(name, 0)
        if offered < amount:
            short.append(f"it offers {show_amount(name, offered)} {name}, {show_amount(name, amount)} is needed")
    return "; ".join(short)
