"""What an attempt spends: counted in the log with the record of a step, once.

Outside of a step `spend` is a step of its own. What a step has spent that failed is counted under a key that no
later attempt asks for: the money is gone, and the step may run again. When a budget is used up, the next step does
not begin: the attempt parks, and its task runs again from its beginning when the budget is raised. The same holds for
a `spend` after the attempt was told, once it is counted: else a program without steps would spend for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.agent.calls.requests import accept, refuse
from raftflow.domain.contract.views import RecordStep
from raftflow.domain.tasks.budgets import to_millionths
from raftflow.domain.tasks.children import ParkCondition

if TYPE_CHECKING:
    from raftflow.agent.calls.channel import Write
    from raftflow.agent.calls.requests import SpendAmounts
    from raftflow.domain.contract.views import KnownStep

SPEND_FUNCTION: Final = "raftflow:spend"
"""What the records of `spend` name as their function."""
USED_UP: Final = "a budget of the workflow is used up: end now; the task runs again when the budget is raised"
BUDGET_PARKED: Final = msgspec.json.encode(ParkCondition(budget=True))
"""What an attempt waits for that has parked because of a budget."""
_NULL: Final = msgspec.Raw(b"null")

Find = Callable[["SpendAmounts", str, "Write", Callable[[int, "KnownStep | None"], None]], None]
Told = Callable[[dict[str, Any]], None]
"""Is called with what the program is told."""
Record = Callable[[RecordStep, "int | str | None", "Write", Callable[[dict[str, Any]], None]], None]


class AttemptSpending:
    """Counts what one attempt spends.

    Args:
        find: begins a step and looks for its record.
        record: records a step; calls back with what the program is told.
        park: notes that the attempt parks because a budget is used up.
    """

    def __init__(self, fence: int, find: Find, record: Record, park: Callable[[], None]) -> None:
        self._fence = fence
        self._find = find
        self._record = record
        self._park = park
        self._failures = 0

    def spend(self, request: SpendAmounts, write: Write, *, warned: bool) -> None:
        """Count amounts, unless an earlier attempt has counted them here.

        With `warned` the attempt was told before that a budget is used up. If that still holds, it parks.
        """

        def found(occurrence: int, known: KnownStep | None) -> None:
            if known is not None:
                write(accept(request.id, {}))
                return
            call = RecordStep(
                fence=self._fence,
                name=request.name,
                occurrence=occurrence,
                function=SPEND_FUNCTION,
                result=_NULL,
                spent=as_millionths(request.amounts),
            )
            self._record(call, request.id, write, counted)

        def counted(told: dict[str, Any]) -> None:
            if warned and "used_up" in told:
                self._park()
                write(refuse(request.id, "parked", USED_UP))
            else:
                write(accept(request.id, told))

        self._find(request, SPEND_FUNCTION, write, found)

    def count_apart(
        self, spent: Mapping[str, int | float | str], request_id: int | str | None, write: Write, done: Told
    ) -> None:
        """Count what was spent by a step without a record of its own: it failed, or another attempt was first."""
        self._failures += 1
        call = RecordStep(
            fence=self._fence,
            name=f"raftflow.failed.{self._fence}",
            occurrence=self._failures,
            function=SPEND_FUNCTION,
            result=_NULL,
            spent=as_millionths(spent),
        )
        self._record(call, request_id, write, done)


def as_millionths(amounts: Mapping[str, int | float | str]) -> dict[str, int]:
    """Return amounts in millionths. Raises `ValueError`."""
    found = {}
    for name, amount in amounts.items():
        try:
            found[name] = to_millionths(amount)
        except ValueError as error:
            raise ValueError(f"what is spent, {name[:80]!r}, {error}") from None
    return found


def amounts_fault(amounts: Mapping[str, int | float | str]) -> str | None:
    """Say why these amounts cannot be spent, None if they can."""
    try:
        as_millionths(amounts)
    except ValueError as error:
        return str(error)
    return None
