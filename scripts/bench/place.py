"""Measure the pure scheduler: placements a second. Prints JSON.

python scripts/bench/place.py [--tasks 100000] [--agents 1000] [--shapes 10] [--placements-max 10000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from raftflow.domain.rooms import AgentRoom, ReadyTask, shape_of
from raftflow.scheduler.place import place
from raftflow.scheduler.queue import ReadyQueue
from raftflow.scheduler.view import PlacementView


def main() -> None:
    """Fill a queue, decide over empty agents, five times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--agents", type=int, default=1_000)
    parser.add_argument("--shapes", type=int, default=10)
    parser.add_argument("--placements-max", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    agents = tuple(
        AgentRoom(
            name=f"a{number:05d}",
            incarnation=number + 1,
            capacity={"cpu": 16_000, "memory": 65_536},
            free={"cpu": 16_000, "memory": 65_536},
            prefetch=4,
        )
        for number in range(options.agents)
    )
    shapes = [shape_of({"cpu": 500 + 500 * (n % 4), "memory": 128 * (1 + n)}, {}) for n in range(options.shapes)]
    tasks = [
        ReadyTask(workflow_id="wf", task=n, shape=shapes[n % len(shapes)], rank=n * 7919 % 1_000, number=1)
        for n in range(options.tasks)
    ]
    runs = []
    for _ in range(options.runs):
        queue = ReadyQueue()
        started = time.perf_counter()
        for task in tasks:
            queue.add(task)
        added = time.perf_counter()
        view = PlacementView(
            agents=agents, groups=queue.groups(options.placements_max), placements_max=options.placements_max
        )
        viewed = time.perf_counter()
        placements = place(view)
        placed = time.perf_counter()
        runs.append(
            {
                "placements": len(placements),
                "per_s": len(placements) / (placed - viewed),
                "place_ms": (placed - viewed) * 1e3,
                "view_ms": (viewed - added) * 1e3,
                "add_us": (added - started) / len(tasks) * 1e6,
            }
        )
    median = {"per_s": statistics.median(run["per_s"] for run in runs)}
    json.dump({"name": "place", "runs": runs, "median": median}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
