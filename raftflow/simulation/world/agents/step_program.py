"""A simulated program with durable steps: it asks its agent as the programs of users do, one line after the other."""

from __future__ import annotations

from bisect import insort
from random import Random
from typing import TYPE_CHECKING, Any, Final

from raftflow.simulation.world.agents.calling_program import CallingProgram

if TYPE_CHECKING:
    from raftflow.simulation.world.observer import TaskKey

STEPS_SHARE: Final = 0.4
"""Share of the tasks whose programs have steps."""
_COUNTS: Final = (1, 3, 6, 12)
_NAMES: Final = ("a", "b")
_ASKING_ONCE_SHARE: Final = 0.5
"""Share of the attempts that run steps without beginning them, where the agent allows it."""
_FAILING_SHARE: Final = 0.1
_SKIPPED_SHARE: Final = 0.1
"""Share of the steps that only some attempts of a task come to: code around steps may change."""


def has_steps(task: TaskKey) -> bool:
    """Tell whether the programs of a task have steps. All attempts of a task agree."""
    return Random(f"steps of {task}").random() < STEPS_SHARE  # noqa: S311 - draws of its own


class StepProgram(CallingProgram):
    """The steps of one attempt."""

    def _draw(self) -> None:
        fence = self._attempt.fence
        self._rng = Random(f"steps of {self._task} in {fence}")  # noqa: S311 - draws of its own
        planned = Random(f"plan of {self._task}")  # noqa: S311 - as above
        self._plan = [planned.choice(_NAMES) for _ in range(planned.choice(_COUNTS))]
        self._asks_once = Random(f"asking of {self._task} in {fence}").random() < _ASKING_ONCE_SHARE  # noqa: S311
        self._unasked = 0
        """How many steps may still run without being begun."""
        self._counts: dict[str, int] = {}
        """By name: the last occurrence that was given out."""
        self._free: dict[str, list[int]] = {}
        """By name: occurrences of steps that failed. They are given out again, smallest first."""

    def begin(self) -> None:
        """Begin with the first step."""
        self._next()

    def _next(self) -> None:
        if not self._plan:
            self._done()
            return
        name = self._plan.pop(0)
        if self._rng.random() < _SKIPPED_SHARE:
            name = "c"
        asked = self._observer.step_asked(self._task)
        if self._unasked:
            self._unasked -= 1
            free = self._free.get(name)
            occurrence = free[0] if free else self._counts.get(name, 0) + 1
            self._run((name, occurrence), asked, begun=False)
            return
        request: dict[str, Any] = {"call": "step", "name": name, "function": "f"}
        if self._asks_once:
            request["unasked"] = True
        self._ask(request, lambda told: self._begun(name, asked, told))

    def _note_given(self, key: tuple[str, int]) -> None:
        """Note that the agent has given an occurrence out."""
        name, occurrence = key
        if occurrence in self._free.get(name, ()):
            self._free[name].remove(occurrence)
        self._counts[name] = max(self._counts.get(name, 0), occurrence)

    def _begun(self, name: str, asked: int, told: dict[str, Any]) -> None:
        key = (name, told["occurrence"])
        self._note_given(key)
        self._unasked = told.get("unasked", 0)
        if told["known"]:
            self._observer.step_told(self._task, self._attempt.fence, key, str(told["result"]))
            self._next()
            return
        self._run(key, asked, begun=True)

    def _run(self, key: tuple[str, int], asked: int, *, begun: bool) -> None:
        self._observer.step_ran(self._task, self._attempt.fence, key, asked)
        took_s = self._rng.choice((0.0, 0.001, 0.02, 0.2))
        self._loop.call_later(took_s, self._ran, key, begun, context=self._world)

    def _ran(self, key: tuple[str, int], begun: bool) -> None:  # noqa: FBT001 - called by the loop
        if self._over:
            return
        name, occurrence = key
        if self._rng.random() < _FAILING_SHARE:
            self._plan.insert(0, name)
            if begun:
                insort(self._free.setdefault(name, []), occurrence)
                self._ask({"call": "fail", "name": name, "occurrence": occurrence}, lambda _: self._next())
            else:
                self._loop.call_soon(self._next, context=self._world)
            return
        result = f"{self._attempt.fence} {name} {occurrence}"
        record: dict[str, Any] = {"call": "record", "name": name, "function": "f", "result": result}
        if begun:
            record["occurrence"] = occurrence
        else:
            self._note_given(key)

        def recorded(told: dict[str, Any]) -> None:
            self._observer.step_told(self._task, self._attempt.fence, key, str(told.get("result", result)))
            self._next()

        self._ask(record, recorded)
