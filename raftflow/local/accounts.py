"""The history of a workflow by the audit: which agent ran which attempt, what was lost, what was done twice.

Works on the audit records of one replica, as the API lists them, and on nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from raftflow.domain.contract.views import AuditLine

_BEGINS = {"queued", "started", "backup_started"}
_ENDS = {
    "released", "succeeded", "failed_retry", "failed_final", "agent_lost", "cancelled", "backup_ended", "moved",
    "outgrown", "parked",
}  # fmt: skip
_SUCCESSES = {"succeeded", "cached", "offered"}
"""`cached` has no attempt, and `offered` is the late word of one that had ended as lost."""


@dataclass(slots=True)
class WorkflowAccount:
    """The life of one workflow's tasks, counted from transitions."""

    succeeded: Counter[str] = field(default_factory=Counter)
    """Times that each task moved to succeeded."""
    assigned: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Fence of every attempt that was assigned: its task and agent."""
    ended: dict[int, str] = field(default_factory=dict)
    """Fence of every attempt that ended: the event."""
    ended_twice: list[int] = field(default_factory=list)
    last_states: dict[str, str] = field(default_factory=dict)
    first_begin_by_term: dict[int, tuple[int, str]] = field(default_factory=dict)
    """For each term the index and time of the first record that assigned an attempt."""

    @property
    def doubly_completed(self) -> list[str]:
        """Tasks that succeeded more than once."""
        return sorted(task for task, count in self.succeeded.items() if count > 1)

    @property
    def lost(self) -> list[int]:
        """Fences that were assigned and never ended: assignments that the system forgot."""
        return sorted(set(self.assigned) - set(self.ended))

    def rerun_agents(self) -> Counter[str]:
        """Count, by agent, the attempts that were taken away because their agent was gone."""
        return Counter(self.assigned[fence][1] for fence, event in self.ended.items() if event == "agent_lost")

    def overtaken_agents(self) -> Counter[str]:
        """Count, by agent, the attempts of which there were two and that were not the one that went on."""
        return Counter(self.assigned[fence][1] for fence, event in self.ended.items() if event == "backup_ended")

    def failures(self) -> list[str]:
        """Tasks with an attempt that failed by itself."""
        return sorted(self.assigned[fence][0] for fence, event in self.ended.items() if event.startswith("failed"))


def account_of(records: Iterable[AuditLine], workflow_id: str) -> WorkflowAccount:
    """Read the account of one workflow out of a replica's audit records, given in log order."""
    account = WorkflowAccount()
    for record in records:
        for move in record.transitions:
            if move.workflow_id != workflow_id:
                continue
            account.last_states[move.task_id] = move.after
            if move.event in _SUCCESSES:
                account.succeeded[move.task_id] += 1
            if move.event in _BEGINS:
                account.assigned[move.fence] = (move.task_id, move.agent)
                account.first_begin_by_term.setdefault(record.term, (record.index, record.at))
            elif move.event in _ENDS and move.fence:
                if move.fence in account.ended:
                    account.ended_twice.append(move.fence)
                account.ended[move.fence] = move.event
    return account
