"""A simulated program with durable steps: it asks its agent as the programs of users do, one line after the other."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from contextvars import Context

    from raftflow.agent.calls.attempt import CallingAttempt
    from raftflow.simulation.world.loop import Process
    from raftflow.simulation.world.observer import ExecutionObserver, TaskKey

STEPS_SHARE: Final = 0.4
"""Share of the tasks whose programs have steps."""
_COUNTS: Final = (1, 3, 6, 12)
_NAMES: Final = ("a", "b")
_FAILING_SHARE: Final = 0.1
_SKIPPED_SHARE: Final = 0.1
"""Share of the steps that only some attempts of a task come to: code around steps may change."""


def has_steps(task: TaskKey) -> bool:
    """Tell whether the programs of a task have steps. All attempts of a task agree."""
    return Random(f"steps of {task}").random() < STEPS_SHARE  # noqa: S311 - draws of its own


class StepProgram:
    """The steps of one attempt. `done` is called in the world's context when all of them are recorded."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        world: Context,
        process: Process,
        observer: ExecutionObserver,
        attempt: CallingAttempt,
        task: TaskKey,
        done: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._world = world
        self._process = process
        self._observer = observer
        self._attempt = attempt
        self._task = task
        self._done = done
        self._rng = Random(f"steps of {task} in {attempt.fence}")  # noqa: S311 - as above
        planned = Random(f"plan of {task}")  # noqa: S311 - as above
        self._plan = [planned.choice(_NAMES) for _ in range(planned.choice(_COUNTS))]
        self._over = False

    @property
    def parked(self) -> bytes:
        """It never parks."""
        return b""

    def begin(self) -> None:
        """Begin with the first step."""
        self._next()

    def end(self) -> None:
        """The program is gone."""
        self._over = True
        # The agent closes the attempt's connections when it learns of the end.
        self._loop.call_soon(self._attempt.end, context=self._process.context)

    def _next(self) -> None:
        if not self._plan:
            self._done()
            return
        name = self._plan.pop(0)
        if self._rng.random() < _SKIPPED_SHARE:
            name = "c"
        asked = self._observer.step_asked(self._task)
        self._ask({"call": "step", "name": name, "function": "f"}, lambda told: self._begun(name, asked, told))

    def _begun(self, name: str, asked: int, told: dict[str, Any]) -> None:
        key = (name, told["occurrence"])
        if told["known"]:
            self._observer.step_told(self._task, self._attempt.fence, key, str(told["result"]))
            self._next()
            return
        self._observer.step_ran(self._task, self._attempt.fence, key, asked)
        took_s = self._rng.choice((0.0, 0.001, 0.02, 0.2))
        self._loop.call_later(took_s, self._ran, key, context=self._world)

    def _ran(self, key: tuple[str, int]) -> None:
        if self._over:
            return
        name, occurrence = key
        if self._rng.random() < _FAILING_SHARE:
            self._plan.insert(0, name)
            self._ask({"call": "fail", "name": name, "occurrence": occurrence}, lambda _: self._next())
            return
        result = f"{self._attempt.fence} {name} {occurrence}"
        record = {"call": "record", "name": name, "occurrence": occurrence, "function": "f", "result": result}

        def recorded(told: dict[str, Any]) -> None:
            self._observer.step_told(self._task, self._attempt.fence, key, str(told.get("result", result)))
            self._next()

        self._ask(record, recorded)

    def _ask(self, request: dict[str, Any], then: Callable[[dict[str, Any]], None]) -> None:
        """Send a line to the agent's process, and continue with its answer. Refused attempts do nothing more."""

        def answered(line: bytes) -> None:
            self._loop.call_soon(take, msgspec.json.decode(line), context=self._world)

        def take(answer: dict[str, Any]) -> None:
            if not self._over and "ok" in answer:
                then(answer["ok"])

        self._loop.call_soon(
            self._attempt.handle, msgspec.json.encode(request), answered, context=self._process.context
        )
