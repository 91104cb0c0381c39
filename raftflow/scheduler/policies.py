"""The registry of policies: how a workflow is planned, and how a ready task gets its agent.

To add a policy, add an entry to `_ENTRIES`. The command line, `raftflow help policies`, the benchmarks and the tests
read the registry. The entry needs a row in `README.md` and a scenario in `tests/scheduler/transcripts`; tests fail
until both are there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from raftflow.scheduler.plan.build import dispatch_tasks
from raftflow.scheduler.plan.heuristics import Slots, by_arrival, by_rank, plan_critical_path, plan_least_cost
from raftflow.scheduler.plan.least_makespan import plan_least_makespan
from raftflow.scheduler.plan.plan import Plan, PlanningProblem
from raftflow.scheduler.scores import PlacementRule, cost_weight, trouble_and_speed_weight, trouble_weight


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One policy: it builds plans, and most policies also place ready tasks."""

    name: str
    help: str
    """What it does in a plan, in one line."""
    weighs: str | None = None
    """What it weighs when a ready task is placed, in one line; None if it only plans."""
    plan: Callable[[PlanningProblem], Slots]
    placement: PlacementRule | None = None
    """How agents are compared when a ready task is placed; None if it only plans."""


DEFAULT_POLICY: Final = "critical-path"
"""The policy of the coordinator."""

_ENTRIES: Final = (
    Policy(
        name="first-come",
        help="what became ready first starts first, on the first agent that has room",
        weighs="the first agent that has room, by name; ready tasks have no ranks",
        plan=lambda problem: dispatch_tasks(problem, by_arrival(), lambda _fleet, _task, agent: agent),
        placement=PlacementRule(weigh=lambda _room: 0, fit=0, locality=False, balance=False, ranks=False),
    ),
    Policy(
        name="critical-path",
        help="HEFT: the largest upward rank first, inserted where it ends first; or the same order without gaps "
        "kept, if that ends earlier",
        weighs="pressure, faults and speed of the agent, then inputs that it holds, then the best fit",
        plan=plan_critical_path,
        placement=PlacementRule(weigh=trouble_and_speed_weight, fit=1),
    ),
    Policy(
        name="least-cost",
        help="each task where cost rate times duration is least, the largest rank first",
        weighs="cost rate over speed, then inputs that the agent holds, then the best fit",
        plan=plan_least_cost,
        placement=PlacementRule(weigh=cost_weight, fit=1),
    ),
    Policy(
        name="least-makespan",
        help="the best of several orders, then justified and perturbed within a fixed budget",
        plan=plan_least_makespan,
    ),
    Policy(
        name="binpack",
        help="by rank, on the agent that is left with the least room",
        weighs="pressure and faults, then inputs that the agent holds, then the best fit; speed does not count",
        plan=lambda problem: dispatch_tasks(
            problem, by_rank(problem), lambda fleet, task, agent: fleet.left_over(task, agent)
        ),
        placement=PlacementRule(weigh=trouble_weight, fit=1, balance=False),
    ),
    Policy(
        name="spread",
        help="by rank, on the agent that was given the least work so far",
        weighs="pressure and faults, then the most room left over; neither speed nor inputs count",
        plan=lambda problem: dispatch_tasks(
            problem, by_rank(problem), lambda fleet, _task, agent: fleet.busy_ms[agent]
        ),
        placement=PlacementRule(weigh=trouble_weight, fit=-1, locality=False),
    ),
)

POLICIES: Final[dict[str, Policy]] = {policy.name: policy for policy in _ENTRIES}
"""Every policy, by name."""

PLACEMENT_RULES: Final[dict[str, PlacementRule]] = {
    policy.name: policy.placement for policy in _ENTRIES if policy.placement is not None
}
"""The policies that can place ready tasks."""


def make_plan(problem: PlanningProblem, policy: str) -> Plan:
    """Plan a workflow. Raises `KeyError` for a policy that is not in `POLICIES`."""
    return Plan(policy, POLICIES[policy].plan(problem))
