"""One poll of an agent, from its arrival to its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raftflow.domain.contract.views import PollResponse
from raftflow.domain.rejections import Rejection

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from raftflow.coordinator.sessions.agent_session import AgentSession
    from raftflow.domain.contract.views import PollRequest, ReportVerdict
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.rows import AgentRow

PollOutcome = PollResponse | Rejection | Exception
"""How a poll ends: with an answer, with the refusal of an agent that must register first, or with an error."""


PollStep = Literal["admit", "report", "read verdicts", "begin to hold", "answer", "refuse", "done"]
"""What has to be done next with a poll:

admit          find out whether its agent is registered
report         note what the poll says, and propose its report to the log
read verdicts  read the log's reply to the report; then do what else the poll asks for: a goodbye, a drain, a check
begin to hold  decide for how long the poll may be held
answer         answer as soon as there is a reason to; until then the poll is held
refuse         its agent was removed while it was held: say so
done           nothing, the poll has its answer
"""


class Poll:
    """A poll and how far it has come.

    Args:
        on_answer: takes the outcome. It is called once.
    """

    __slots__ = (
        "agent",
        "due_s",
        "held",
        "name",
        "on_answer",
        "placing",
        "reply",
        "request",
        "session",
        "step",
        "timer",
        "until_s",
        "verdicts",
    )

    agent: AgentRow
    """Set from the step `report` on."""
    session: AgentSession
    """Set from the step `read verdicts` on."""

    def __init__(self, name: str, request: PollRequest, on_answer: Callable[[PollOutcome], None]) -> None:
        self.name = name
        """The agent's."""
        self.request = request
        self.on_answer: Callable[[PollOutcome], None] | None = on_answer
        """None if nobody waits for the answer any more."""
        self.step: PollStep = "admit"
        self.reply: asyncio.Future[AnyReply] | None = None
        """The log's reply to the report; None if the poll has no report."""
        self.verdicts: list[ReportVerdict] = []
        self.placing = False
        """A placement that the report made possible has not been committed yet."""
        self.until_s = 0.0
        """When the poll is answered at the latest, on the event loop's clock."""
        self.held = False
        """It counts as held."""
        self.timer: asyncio.TimerHandle | None = None
        self.due_s = 0.0
        """When the timer goes off."""
