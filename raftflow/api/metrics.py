"""`/metrics`: what an operator watches, as Prometheus text. Computed when asked; costs nothing otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from raftflow.api.calls import Access, Answer, Call, Cost, Route
from raftflow.api.slices import in_slices
from raftflow.coordinator.replica import CommitTimes, Replica
from raftflow.domain.task import TaskState

if TYPE_CHECKING:
    from raftflow.machine.state import Workflow

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(call: Call) -> Answer:
    """Write this replica's figures."""
    counts = [0] * len(TaskState)

    def add(workflow: Workflow) -> None:
        for task_state, count in enumerate(workflow.counts):
            counts[task_state] += count

    await in_slices(list(call.replica.machine.state.workflows.values()), add)
    lines = [*_lines(call.replica, counts), *_api_lines(call)]
    return Answer("\n".join(lines).encode() + b"\n", headers={"Content-Type": CONTENT_TYPE})


def _api_lines(call: Call) -> Iterable[str]:
    turnstile, doorman = call.doorman.turnstile, call.doorman
    yield from _metric("raftflow_connections", "gauge", "Open connections of clients and agents", len(doorman.doors))
    text = "Connections closed since there were too many, or too much waited on them"
    yield from _metric("raftflow_connections_shed_total", "counter", text, doorman.shed)
    yield from _metric("raftflow_requests_waiting", "gauge", "Requests that wait for their turn", turnstile.waiting)
    text = "CPU time of the longest turn of the event loop in which requests were worked on, since the start"
    yield from _metric("raftflow_turn_seconds_max", "gauge", text, round(turnstile.longest_s, 6))
    text = "Requests that were told to come back later since too many waited"
    yield from _metric("raftflow_requests_refused_total", "counter", text, turnstile.refused)


def _lines(replica: Replica, counts: list[int]) -> Iterable[str]:
    status = replica.log.status()
    yield from _metric("raftflow_leader", "gauge", "1 if this replica leads", int(replica.leader.leading))
    yield from _metric("raftflow_ready", "gauge", "1 if this replica serves", int(status.ready))
    yield from _metric("raftflow_term", "counter", "Raft term", status.term)
    for name in ("last", "durable", "commit", "applied", "snapshot"):
        yield from _metric(f"raftflow_{name}_index", "gauge", f"Log index: {name}", getattr(status, f"{name}_index"))
    state = replica.machine.state
    yield from _metric("raftflow_workflows", "gauge", "Workflows in the task table", len(state.workflows))
    yield from _metric("raftflow_live_tasks", "gauge", "Tasks of unfinished workflows", state.live_tasks)
    yield from _metric("raftflow_result_bytes", "gauge", "Bytes of the results of all tasks", state.result_bytes)
    yield from _metric("raftflow_uploads", "gauge", "Large workflows that are being taken in", len(state.uploads))
    yield "# HELP raftflow_tasks Tasks by state"
    yield "# TYPE raftflow_tasks gauge"
    for task_state in TaskState:
        yield f'raftflow_tasks{{state="{task_state.name.lower()}"}} {counts[task_state]}'
    yield "# HELP raftflow_agents Agents by state"
    yield "# TYPE raftflow_agents gauge"
    agents: dict[str, int] = {}
    for agent in state.agents.values():
        agents[agent.state.value] = agents.get(agent.state.value, 0) + 1
    for name in sorted(agents):
        yield f'raftflow_agents{{state="{name}"}} {agents[name]}'
    calm = replica.leader.calm
    text = "Times that so many agents fell silent at once that they are given up slowly, since this replica started"
    yield from _metric("raftflow_mass_losses_total", "counter", text, calm.begun)
    yield from _metric(
        "raftflow_agents_overdue", "gauge", "Agents whose lease is over, kept for now in a mass loss", calm.held_back
    )
    yield from _metric("raftflow_polls_held", "gauge", "Polls that wait for news", replica.desk.held)
    yield from _metric("raftflow_commands_waiting", "gauge", "Commands that wait", replica.submitter.waiting)
    yield from _histogram(replica.commits)


def _metric(name: str, kind: str, text: str, value: float) -> Iterable[str]:
    return (f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}")


def _histogram(commits: CommitTimes) -> Iterable[str]:
    name = "raftflow_commit_seconds"
    yield f"# HELP {name} From submission to apply, per log entry, on the leader"
    yield f"# TYPE {name} histogram"
    total = 0
    for bound, count in zip(commits.BOUNDS_S, commits.counts, strict=False):
        total += count
        yield f'{name}_bucket{{le="{bound}"}} {total}'
    total = sum(commits.counts)
    yield f'{name}_bucket{{le="+Inf"}} {total}'
    yield f"{name}_sum {commits.sum_s:.6f}"
    yield f"{name}_count {total}"
    yield from _metric("raftflow_commands_committed_total", "counter", "Commands committed here", commits.commands)


ROUTES = (Route("GET", "/metrics", Access.LOCAL, metrics, "Figures as Prometheus text", bytes, cost=Cost.LARGE),)
