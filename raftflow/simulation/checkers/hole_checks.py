"""The model of black holes: an agent on which tasks fail that succeed elsewhere must get no work for a while.

It follows the audit alone. It demands only what the state machine must do, and leaves out what it cannot know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.commands import (
    DrainAgent,
    ForgetAgent,
    OfferEnds,
    RegisterAgent,
    RemoveAgent,
    ReportAttempts,
)
from raftflow.domain.replies import AgentAccepted, Reported
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine.rules.quarantine import CONTRADICTIONS_MAX

if TYPE_CHECKING:
    from raftflow.domain.commands import AnyCommand
    from raftflow.domain.contract.views import AuditRecord, AuditTransition
    from raftflow.domain.replies import AnyReply

_OF_THE_TASK = frozenset({AttemptOutcome.FAILED, AttemptOutcome.TIMEOUT})


class BlackHoles:
    """Who should be in quarantine since nothing but failures comes from there."""

    def __init__(self) -> None:
        self._up: dict[str, None] = {}
        """Agents that are certainly up."""
        self._incarnations: dict[str, int] = {}
        self._streak: dict[str, None] = {}
        """Agents on which something failed, and nothing has succeeded since."""
        self._contradicted: dict[str, int] = {}
        self._failed_on: dict[tuple[str, str], dict[str, None]] = {}
        """For each task the agents on which it failed."""

    def follow(
        self, command: AnyCommand, reply: AnyReply, record: AuditRecord, ended: dict[int, AttemptOutcome]
    ) -> list[str]:
        """Take one applied command; returns what is wrong with it."""
        self._follow_agents(command, reply, record)
        if isinstance(command, ReportAttempts | OfferEnds) and isinstance(reply, Reported):
            accepted = {verdict.fence for verdict in reply.verdicts if verdict.verdict == "accepted"}
            if any(end.fence in accepted and end.outcome == "succeeded" for end in command.ends):
                self._forgive(command.agent)
        problems: list[str] = []
        for step in record.transitions:
            task = (step.workflow_id, step.task_id)
            if step.event.startswith("revived"):
                self._failed_on.pop(task, None)
            elif step.event.startswith("failed") and ended.get(step.fence) in _OF_THE_TASK:
                self._failed_on.setdefault(task, {})[step.agent] = None
                self._streak[step.agent] = None
            elif step.event in {"succeeded", "offered"}:
                problems += self._judge(task, step, record)
        for name in [name for name in self._up if f"agent {name} is in quarantine" in record.detail]:
            del self._up[name]
        return problems

    def _judge(self, task: tuple[str, str], step: AuditTransition, record: AuditRecord) -> list[str]:
        """A task succeeded: look at the agents on which it had failed."""
        self._forgive(step.agent)
        problems = []
        for name in self._failed_on.pop(task, {}):
            if name not in self._streak or name == step.agent:
                continue
            count = self._contradicted[name] = self._contradicted.get(name, 0) + 1
            due = count >= CONTRADICTIONS_MAX and name in self._up and step.agent in self._up
            if due and f"agent {name} is in quarantine" not in record.detail:
                problems.append(f"{count} tasks that failed on {name} succeeded elsewhere, and it goes on")
        return problems

    def _forgive(self, name: str) -> None:
        self._streak.pop(name, None)
        self._contradicted.pop(name, None)

    def _follow_agents(self, command: AnyCommand, reply: AnyReply, record: AuditRecord) -> None:
        if isinstance(command, RegisterAgent) and isinstance(reply, AgentAccepted):
            if self._incarnations.get(reply.name) != reply.incarnation:
                self._incarnations[reply.name] = reply.incarnation
                self._up[reply.name] = None
                if f"agent {reply.name} is in quarantine" in record.detail or "drains on" in record.detail:
                    del self._up[reply.name]
        elif isinstance(command, DrainAgent | RemoveAgent):
            self._up.pop(command.name, None)
        elif isinstance(command, ForgetAgent):
            self._forgive(command.name)
