"""A simulated program that spends, and takes from a rate limit: it asks its agent as the programs of users do."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from raftflow.simulation.world.agents.calling_program import CallingProgram

if TYPE_CHECKING:
    from raftflow.simulation.world.observer import TaskKey

SPENDING_SHARE: Final = 0.4
"""Share of the tasks whose programs spend, of those that do nothing else."""
LIMIT: Final = "shared"
"""The rate limit from which they take."""
_COUNTS: Final = (1, 3, 5, 8)
_LOOSE_SHARE: Final = 0.2
"""Share of the tasks whose programs have no steps, and only spend."""
_FAILING_SHARE: Final = 0.15


def spends(task: TaskKey) -> bool:
    """Tell whether the programs of a task spend. All attempts of a task agree."""
    return Random(f"spending of {task}").random() < SPENDING_SHARE  # noqa: S311 - draws of its own


class SpendingProgram(CallingProgram):
    """Steps that cost something, one after the other, what is spent between them, and what is taken of a limit."""

    def _draw(self) -> None:
        self._rng = Random(f"spending of {self._task} in {self._attempt.fence}")  # noqa: S311 - draws of its own
        planned = Random(f"plan of {self._task}")  # noqa: S311 - as above, the same in every attempt
        actions = ("spend",) if planned.random() < _LOOSE_SHARE else ("step", "step", "spend", "rate")
        self._plan = [planned.choice(actions) for _ in range(planned.choice(_COUNTS))]

    def begin(self) -> None:
        """Begin with the first action."""
        self._next()

    def _next(self) -> None:
        if not self._plan:
            self._done()
            return
        action = self._plan.pop(0)
        if action == "rate":
            request = {"call": "rate", "limit": LIMIT, "count": self._rng.choice((1, 2))}
            self._ask(request, lambda _: self._next(), refused=self._next)
        elif action == "spend":
            spent = self._amount()
            self._ask({"call": "spend", "amounts": spent}, lambda _: self._next())
        else:
            self._ask({"call": "step", "name": "paid", "function": "f"}, self._begun)

    def _amount(self) -> dict[str, float]:
        return {"usd": self._rng.choice((0.25, 1, 2.5))}

    def _begun(self, told: dict[str, Any]) -> None:
        if told["known"]:
            self._next()
            return
        self._observer.paid_step_ran(self._task, self._attempt.fence)
        took_s = self._rng.choice((0.0, 0.01, 0.1))
        self._loop.call_later(took_s, self._ran, told["occurrence"], context=self._world)

    def _ran(self, occurrence: int) -> None:
        if self._over:
            return
        spent = self._amount()
        place = {"name": "paid", "occurrence": occurrence, "spent": spent}
        amount = int(spent["usd"] * 1_000_000)
        self._observer.money_spent(self._task, amount)

        def counted(_: dict[str, Any]) -> None:
            self._observer.spending_told(self._task, amount)
            self._next()

        if self._rng.random() < _FAILING_SHARE:
            self._plan.insert(0, "step")
            self._ask({"call": "fail", **place}, counted)
        else:
            self._ask({"call": "record", "function": "f", "result": 1, **place}, counted)
