"""The report of a plan: its figures against the lower bounds, and the reason for the place and time of each task."""

from __future__ import annotations

import msgspec

from raftflow.scheduler.plan.bounds import LowerBounds
from raftflow.scheduler.plan.plan import MILLI, Plan, PlanningProblem, Slot, cost_micro, utilisation

AGENTS_COMPARED_MAX = 4
"""Other agents that the reason of a placement names."""


class MakespanBounds(msgspec.Struct, kw_only=True):
    """Lower bounds of the makespan."""

    critical_path_s: float
    work_s: float
    window_s: float
    """From energy and slots within windows (`scheduler.bounds`)."""
    best_s: float
    """The largest."""
    work_by_resource_s: dict[str, float]


class TaskReport(msgspec.Struct, kw_only=True):
    """One task of a plan."""

    id: str
    agent: str
    start_s: float
    end_s: float
    cost: float
    waits_for: str | None
    """The task that ends when this one starts: one that it needs, or one that held the room; None for none."""
    why: str


class AgentReport(msgspec.Struct, kw_only=True):
    """One agent's part in a plan."""

    name: str
    tasks: int
    busy_s: float
    """Sum of its tasks' durations."""
    cost: float


class PlanReport(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What `workflow plan -o json` prints."""

    policy: str
    makespan_s: float
    cost: float
    lower_bounds: MakespanBounds
    gap: float
    """Makespan over the largest lower bound, less one."""
    optimal: bool | None = None
    """True if a solver has proven that no plan is better; left out where none was asked."""
    utilisation: dict[str, float]
    critical_path: list[str]
    agents: list[AgentReport]
    tasks: list[TaskReport]


def report(problem: PlanningProblem, plan: Plan, bounds: LowerBounds) -> PlanReport:
    """Describe a plan."""
    return PlanReport(
        policy=plan.policy,
        makespan_s=plan.makespan_ms / MILLI,
        cost=cost_micro(problem, plan) / MILLI**2,
        lower_bounds=MakespanBounds(
            critical_path_s=bounds.critical_path_ms / MILLI,
            work_s=bounds.work_ms / MILLI,
            window_s=bounds.window_ms / MILLI,
            best_s=bounds.best_ms / MILLI,
            work_by_resource_s={name: ms / MILLI for name, ms in bounds.work_by_resource_ms.items()},
        ),
        gap=plan.makespan_ms / bounds.best_ms - 1 if bounds.best_ms else 0.0,
        utilisation=utilisation(problem, plan),
        critical_path=[problem.ids[task] for task in problem.critical_path()],
        agents=_agents(problem, plan),
        tasks=_tasks(problem, plan),
    )


def differences(problem: PlanningProblem, given: Plan, best: Plan) -> list[str]:
    """Compare two plans task by task: agents, costs and ends where the agents differ."""
    lines = []
    for mine, other in zip(given.slots, best.slots, strict=True):
        if mine.agent != other.agent:
            lines.append(
                f"{problem.ids[mine.task]}: {_there(problem, mine)} in the {given.policy} plan, "
                f"{_there(problem, other)} in the {best.policy} plan"
            )
    return lines


def _there(problem: PlanningProblem, slot: Slot) -> str:
    cost = problem.cost_micro(slot.task, slot.agent) / MILLI**2
    return f"on {problem.agents[slot.agent].name}, cost {cost:g}, end {slot.end_ms / MILLI:g} s"


def _agents(problem: PlanningProblem, plan: Plan) -> list[AgentReport]:
    reports = [AgentReport(name=agent.name, tasks=0, busy_s=0.0, cost=0.0) for agent in problem.agents]
    busy_ms = [0] * len(reports)
    cost = [0] * len(reports)
    for slot in plan.slots:
        reports[slot.agent].tasks += 1
        busy_ms[slot.agent] += slot.end_ms - slot.start_ms
        cost[slot.agent] += problem.cost_micro(slot.task, slot.agent)
    for number, each in enumerate(reports):
        each.busy_s = busy_ms[number] / MILLI
        each.cost = cost[number] / MILLI**2
    return reports


def _tasks(problem: PlanningProblem, plan: Plan) -> list[TaskReport]:
    ended: dict[tuple[int, int], list[Slot]] = {}
    for slot in plan.slots:
        ended.setdefault((slot.agent, slot.end_ms), []).append(slot)
    reports = []
    for slot in plan.slots:
        blocker, reason = _start_reason(problem, plan, slot, ended.get((slot.agent, slot.start_ms), []))
        reports.append(
            TaskReport(
                id=problem.ids[slot.task],
                agent=problem.agents[slot.agent].name,
                start_s=slot.start_ms / MILLI,
                end_s=slot.end_ms / MILLI,
                cost=problem.cost_micro(slot.task, slot.agent) / MILLI**2,
                waits_for=None if blocker is None else problem.ids[blocker],
                why=f"{reason}; {_choice(problem, slot)}",
            )
        )
    return reports


def _start_reason(problem: PlanningProblem, plan: Plan, slot: Slot, ended: list[Slot]) -> tuple[int | None, str]:
    """Return which task this one waited for, and the reason of its start."""
    if slot.start_ms == 0:
        return None, "starts at once"
    for need in problem.needs[slot.task]:
        if plan.slots[need].end_ms == slot.start_ms:
            return need, f"needs {problem.ids[need]}"
    if ended:
        return ended[0].task, f"room on {problem.agents[slot.agent].name} when {problem.ids[ended[0].task]} ended"
    return None, "room was reserved for other tasks before"


def _choice(problem: PlanningProblem, slot: Slot) -> str:
    """Return cost and duration of the task on its agent, and on some agents that differ."""
    task = slot.task
    here = (problem.cost_micro(task, slot.agent), problem.duration_ms(task, slot.agent))
    others: dict[tuple[int, int], str] = {}
    for agent in problem.suited[task]:
        there = (problem.cost_micro(task, agent), problem.duration_ms(task, agent))
        if there != here:
            others.setdefault(there, problem.agents[agent].name)
    text = f"cost {here[0] / MILLI**2:g}, {here[1] / MILLI:g} s"
    for (cost, duration_ms), name in sorted(others.items())[:AGENTS_COMPARED_MAX]:
        text += f" (on {name}: cost {cost / MILLI**2:g}, {duration_ms / MILLI:g} s)"
    if len(problem.suited[task]) == 1:
        text += ", the only agent that suits"
    return text
