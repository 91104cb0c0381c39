"""What a task spends: counted with the record of the step that runs, or as a step of its own (`Context.spend`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from raftflow.domain.tasks.budgets import SCALE, to_millionths
from raftflow.sdk.errors import UsageError

if TYPE_CHECKING:
    from raftflow.sdk.attempt_socket import AttemptSocket

spent_by_step: ContextVar[dict[str, int] | None] = ContextVar("spent_by_step", default=None)
"""What the step that runs has spent, in millionths; None outside of a step."""


@contextmanager
def step_spending() -> Iterator[dict[str, int]]:
    """Count what is spent inside for the step that runs."""
    spent: dict[str, int] = {}
    token = spent_by_step.set(spent)
    try:
        yield spent
    finally:
        spent_by_step.reset(token)


def fields_of(spent: Mapping[str, int]) -> dict[str, Any]:
    """Return what a request says of amounts; nothing if nothing was spent."""
    return {"spent": _as_text(spent)} if spent else {}


def spend(socket: AttemptSocket | None, amounts: Mapping[str, float | str]) -> None:
    """Count amounts. Raises `UsageError` for a value that is not an amount."""
    wanted = _checked(amounts)
    if wanted and not _count_here(wanted) and socket is not None:
        socket.begin_alone()
        _look_at(socket, socket.call("spend", {"amounts": _as_text(wanted)}))


async def spend_async(socket: AttemptSocket | None, amounts: Mapping[str, float | str]) -> None:
    """Do the same in an event loop."""
    wanted = _checked(amounts)
    if wanted and not _count_here(wanted) and socket is not None:
        socket.begin_alone()
        _look_at(socket, await socket.call_async("spend", {"amounts": _as_text(wanted)}))


def _look_at(socket: AttemptSocket, answer: bytes) -> None:
    """Ask before the next step, if a budget is used up."""
    if answer != b"{}":
        socket.ask_again()


def _checked(amounts: Mapping[str, float | str]) -> dict[str, int]:
    wanted = {}
    for name, amount in amounts.items():
        try:
            wanted[name] = to_millionths(amount)
        except ValueError as error:
            raise UsageError(f"spend: {name} {error}") from None
    return {name: amount for name, amount in wanted.items() if amount}


def _count_here(wanted: Mapping[str, int]) -> bool:
    """Count amounts for the step that runs. False if none runs here."""
    spent = spent_by_step.get()
    if spent is None:
        return False
    for name, amount in wanted.items():
        spent[name] = spent.get(name, 0) + amount
    return True


def _as_text(amounts: Mapping[str, int]) -> dict[str, str]:
    return {name: f"{amount // SCALE}.{amount % SCALE:06}" for name, amount in amounts.items()}
