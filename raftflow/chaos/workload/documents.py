"""Documents of a chaos run: bags, chains, diamonds, wide joins, each with the result that every task must have."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raftflow.chaos.workload.tasks import MODULUS, combine

CALL: Final = "raftflow.chaos.workload.tasks:work"
_MODULE: Final = "raftflow.chaos.workload.tasks"
SHAPES: Final = ("bag", "chain", "diamond", "join")
_COMMAND_SHARE: Final = 0.06
"""So many tasks are programs: starting an interpreter takes longer than a call."""
_LONG_SHARE: Final = 0.05
_BACKUP_SHARE: Final = 0.1
_FAILING_SHARE: Final = 0.08
_RETRIES: Final = 6


@dataclass(frozen=True, slots=True)
class PlannedWorkflow:
    """A document, and what the history says of it."""

    document: Mapping[str, Any]
    tasks: Sequence[Mapping[str, Any]]
    may_fail: bool = False
    """Its first attempt fails and has no retry: it succeeds only after `retry`."""


def _needs_of(shape: str, size: int) -> dict[str, list[str]]:
    """Return the tasks of a shape with what each needs."""
    names = [f"t{number}" for number in range(size)]
    if shape == "bag":
        return {name: [] for name in names}
    if shape == "chain":
        return {name: names[number - 1 : number] for number, name in enumerate(names)}
    middle = names[1:-1]
    if shape == "diamond":
        return {names[0]: [], **dict.fromkeys(middle, names[:1]), names[-1]: middle}
    return {**{name: [] for name in names[:-1]}, names[-1]: names[:-1]}


def plan_workflow(name: str, chance: random.Random, collector: str) -> PlannedWorkflow:
    """Draw a workflow."""
    shape = chance.choice(SHAPES)
    size = chance.randint(10, 24) if shape == "join" and chance.random() < 0.3 else chance.randint(3, 7)
    may_fail = chance.random() < _FAILING_SHARE / 2
    failing = f"t{chance.randrange(size)}" if may_fail else ""
    tasks: list[dict[str, Any]] = []
    told: list[Mapping[str, Any]] = []
    results: dict[str, int] = {}
    for task, needs in _needs_of(shape, size).items():
        salt = chance.randrange(MODULUS)
        fails = 1 if task == failing or chance.random() < _FAILING_SHARE else 0
        sleep_ms = chance.randint(1_000, 4_000) if chance.random() < _LONG_SHARE else chance.randint(5, 250)
        backup = chance.random() < _BACKUP_SHARE
        arguments = {"salt": salt, "sleep_ms": sleep_ms, "fails": fails, "collector": collector}
        program: dict[str, Any] = {"python": CALL, "kwargs": arguments}
        if chance.random() < _COMMAND_SHARE:
            program = {"command": [sys.executable, "-P", "-m", _MODULE, json.dumps(arguments)]}
        retries = 0 if task == failing else _RETRIES
        tasks.append({
            "id": task, "needs": needs, "backup": backup, "retries": retries, "expected": f"{sleep_ms}ms", **program,
        })  # fmt: skip
        results[task] = combine(salt, {need: results[need] for need in needs})
        ends = {"ends": "any"} if may_fail else {}
        told.append({"id": task, "needs": needs, "backup": backup, "expect": results[task], **ends})
    defaults = {"resources": {"cpu": 0.5}, "retry_delay": "100ms", "retry_delay_max": "400ms"}
    document = {"name": name, "priority": chance.choice([20, 50, 50, 80]), "defaults": defaults, "tasks": tasks}
    return PlannedWorkflow(document, told, may_fail=may_fail)


def plan_pulse(name: str, salt: int, collector: str) -> PlannedWorkflow:
    """Return a workflow of one short task: the steady write that shows when the cluster acknowledges."""
    arguments = {"salt": salt, "sleep_ms": 0, "fails": 0, "collector": collector}
    task = {"id": "t0", "python": CALL, "kwargs": arguments, "retries": _RETRIES}
    defaults = {"resources": {"cpu": 0.1}, "retry_delay": "100ms"}
    told = [{"id": "t0", "needs": [], "backup": False, "expect": combine(salt, {})}]
    return PlannedWorkflow({"name": name, "priority": 90, "defaults": defaults, "tasks": [task]}, told)
