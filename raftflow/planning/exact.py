"""The best plan of a small workflow, proven: a constraint model for OR-tools CP-SAT (`pip install raftflow[exact]`).

For each task one optional interval on each agent that suits it; on each agent and resource the intervals' demands
never pass the capacity (cumulative constraint). Times are in ms, as everywhere in plans, so an optimum of the model
is an optimum of the problem.
"""

from __future__ import annotations

from typing import Any, Literal

from raftflow.scheduler.plan.bounds import lower_bounds
from raftflow.scheduler.plan.plan import Plan, PlanError, PlanningProblem, Slot
from raftflow.scheduler.policies import make_plan

Objective = Literal["makespan", "cost"]

PAIRS_MAX = 2_000
"""Most pairs of a task and an agent that suits it: what is larger would not end in time."""
COST_MAX = 2**53
TIME_S_MAX = 60.0


def best_plan(
    problem: PlanningProblem, objective: Objective = "makespan", time_s_max: float = TIME_S_MAX
) -> tuple[Plan, bool]:
    """Return the best plan that was found, and whether it is proven to be the best.

    `makespan`: ends first, and of those the cheapest. `cost`: the cheapest, and of those the one that ends first. The
    same problem gives the same plan as long as the time suffices. Raises `PlanError` for a problem that is too
    large, or if OR-tools is not installed.
    """
    try:
        from ortools.sat.python import cp_model  # noqa: PLC0415 - optional, and heavy
    except ImportError:
        raise PlanError("exact plans need OR-tools: pip install 'raftflow[exact]'") from None
    pairs = sum(len(suited) for suited in problem.suited)
    if pairs > PAIRS_MAX:
        raise PlanError(f"{pairs} pairs of task and agent are too many for an exact plan, the limit is {PAIRS_MAX}")
    hint = make_plan(problem, "least-makespan" if objective == "makespan" else "least-cost")
    model = _Model(cp_model, problem, hint)
    first, second = (model.end, model.cost) if objective == "makespan" else (model.cost, model.end)
    plan, value, proven = model.minimise(first, hint, time_s_max)
    model.model.add(first <= value)
    plan, _, also = model.minimise(second, plan, time_s_max)
    return Plan("exact", plan.slots), proven and also


class _Model:
    """The constraints of a problem."""

    def __init__(self, cp_model: Any, problem: PlanningProblem, hint: Plan) -> None:
        self.cp_model = cp_model
        self.problem = problem
        self.model = model = cp_model.CpModel()
        # No longer than one after the other, each where it is slowest: whatever costs least fits into that too.
        pairs = [[(task, agent) for agent in suited] for task, suited in enumerate(problem.suited)]
        slowest = sum(max(problem.duration_ms(*pair) for pair in each) for each in pairs)
        horizon = max(hint.makespan_ms, slowest)
        worst = sum(max(problem.cost_micro(*pair) for pair in each) for each in pairs)
        if worst > COST_MAX:
            raise PlanError("costs or times are too large for an exact plan")
        self.end = model.new_int_var(lower_bounds(problem).best_ms, horizon, "end")
        self.starts = [model.new_int_var(0, horizon, f"start{task}") for task in range(len(problem))]
        self.on: list[dict[int, Any]] = []
        intervals: list[list[tuple[int, Any]]] = [[] for _ in problem.agents]
        costs = []
        ends = []
        for task, suited in enumerate(problem.suited):
            end = model.new_int_var(0, horizon, f"end{task}")
            chosen = {}
            for agent in suited:
                chosen[agent] = model.new_bool_var(f"on{task}_{agent}")
                interval = model.new_optional_interval_var(
                    self.starts[task], problem.duration_ms(task, agent), end, chosen[agent], f"run{task}_{agent}"
                )
                intervals[agent].append((task, interval))
                costs.append(chosen[agent] * problem.cost_micro(task, agent))
            model.add_exactly_one(chosen.values())
            model.add(end <= self.end)
            self.on.append(chosen)
            ends.append(end)
        for task, needs in enumerate(problem.needs):
            for need in needs:
                model.add(self.starts[task] >= ends[need])
        self.cost = sum(costs)
        for agent, mine in enumerate(intervals):
            for resource, capacity in enumerate(problem.capacity[agent]):
                demands = [dict(problem.demands[task]).get(resource, 0) for task, _ in mine]
                if sum(demands) > capacity:
                    model.add_cumulative([interval for _, interval in mine], demands, capacity)

    def minimise(self, objective: Any, hint: Plan, time_s_max: float) -> tuple[Plan, int, bool]:
        """Return the best plan found from a hint on, its value, and whether it is proven."""
        model, problem = self.model, self.problem
        model.clear_hints()
        for slot in hint.slots:
            model.add_hint(self.starts[slot.task], slot.start_ms)
            for agent, chosen in self.on[slot.task].items():
                model.add_hint(chosen, agent == slot.agent)
        model.minimize(objective)
        solver = self.cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 1
        solver.parameters.max_time_in_seconds = time_s_max
        status = solver.solve(model)
        if status not in {self.cp_model.OPTIMAL, self.cp_model.FEASIBLE}:
            raise PlanError(f"the solver found no plan within {time_s_max:g} s ({solver.status_name(status)})")
        slots = []
        for task, chosen in enumerate(self.on):
            agent = next(agent for agent, literal in chosen.items() if solver.boolean_value(literal))
            start_ms = int(solver.value(self.starts[task]))
            slots.append(Slot(task, agent, start_ms, start_ms + problem.duration_ms(task, agent)))
        return Plan("exact", tuple(slots)), round(solver.objective_value), status == self.cp_model.OPTIMAL
