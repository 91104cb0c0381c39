"""What the leader needs of a planner (`placement/planner.py` is one)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftflow.domain.commands import Placement
    from raftflow.domain.contract.views import ReportedEnd
    from raftflow.domain.events import Event


class Planner(Protocol):
    """Turns the state into placements. Follows the events of every entry that is applied while leading."""

    @property
    def behind(self) -> bool:
        """True while `catch_up` has something to do."""
        ...

    def reset(self) -> None:
        """Read everything from the state machine again, or begin to."""
        ...

    def catch_up(self) -> None:
        """Read the next slice of what is missing, as much as one turn of the event loop should do."""
        ...

    def observe(self, events: list[Event]) -> None:
        """Take note of what an applied entry changed."""
        ...

    def plan(self) -> tuple[Placement, ...]:
        """Return placements to propose now; empty if no task is ready or no agent has room."""
        ...

    def rate_wait_ms(self) -> int | None:
        """Return after how many ms a rate limit has enough for a task that waits for it, None for no task."""
        ...

    def suspect(self, agent: str, *, silent: bool) -> None:
        """Give an agent no work while it is silent, or give it work again."""
        ...

    def hold_queues(self, *, held: bool) -> None:
        """Place tasks only where they can run at once for a while, or fill queues again."""
        ...

    def plan_speculatively(self, agent: str, ends: Sequence[ReportedEnd]) -> tuple[Placement, ...]:
        """Return placements that will hold when these ends of the agent's attempts are applied."""
        ...
