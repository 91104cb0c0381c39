"""`/metrics` as Prometheus text. METRICS.md lists every metric."""

from __future__ import annotations

import os
import platform
from collections import Counter
from typing import TYPE_CHECKING

import raftflow
from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.dispatch.requests import Cost, Request, Response, Route
from raftflow.api.figures.exposition import CONTENT_TYPE, Exposition
from raftflow.api.figures.process import process_figures
from raftflow.api.http.slices import in_slices
from raftflow.domain.contract import operations
from raftflow.domain.tasks.states import TaskState

if TYPE_CHECKING:
    from raftflow.api.admission.gated_connection import AdmissionControl
    from raftflow.coordinator.replica import Replica
    from raftflow.machine.rows import WorkflowRow


async def _write_metrics(replica: Replica, admission: AdmissionControl) -> Response:
    """Write the figures of a replica."""
    counts = [0] * len(TaskState)

    def add(workflow: WorkflowRow) -> None:
        for task_state, count in enumerate(workflow.counts):
            counts[task_state] += count

    await in_slices(list(replica.machine.tables.workflows.values()), add)
    page = Exposition()
    _add_program(page, replica)
    _add_log(page, replica)
    _add_work(page, replica, counts)
    _add_disk(page, replica, admission)
    _add_api(page, admission)
    return Response(page.encode(), headers={"Content-Type": CONTENT_TYPE})


def _add_program(page: Exposition, replica: Replica) -> None:
    labels = (
        ("version", raftflow.__version__),
        ("python", platform.python_version()),
        ("feature_level", replica.machine.level_max),
    )
    page.many("raftflow_build_info", "gauge", "Always 1; the labels say what runs", [(labels, 1)])
    process = process_figures()
    text = "CPU time of the process, in user and kernel mode"
    page.one("process_cpu_seconds_total", "counter", text, round(process.cpu_s, 3))
    page.one("process_resident_memory_bytes", "gauge", "Memory that is resident", process.resident_bytes)
    page.one("process_virtual_memory_bytes", "gauge", "Memory that is mapped", process.virtual_bytes)
    page.one("process_open_fds", "gauge", "File descriptors that are open", process.open_fds)
    page.one("process_max_fds", "gauge", "File descriptors that may be open", process.max_fds)
    page.one("process_start_time_seconds", "gauge", "When the process started, since the epoch", process.started_s)


def _add_log(page: Exposition, replica: Replica) -> None:
    status = replica.log.status()
    page.one("raftflow_leader", "gauge", "1 if this replica leads", int(replica.leader.leading))
    page.one("raftflow_ready", "gauge", "1 if this replica serves", int(status.ready))
    page.one("raftflow_term", "gauge", "Raft term", status.term)
    text = "Least election timeout at present, longer than configured while messages are late"
    page.one("raftflow_election_timeout_seconds", "gauge", text, round(status.election_min_s, 3))
    for name, text in (
        ("last", "Last entry of the log"),
        ("durable", "Last entry that is on the disk of this replica"),
        ("commit", "Last entry that is committed, as this replica knows"),
        ("applied", "Last entry that this replica has applied"),
        ("snapshot", "Last entry of the newest snapshot"),
    ):
        page.one(f"raftflow_{name}_index", "gauge", text, getattr(status, f"{name}_index"))
    lag = max(0, status.commit_index - status.applied_index)
    page.one("raftflow_apply_lag_entries", "gauge", "Committed entries that this replica has not applied", lag)
    connected = [((("peer", peer.name),), int(peer.connected)) for peer in status.peers]
    page.many("raftflow_peer_connected", "gauge", "1 if the other replica is connected", connected)
    lags = [((("peer", peer.name),), peer.lag) for peer in status.peers if peer.lag is not None]
    text = "Entries that the other replica's disk is behind the log; on the leader"
    page.many("raftflow_replication_lag_entries", "gauge", text, lags)
    text = "From submission to apply, for each log entry, on the leader"
    page.histogram("raftflow_commit_seconds", text, [((), replica.commits)])
    page.one("raftflow_commands_committed_total", "counter", "Commands committed here", replica.commits.commands)
    page.one("raftflow_commands_waiting", "gauge", "Commands that wait for the log", replica.submitter.waiting)


def _add_work(page: Exposition, replica: Replica, counts: list[int]) -> None:
    state, loss_throttle = replica.machine.tables, replica.leader.liveness.loss_throttle
    page.one("raftflow_workflows", "gauge", "Workflows in the task table", len(state.workflows))
    page.one("raftflow_live_tasks", "gauge", "Tasks of unfinished workflows", state.live_tasks)
    page.one("raftflow_result_bytes", "gauge", "Bytes of the results of all tasks", state.result_bytes)
    page.one("raftflow_uploads", "gauge", "Large workflows that are being submitted", len(state.uploads))
    tasks = [((("state", each.name.lower()),), counts[each]) for each in TaskState]
    page.many("raftflow_tasks", "gauge", "Tasks by state", tasks)
    agents = Counter(agent.state.value for agent in state.agents.values())
    page.many(
        "raftflow_agents", "gauge", "Agents by state", [((("state", name),), agents[name]) for name in sorted(agents)]
    )
    text = "Times that so many agents fell silent at once that they are declared lost slowly"
    page.one("raftflow_mass_losses_total", "counter", text, loss_throttle.begun)
    text = "Agents whose lease is over, kept for now in a mass loss"
    page.one("raftflow_agents_overdue", "gauge", text, loss_throttle.held_back)
    page.one("raftflow_polls_held", "gauge", "Polls that wait for news", replica.poll_service.held)


def _add_disk(page: Exposition, replica: Replica, admission: AdmissionControl) -> None:
    disk = os.statvfs(replica.config.data_dir)
    text = "Bytes of the file system of the data directory that are free for this process"
    page.one("raftflow_data_free_bytes", "gauge", text, disk.f_bavail * disk.f_frsize)
    text = "Bytes of the file system of the data directory"
    page.one("raftflow_data_size_bytes", "gauge", text, disk.f_blocks * disk.f_frsize)
    syncs = admission.figures.syncs
    page.histogram("raftflow_sync_seconds", "How long a sync of the log or the audit took", [((), syncs)])


def _add_api(page: Exposition, admission: AdmissionControl) -> None:
    shedder = admission.shedder
    page.one("raftflow_connections", "gauge", "Open connections of clients and agents", len(admission.connections))
    text = "Connections closed because there were too many, or because too much waited on them"
    page.one("raftflow_connections_shed_total", "counter", text, admission.shed)
    page.one("raftflow_requests_waiting", "gauge", "Requests that wait for their turn", shedder.waiting)
    waiting = [((("class", queue.name.lower()),), shedder.waiting_for(queue)) for queue in QueueClass]
    page.many("raftflow_shedder_waiting", "gauge", "Steps that wait for a turn of the event loop, by class", waiting)
    text = "Steps that had to wait for a turn of the event loop"
    page.one("raftflow_shedder_waits_total", "counter", text, shedder.waits)
    text = "CPU time of the longest turn of the event loop with work of the API, since the start"
    page.one("raftflow_turn_seconds_max", "gauge", text, round(shedder.longest_s, 6))
    text = "Requests that were answered with 429 because too many waited"
    page.one("raftflow_requests_refused_total", "counter", text, shedder.refused)
    seen = sorted(admission.figures.requests.items())
    requests = [
        ((("method", method), ("route", path), ("status", status)), histogram)
        for ((method, path), status), histogram in seen
    ]
    text = "From the head of a request to its answer, including the time that it was held, by operation and status"
    page.histogram("raftflow_request_seconds", text, requests)


def route_of(admission: AdmissionControl) -> Route:
    """Return the route of the metrics, which include the counts of admission."""

    async def metrics(call: Request) -> Response:
        return await _write_metrics(call.replica, admission)

    return Route(operations.replicas.SHOW_METRICS, metrics, cost=Cost.LARGE)
