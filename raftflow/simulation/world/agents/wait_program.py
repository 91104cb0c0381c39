"""A simulated program that waits for signals and for people: it asks its agent as the programs of users do."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final

from raftflow.simulation.world.agents.calling_program import CallingProgram

if TYPE_CHECKING:
    from raftflow.simulation.world.observer import TaskKey

WAITS_SHARE: Final = 0.5
"""Share of the tasks whose programs wait, of those that do nothing else."""
SIGNALS: Final = ("go", "more")
"""The names of the signals for which they wait. All tasks of a workflow compete for them."""
CHOICES: Final = ("approve", "deny")
_TIMEOUTS_S: Final = (None, None, 0.05, 0.3, 1.0)
_ROUNDS: Final = (1, 1, 1, 2)
_RACING: Final = (1, 1, 1, 2)
"""Waits of one round: the first that ends is enough."""
_SCHEMA_SHARE: Final = 0.3
"""Share of the waits for signals that have a schema. All payloads fit it, and the leader has to say so."""
_LEAVING_SHARE: Final = 0.1
"""Share of the attempts that end although their waits are open, without parking."""


def waits(task: TaskKey) -> bool:
    """Tell whether the programs of a task wait. All attempts of a task agree."""
    return Random(f"waits of {task}").random() < WAITS_SHARE  # noqa: S311 - draws of its own


class WaitProgram(CallingProgram):
    """The waits of one attempt, in rounds. It parks while no wait of a round has ended."""

    def _draw(self) -> None:
        self._rng = Random(f"waits of {self._task} in {self._attempt.fence}")  # noqa: S311 - draws of its own
        planned = Random(f"plan of {self._task}")  # noqa: S311 - as above, the same in every attempt
        self._plan = [
            [_request(planned) for _ in range(planned.choice(_RACING))] for _ in range(planned.choice(_ROUNDS))
        ]
        self._counts: Counter[str] = Counter()
        """How many waits of a name it has begun."""
        self._open: list[int] = []
        """The waits of this round that are open."""
        self._ended = 0
        """How many waits of this round have ended."""

    def begin(self) -> None:
        """Begin with the first round."""
        self._next_round()

    def _next_round(self) -> None:
        if not self._plan:
            self._done()
            return
        self._open, self._ended = [], 0
        self._ask_for(self._plan.pop(0))

    def _ask_for(self, requests: list[dict[str, Any]]) -> None:
        """Begin the waits of a round, one after the other, and then decide."""
        if not requests:
            self._decide()
            return
        request, *others = requests
        name = request.get("name") or request["title"]
        self._counts[name] += 1
        key = (name, self._counts[name])

        def told(answer: dict[str, Any]) -> None:
            if "record" in answer:
                self._ended += 1
                self._observer.wait_told(self._task, key, answer["record"])
            else:
                self._open.append(answer["wait"])
            self._ask_for(others)

        self._ask(request, told)

    def _decide(self) -> None:
        if self._ended:
            self._next_round()
        elif self._rng.random() < _LEAVING_SHARE:
            self._done()
        else:
            self._ask({"call": "park", "waits": self._open}, lambda _: self._done())


def _request(planned: Random) -> dict[str, Any]:
    """Draw what a wait asks for."""
    request: dict[str, Any] = {"timeout": planned.choice(_TIMEOUTS_S)}
    if planned.random() < 0.4:
        request |= {"call": "approval", "title": "ask"}
        on_timeout = CHOICES[1]
    else:
        request |= {"call": "wait", "name": planned.choice(SIGNALS)}
        on_timeout = "late"
        if planned.random() < _SCHEMA_SHARE:
            request["schema"] = {"type": "string"}
    if planned.random() < 0.5:
        request["on_timeout"] = on_timeout
    return request
