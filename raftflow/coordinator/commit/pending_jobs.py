"""Waiting until nothing of a workflow or an agent is on the agenda, so that nobody sees half of what a command does.

A large command is done in pieces (`machine/rules/agenda.py`). Three kinds of requests wait here on the leader:

- a read of a workflow, after its barrier; then it answers from a state between two commands, never from within one,
- the answer to a command that was accepted, until all of it is done,
- a command that the machine refused as `pending`: it is proposed again when the earlier one is done.

They wait for a limited time. What is not done then is told as it is: the client asks again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raftflow.coordinator.commit.submitter import OutcomeUnknownError
from raftflow.domain.rejections import Rejection, RejectionCode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raftflow.coordinator.commit.submitter import ProposeError
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine

Subject = tuple[str, str]
"""`workflow` and its id, or `agent` and its name."""


def of_workflow(workflow_id: str) -> Subject:
    """Name a workflow."""
    return "workflow", workflow_id


def of_agent(name: str) -> Subject:
    """Name an agent."""
    return "agent", name


class PendingJobs:
    """Holds requests until the jobs of their subject are done.

    Args:
        machine: has the agenda.
        timeout_s: longest time that a request is held.
        not_leading: returns the error for requests that were held when this replica stopped to lead.
    """

    def __init__(self, machine: Machine, *, timeout_s: float, not_leading: Callable[[], ProposeError]) -> None:
        self._machine = machine
        self._timeout_s = timeout_s
        self._not_leading = not_leading
        self._held: dict[Subject, dict[asyncio.Future[bool], None]] = {}

    @property
    def count(self) -> int:
        """Subjects that requests are held for."""
        return len(self._held)

    def is_pending(self, subject: Subject) -> bool:
        """Tell whether something of a subject is on the agenda."""
        what, name = subject
        tables = self._machine.tables
        if what == "workflow":
            workflow = tables.workflows.get(name)
            return workflow is not None and workflow.jobs > 0
        agent = tables.agents.get(name)
        return agent is not None and not agent.present and bool(agent.live)

    async def wait(self, subject: Subject) -> None:
        """Return when nothing of a subject is on the agenda.

        Raises `OutcomeUnknownError` after the time-out, and another `ProposeError` if this replica stops to lead.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._timeout_s
        # Between the entry that ends the last job and the turn of the reader, another entry may begin the next job.
        while self.is_pending(subject):
            done: asyncio.Future[bool] = loop.create_future()
            self._held.setdefault(subject, {})[done] = None
            try:
                await asyncio.wait((done,), timeout=max(0.0, until_s - loop.time()))
            finally:
                held = self._held.get(subject, {})
                held.pop(done, None)
                if not held:
                    self._held.pop(subject, None)
            if not done.done():
                raise OutcomeUnknownError(f"an earlier change of {' '.join(subject)} is still being carried out")
            if not done.result():
                raise self._not_leading()

    async def propose_until_taken(self, subject: Subject, propose: Callable[[], Awaitable[AnyReply]]) -> AnyReply:
        """Propose a command again each time that it is refused because of an earlier one that is not done.

        Raises `ProposeError`s. The refusal is returned if it lasts for the time-out.
        """
        until_s = asyncio.get_running_loop().time() + self._timeout_s
        while True:
            reply = await propose()
            refused = isinstance(reply, Rejection) and reply.code is RejectionCode.PENDING
            if not refused or asyncio.get_running_loop().time() >= until_s:
                return reply
            await self.wait(subject)

    def on_applied(self) -> None:
        """Take note of an applied entry. They do nothing before the next turn of the loop."""
        for subject in [subject for subject in self._held if not self.is_pending(subject)]:
            self._wake(subject, done=True)

    def wake_all(self) -> None:
        """Let everything go that is held: this replica no longer leads."""
        for subject in tuple(self._held):
            self._wake(subject, done=False)

    def _wake(self, subject: Subject, *, done: bool) -> None:
        for held in self._held.pop(subject):
            held.set_result(done)
