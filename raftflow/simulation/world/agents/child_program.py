"""A simulated program that spawns children and parks: it asks its agent as the programs of users do."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.simulation.world.agents.calling_program import CallingProgram

if TYPE_CHECKING:
    from raftflow.simulation.world.observer import TaskKey

PARENTS_SHARE: Final = 0.3
"""Share of the tasks whose programs spawn children."""
_DEPTH_MAX: Final = 2
_COUNTS: Final = (1, 2, 3)
_RACES_SHARE: Final = 0.3
"""Share of the parents that wait for one child, and cancel the others."""


def has_children(task: TaskKey) -> bool:
    """Tell whether the programs of a task spawn children. All attempts of a task agree."""
    depth = task[1].count(":")
    return depth < _DEPTH_MAX and Random(f"children of {task}").random() < PARENTS_SHARE  # noqa: S311 - own draws


class ChildProgram(CallingProgram):
    """One attempt of a parent: it has its results when it is done, or has parked."""

    def _draw(self) -> None:
        planned = Random(f"family of {self._task}")  # noqa: S311 - draws of its own, the same in every attempt
        self._keys = [f"c{number}" for number in range(planned.choice(_COUNTS))]
        self._races = planned.random() < _RACES_SHARE
        self._mode = "any" if self._races else planned.choice(("all", "succeeded"))
        self._numbers: list[int] = []

    def begin(self) -> None:
        """Spawn the first child."""
        self._spawn()

    def _spawn(self) -> None:
        """Spawn the next children; the last two come together."""
        first = len(self._numbers)
        keys = self._keys[first : first + (2 if first else 1)]
        if not keys:
            self._look()
            return
        tasks = [{"id": key, "command": ["true"], "resources": {"cpu": 0.25}, "retries": 1} for key in keys]

        def spawned(told: dict[str, Any]) -> None:
            self._numbers += told["children"]
            for key, number in zip(keys, told["children"], strict=True):
                self._observer.child_told(self._task, key, number)
            self._spawn()

        self._ask({"call": "spawn", "tasks": tasks}, spawned)

    def _look(self) -> None:
        self._ask({"call": "children", "keys": self._keys}, self._decide)

    def _decide(self, found: dict[str, Any]) -> None:
        """Park until enough children have ended, or take what they came to."""
        ended, failed = found["total"] - found["open"], found["failed"] is not None
        ready = not found["open"] or (ended and self._races) or (failed and self._mode == "succeeded")
        if not ready:
            ranges = [[number, number] for number in self._numbers]
            self._ask({"call": "park", "children": ranges, "mode": self._mode}, lambda _: self._done())
        elif found["open"] and self._races:
            ranges = [[min(self._numbers), max(self._numbers)]]
            self._ask({"call": "cancel", "children": ranges}, lambda _: self._take_ends())
        else:
            self._take_ends()

    def _take_ends(self) -> None:
        def told(found: dict[str, Any]) -> None:
            for end in found["ends"]:
                result = msgspec.json.encode(end["result"])
                self._observer.child_end_told(self._task, end["id"], end["state"], result)
            self._done()

        self._ask({"call": "children", "keys": self._keys, "ends": True}, told)
