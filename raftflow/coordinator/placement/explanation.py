"""Why a task is where it is, with what the leader remembers: candidates, scores, and reserved agents."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from raftflow.domain.contract.views import CandidateView, TaskExplanation
from raftflow.machine.read import queries
from raftflow.machine.read.explain import LeaderKnowledge
from raftflow.scheduler.explain import candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from raftflow.coordinator.placement.planner import QueuePlanner
    from raftflow.coordinator.placement.usage import UsageStore
    from raftflow.domain.tasks.feasibility import ReadyTask
    from raftflow.machine.machine import Machine
    from raftflow.scheduler.view import PlacementView

_SPECULATIVE = "it was placed with the report that made it ready, on the agent where its last need had just ended"
_FORGOTTEN = "the candidates of that decision are not remembered"


def explain(
    machine: Machine,
    planner: QueuePlanner,
    workflow_id: str,
    task_id: str,
    *,
    now_ms: int,
    usage: UsageStore,
    missing_code: Callable[[str], bool],
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> TaskExplanation | None:
    """Explain a task from the leader's point of view, None if the task or its workflow is unknown.

    `now_ms` is the cluster's time. `usage` is what agents say of running attempts. `missing_code` tells whether this
    replica lacks a code bundle. `unfit` are agents that say that they cannot run anything, and why.
    """

    def fetching(agent: str, fence: int) -> bool:
        sample = usage.get(agent, fence)
        return sample is not None and sample.fetching

    memory = LeaderKnowledge(
        reserved=planner.reserved(),
        suspect=planner.suspects(),
        unfit=unfit,
        now_ms=now_ms,
        fetching=fetching,
        missing_code=missing_code,
        rates_ahead=planner.rates_ahead(),
    )
    told = queries.explain(machine, workflow_id, task_id, memory)
    if told is None:
        return None
    position = machine.tables.workflows[workflow_id].by_id[task_id].position
    ready = queries.ready_task(machine, workflow_id, position)
    if ready is not None:
        told.candidates = _views(planner.view_now(), ready)
        for each in told.candidates:
            if each.agent in unfit:
                each.why = f"it is unfit: {unfit[each.agent]}"
    elif told.agent is not None:
        decision = planner.decision_of(workflow_id, position)
        if decision is None:
            told.reason = f"{told.reason}; {_FORGOTTEN}"
        elif decision.view is None or decision.task is None:
            told.reason = f"{told.reason}; {_SPECULATIVE}"
        else:
            told.candidates = _views(decision.view, decision.task)
    return told


def _views(view: PlacementView, task: ReadyTask) -> list[CandidateView]:
    return [
        CandidateView(agent=found.agent, where=found.where, score=list(found.score), why=found.why)
        for found in candidates(view, task)
    ]
