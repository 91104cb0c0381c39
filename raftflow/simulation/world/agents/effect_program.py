"""A simulated program with effects: it asks its agent as the programs of users do, and calls a service outside."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from raftflow.simulation.world.agents.calling_program import CallingProgram
from raftflow.simulation.world.observer import EffectCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.simulation.world.agents.outside_service import OutsideService
    from raftflow.simulation.world.observer import TaskKey

EFFECTS_SHARE: Final = 0.3
"""Share of the tasks whose programs have effects, of those that spawn no children."""
_NAMES: Final = ("mail", "pay")
_FAILING_SHARE: Final = 0.1
"""Share of the calls that certainly do nothing, and of those of which the program cannot tell."""
_UNKNOWN_SHARE: Final = 0.1
"""Share of the checks that find nothing out."""


def has_effects(task: TaskKey) -> bool:
    """Tell whether the programs of a task have effects. All attempts of a task agree."""
    return Random(f"effects of {task}").random() < EFFECTS_SHARE  # noqa: S311 - draws of its own


class EffectProgram(CallingProgram):
    """The effects of one attempt.

    The service of a task can tell what was done (`verify`), or recognises the key of a call (`key`), or neither
    (`blind`): then a person decides.
    """

    def __init__(self, *, service: OutsideService, **given: Any) -> None:
        self._service = service
        super().__init__(**given)

    def _draw(self) -> None:
        self._rng = Random(f"effects of {self._task} in {self._attempt.fence}")  # noqa: S311 - draws of its own
        planned = Random(f"plan of {self._task}")  # noqa: S311 - as above, the same in every attempt
        self._mode = planned.choice(("verify", "key", "blind", "blind"))
        self._plan = [planned.choice(_NAMES) for _ in range(planned.choice((1, 2, 4)))]

    def begin(self) -> None:
        """Begin with the first effect."""
        self._next()

    def _next(self) -> None:
        if not self._plan:
            self._done()
            return
        self._ask({"call": "effect_begin", "name": self._plan[0], "function": "f"}, self._begun)

    def _begun(self, told: dict[str, Any]) -> None:
        state = told["state"]
        if state == "done":
            self._is_done(told["occurrence"], str(told["result"]))
        elif state == "failed":
            self._is_done(told["occurrence"], None)
        elif state == "uncertain":
            self._park(told["wait"])
        else:
            call = EffectCall(
                self._task, self._attempt.fence, self._plan[0], told["occurrence"], told["idempotency_key"]
            )
            if state == "begun" or self._mode == "key":
                self._call(call)
            else:
                self._find_out(call)

    def _is_done(self, occurrence: int, result: str | None) -> None:
        name = self._plan.pop(0)
        self._observer.effect_told(self._task, (name, occurrence), result)
        self._next()

    def _find_out(self, call: EffectCall) -> None:
        """The intent was there, and no outcome."""
        if self._mode == "blind" or self._rng.random() < _UNKNOWN_SHARE:
            self._ask(_told(call, "uncertain"), lambda told: self._park(told["wait"]))
            return

        def verified() -> None:
            found = self._service.find(call.idempotency_key)
            if found is None:
                self._call(call)
            else:
                self._end(call, "done", lambda: self._is_done(call.occurrence, found), found)

        self._later(self._rng.choice((0.0, 0.02)), verified)

    def _call(self, call: EffectCall) -> None:
        """Call the service. Whether it does something is decided in the middle of the call."""
        half_s = self._rng.choice((0.001, 0.01, 0.1, 0.8)) / 2
        luck = self._rng.random()

        def happen() -> None:
            result = self._service.call(call, recognises=self._mode == "key")
            self._later(half_s, lambda: returned(result))

        def returned(result: str) -> None:
            if luck < 2 * _FAILING_SHARE:
                self._end(call, "unknown", self._next)
            else:
                self._end(call, "done", lambda: self._is_done(call.occurrence, result), result)

        if luck < _FAILING_SHARE:
            self._later(half_s, lambda: self._end(call, "not_done", self._next))
        elif luck < 1.5 * _FAILING_SHARE:
            self._later(half_s, lambda: self._end(call, "unknown", self._next))
        else:
            self._later(half_s, happen)

    def _end(self, call: EffectCall, outcome: str, then: Callable[[], None], result: str | None = None) -> None:
        self._ask(_told(call, outcome, result), lambda _: then())

    def _park(self, wait: int) -> None:
        self._ask({"call": "park", "waits": [wait]}, lambda _: self._done())

    def _later(self, after_s: float, then: Callable[[], None]) -> None:
        self._loop.call_later(after_s, lambda: None if self._over else then(), context=self._world)


def _told(call: EffectCall, outcome: str, result: str | None = None) -> dict[str, Any]:
    return {
        "call": "effect_end",
        "name": call.name,
        "occurrence": call.occurrence,
        "outcome": outcome,
        "result": result,
    }
