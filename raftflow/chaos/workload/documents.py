"""Documents of a chaos run: bags, chains, diamonds, joins and families, with the result that each task must have."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raftflow.chaos.workload.code_bundles import WorkloadCode
from raftflow.chaos.workload.tasks import MODULUS, combine

CALL: Final = "raftflow.chaos.workload.tasks:work"
_MODULE: Final = "raftflow.chaos.workload.tasks"
SHAPES: Final = ("bag", "chain", "diamond", "join")
_FAMILY_SHARE: Final = 0.2
"""So many workflows have a task that spawns children."""
_STEPS_SHARE: Final = 0.2
_STEPS: Final = (1, 2, 4)
_COMMAND_SHARE: Final = 0.06
"""So many tasks are programs: starting an interpreter takes longer than a call."""
_LONG_SHARE: Final = 0.05
_BACKUP_SHARE: Final = 0.1
_FAILING_SHARE: Final = 0.08
_RETRIES: Final = 6
_DEFAULTS: Final = {"resources": {"cpu": 0.5}, "retry_delay": "100ms", "retry_delay_max": "400ms"}


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


def plan_workflow(
    name: str, chance: random.Random, collector: str, code: WorkloadCode | None = None
) -> PlannedWorkflow:
    """Draw a workflow. With `code` its calls run with that code bundle."""
    if code is None and chance.random() < _FAMILY_SHARE:
        return plan_family(name, chance, collector)
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
        if code is not None:
            program["python"] = code.call
            salt = code.shifted(salt)
        elif chance.random() < _COMMAND_SHARE:
            program = {"command": [sys.executable, "-P", "-m", _MODULE, json.dumps(arguments)]}
        elif not backup and chance.random() < _STEPS_SHARE:
            arguments["steps"] = chance.choice(_STEPS)
        retries = 0 if task == failing else _RETRIES
        tasks.append({
            "id": task, "needs": needs, "backup": backup, "retries": retries, "expected": f"{sleep_ms}ms", **program,
        })  # fmt: skip
        results[task] = combine(salt, {need: results[need] for need in needs})
        ends = {"ends": "any"} if may_fail else {}
        told.append({"id": task, "needs": needs, "backup": backup, "expect": results[task], **ends})
    document = {"name": name, "priority": chance.choice([20, 50, 50, 80]), "defaults": _DEFAULTS, "tasks": tasks}
    if code is not None:
        document["code"] = code.digest
    return PlannedWorkflow(document, told, may_fail=may_fail)


_CHILDREN: Final = (2, 3, 6)
_GRANDCHILDREN: Final = (1, 2)
_PARENT_CALL: Final = "raftflow.chaos.workload.tasks:grow"


def plan_family(name: str, chance: random.Random, collector: str) -> PlannedWorkflow:
    """Draw a workflow of a task that spawns children, some of which spawn more, and a task that needs it."""
    told: list[Mapping[str, Any]] = []

    def child(place: str, deeper: bool) -> tuple[dict[str, Any], int]:  # noqa: FBT001 - of two calls
        """Draw the task at a place; its children, if it has some, are told before it."""
        salt = chance.randrange(MODULUS)
        common = {"salt": salt, "fails": int(chance.random() < _FAILING_SHARE), "collector": collector}
        common["steps"] = chance.choice((0, *_STEPS))
        task: dict[str, Any] = {"id": place.rpartition(":")[2], "retries": _RETRIES}
        result = combine(salt, {})
        if deeper:
            counts = _CHILDREN if ":" not in place else _GRANDCHILDREN
            below = {
                key: child(f"{place}:{key}", ":" not in place and chance.random() < _FAMILY_SHARE)
                for key in (f"c{number}" for number in range(chance.choice(counts)))
            }
            task |= {"python": _PARENT_CALL, "kwargs": {**common, "children": [each for each, _ in below.values()]}}
            result = combine(salt, {key: value for key, (_, value) in below.items()})
        else:
            task |= {"python": CALL, "kwargs": {**common, "sleep_ms": chance.randint(5, 250)}}
        parent = place.rpartition(":")[0]
        more = {"parent": parent} if parent else {}
        told.append({"id": place, "needs": [], "backup": False, "expect": result, **more})
        if parent:
            task |= _DEFAULTS
        return task, result

    family, result = child("t0", deeper=True)
    salt = chance.randrange(MODULUS)
    after = {"salt": salt, "sleep_ms": chance.randint(5, 50), "fails": 0, "collector": collector}
    last = {"id": "t1", "needs": ["t0"], "python": CALL, "kwargs": after, "retries": _RETRIES}
    told.append({"id": "t1", "needs": ["t0"], "backup": False, "expect": combine(salt, {"t0": result})})
    return PlannedWorkflow({"name": name, "defaults": _DEFAULTS, "tasks": [family, last]}, told)


def plan_pulse(name: str, salt: int, collector: str) -> PlannedWorkflow:
    """Return a workflow of one short task: the steady write that shows when the cluster acknowledges."""
    arguments = {"salt": salt, "sleep_ms": 0, "fails": 0, "collector": collector}
    task = {"id": "t0", "python": CALL, "kwargs": arguments, "retries": _RETRIES}
    defaults = {"resources": {"cpu": 0.1}, "retry_delay": "100ms"}
    told = [{"id": "t0", "needs": [], "backup": False, "expect": combine(salt, {})}]
    return PlannedWorkflow({"name": name, "priority": 90, "defaults": defaults, "tasks": [task]}, told)
