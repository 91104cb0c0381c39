"""Plan recorded workflows by every policy and print makespans over the lower bound, as a table in Markdown.

python scripts/bench/plan_table.py DIRECTORY [--agents 4,16] [--cpus 4] [--memory 16GiB]

Exits with 1 if the critical-path policy is on average more than 10 % above the bound, or ends a workflow more than
2 % later than first come.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from raftflow.domain.tasks.resources import parse_amount
from raftflow.formats.documents import normalize
from raftflow.formats.files import load
from raftflow.scheduler.plan.bounds import lower_bounds
from raftflow.scheduler.plan.check import plan_faults
from raftflow.scheduler.plan.plan import PlanAgent, PlanningProblem
from raftflow.scheduler.policies import POLICIES, make_plan

MEAN_MAX = 1.10
VERSUS_FIRST_COME_MAX = 1.02


def main() -> None:
    """Plan every file for every number of agents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--agents", default="4,16")
    parser.add_argument("--cpus", default="4")
    parser.add_argument("--memory", default="16GiB")
    options = parser.parse_args()
    capacity = {"cpu": parse_amount("cpu", options.cpus), "memory": parse_amount("memory", options.memory)}
    specs = {path.stem: normalize(load(path)) for path in sorted(options.directory.glob("*.json"))}
    if not specs:
        sys.exit(f"{options.directory} has no .json files")
    good = True
    for count in (int(text) for text in options.agents.split(",")):
        agents = [PlanAgent(name=f"a{number}", capacity=capacity) for number in range(count)]
        ratios: dict[str, list[float]] = {policy: [] for policy in POLICIES}
        print(f"| {count} agents | tasks | lower bound s | {' | '.join(POLICIES)} |")
        print("| --- | --- | --- |" + " --- |" * len(POLICIES))
        for name, spec in specs.items():
            problem = PlanningProblem(spec, agents)
            bound_ms = lower_bounds(problem).best_ms
            row = []
            for policy in POLICIES:
                plan = make_plan(problem, policy)
                faults = plan_faults(spec, agents, plan)
                if faults:
                    sys.exit(f"{name}, {policy}: {faults}")
                row.append(plan.makespan_ms / bound_ms)
                ratios[policy].append(row[-1])
            print(f"| {name} | {len(problem)} | {bound_ms / 1000:.1f} | {' | '.join(f'{r:.3f}' for r in row)} |")
        means = [statistics.mean(each) for each in ratios.values()]
        print(f"| mean | | | {' | '.join(f'{mean:.3f}' for mean in means)} |\n")
        pairs = zip(ratios["critical-path"], ratios["first-come"], strict=True)
        worst = max(mine / other for mine, other in pairs)
        print(f"critical-path over first-come, worst: {worst:.3f}\n")
        good &= statistics.mean(ratios["critical-path"]) <= MEAN_MAX and worst <= VERSUS_FIRST_COME_MAX
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
