"""`raftflow demo`: the main job, end to end.

Three coordinators and three agents as separate processes, a census of the standard library as the workflow, SIGKILL
for the leader about a third in and for an agent about two thirds in, and a verdict from the replicas' own audit.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from raftflow.client.client import Client
from raftflow.client.errors import ClientError
from raftflow.demo import census
from raftflow.demo.verdict import Check, Evidence, judge
from raftflow.domain.contract.views import AuditLine, WorkflowView
from raftflow.local.accounts import account_of
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions, LocalClusterError

NODES, AGENTS, AGENT_CPUS = 3, 3, 2
LEASE_MS = 3_000
FAILOVER_LIMIT_S = 5.0
RUN_LIMIT_S = 300.0
_POLL_S = 0.03
_AUDIT_PAGE = 1_000


class DemoError(Exception):
    """The demo could not be carried out at all."""


class Demo:
    """One run of the demo on a cluster that it starts."""

    def __init__(self, directory: Path, console: Console) -> None:
        self._console = console
        options = ClusterOptions(
            nodes=NODES, agents=AGENTS, agent_cpus=AGENT_CPUS, agent_memory="2GiB", lease_ms=LEASE_MS
        )
        self.cluster = LocalCluster.create(directory, options)
        self._killed_leader_at: float | None = None
        self._killed_term = 0
        self._dead_agent: str | None = None

    def run(self) -> list[Check]:
        """Start, submit, kill, wait, judge. Raises `DemoError`, `LocalClusterError` or `ClientError`."""
        say = self._console.print
        say(f"starting {NODES} coordinators and {AGENTS} agents under {self.cluster.directory}", highlight=False)
        self.cluster.start()
        say(f"leader is [bold]{self.cluster.wait_leader()}[/bold]", highlight=False)
        document = census.document()
        task_ids = [task["id"] for task in document["tasks"]]
        with self.cluster.client(timeout_s=60.0) as client:
            workflow_id = client.submit(document).id
            say(f"submitted {document['name']} as {workflow_id}: {len(task_ids)} tasks", highlight=False)
            view = self._follow(client, workflow_id)
            if view.state != "succeeded":
                raise DemoError(f"the workflow ended as {view.state}: see {self.cluster.directory / 'logs'}")
            say("computing the same census in this process, and reading the audits", highlight=False)
            report = client.task(workflow_id, "report").result
            directly = orjson.loads(orjson.dumps(census.census_directly()))
            return judge(self._evidence(client, workflow_id, task_ids, report, directly))

    def _follow(self, client: Client, workflow_id: str) -> WorkflowView:
        """Show progress and kill in time; returns the final view."""
        deadline = time.monotonic() + RUN_LIMIT_S
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("census", total=1)
            while True:
                view = client.workflow(workflow_id)
                total, done = view.tasks.total, view.tasks.succeeded
                progress.update(bar, total=total, completed=done, description=f"census: {view.tasks.running} running")
                if view.finished_at is not None:
                    return view
                if self._killed_leader_at is None and 3 * done >= total:
                    self._kill_leader(progress.console)
                elif self._killed_leader_at is not None and self._dead_agent is None and 3 * done >= 2 * total:
                    self._kill_agent(client, progress.console)
                if time.monotonic() > deadline:
                    raise DemoError(f"the workflow did not end within {RUN_LIMIT_S:g} s: {view.tasks}")
                time.sleep(_POLL_S)

    def _kill_leader(self, console: Console) -> None:
        leader = self.cluster.wait_leader()
        status = self.cluster.status_of(leader)
        if status is None:
            return
        self._killed_term = status.term
        self._killed_leader_at = self.cluster.kill(leader)
        console.print(f"[red]killed the leader {leader}[/red] (SIGKILL, term {status.term})", highlight=False)

    def _kill_agent(self, client: Client, console: Console) -> None:
        busy = [agent for agent in client.agents() if agent.up and agent.running > 0]
        if not busy:
            return
        victim = max(busy, key=lambda agent: (agent.running + agent.queued, agent.name))
        self._dead_agent = victim.name
        self.cluster.kill(victim.name)
        held = f"{victim.running} running, {victim.queued} queued"
        console.print(f"[red]killed the agent {victim.name}[/red] (SIGKILL, {held})", highlight=False)

    def _evidence(
        self, client: Client, workflow_id: str, task_ids: list[str], report: Any, directly: Any
    ) -> Evidence:
        statuses = self.cluster.wait_equal()
        urls = {name: self.cluster.url_of(name) for name in statuses}
        records = {name: read_audit(client, url) for name, url in urls.items()}
        return Evidence(
            workflow_id=workflow_id,
            task_ids=task_ids,
            dead_agent=self._dead_agent,
            records=records,
            audits={name: client.audit_verify(url) for name, url in urls.items()},
            ledgers={name: client.ledger_verify(url) for name, url in urls.items()},
            statuses=statuses,
            failover_s=self._failover_s(next(iter(records.values())), workflow_id),
            failover_limit_s=FAILOVER_LIMIT_S,
            census=report,
            census_directly=directly,
        )

    def _failover_s(self, records: list[AuditLine], workflow_id: str) -> float | None:
        """Return the seconds from the kill of the leader to the first assignment in a later term."""
        begins = account_of(records, workflow_id).first_begin_by_term
        later = [at for term, (_, at) in sorted(begins.items()) if term > self._killed_term]
        if not later or self._killed_leader_at is None:
            return None
        return datetime.fromisoformat(later[0]).timestamp() - self._killed_leader_at


def read_audit(client: Client, url: str) -> list[AuditLine]:
    """Return the whole audit of one replica, in log order."""
    records: list[AuditLine] = []
    start: int | None = 0
    while start is not None:
        page = client.audit(url, start, _AUDIT_PAGE)
        records += page.records
        start = page.next
    return records


def run_demo(*, data_dir: Path | None = None, keep: bool = False, console: Console | None = None) -> int:
    """Run the demo and print its verdict; returns the exit code: 0 only if every line of the verdict holds.

    `data_dir` is made if missing and must hold no cluster yet; without one a temporary directory is used and removed
    afterwards. With `keep` the processes go on running and their addresses are printed.
    """
    console = Console() if console is None else console
    directory = Path(tempfile.mkdtemp(prefix="raftflow-demo-")) if data_dir is None else data_dir
    cluster: LocalCluster | None = None
    passed = False
    try:
        demo = Demo(directory, console)
        cluster = demo.cluster
        passed = _print_verdict(demo.run(), console)
    except (DemoError, LocalClusterError, ClientError) as error:
        console.print(f"[bold red]the demo failed:[/bold red] {error}", highlight=False)
    finally:
        if cluster is not None and not keep:
            cluster.down()
        if cluster is not None and keep:
            _print_addresses(cluster, console)
        elif data_dir is None and passed:
            shutil.rmtree(directory, ignore_errors=True)
        elif not passed:
            console.print(f"logs and data are in {directory}", highlight=False)
    return 0 if passed else 1


def _print_verdict(checks: list[Check], console: Console) -> bool:
    console.print("\n[bold]Verdict[/bold], from the audit of every live replica")
    for check in checks:
        mark = "[green]holds[/green]" if check.ok else "[bold red]FAILS[/bold red]"
        console.print(f"  {mark}  {check.name}: {check.detail}", highlight=False, soft_wrap=True)
    passed = all(check.ok for check in checks)
    console.print("[bold green]all of it holds[/bold green]" if passed else "[bold red]it does not hold[/bold red]")
    return passed


def _print_addresses(cluster: LocalCluster, console: Console) -> None:
    console.print("\nthe cluster goes on running:", highlight=False)
    console.print(f"  export RAFTFLOW_PEERS={','.join(cluster.urls)}", highlight=False, soft_wrap=True)
    console.print(f"  raftflow cluster down --data-dir {cluster.directory}", highlight=False, soft_wrap=True)
