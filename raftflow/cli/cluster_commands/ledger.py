"""`raftflow ledger`: who has which resources, and whether all invariants hold."""

from __future__ import annotations

import click

from raftflow.cli.cluster_commands.each_replica import ask_each_replica, end_check
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, plain, print_json, print_table


@click.group(cls=CommandGroup)
def ledger() -> None:
    """Who uses which resources, and whether all invariants hold."""


@ledger.command("show")
@click.option("--stale", is_flag=True, help="Take any replica's own view, also without a leader.")
@output_option
@connection_options
def ledger_show(stale: bool, output: str) -> None:
    """Show capacity and allocation of every agent."""
    with connect() as client:
        view = client.ledger(stale=stale)
    if output == "json":
        print_json(view)
    elif output == "jsonl":
        for line in view.agents:
            print_json(line, indent=False)
    else:
        echo(f"at index {view.index}")
        rows = [
            [line.name, name, line.allocated.get(name, 0), capacity]
            for line in view.agents
            for name, capacity in line.capacity.items()
        ]
        print_table(["AGENT", "RESOURCE", "ALLOCATED", "CAPACITY"], rows)


@ledger.command("verify")
@output_option
@connection_options
def ledger_verify(output: str) -> None:
    """Let every replica that answers check the invariants of its state. Exits with 1 if any finds a fault."""
    with connect() as client:
        answers, silent = ask_each_replica(client, client.ledger_verify)
    checks = [check for _, check in answers]
    problems = [f"{check.replica}: {problem}" for check in checks for problem in check.problems]
    found = {
        "ok": all(check.ok for check in checks),
        "index": max(check.index for check in checks),
        "problems": problems,
        "replicas": [plain(check) for check in checks],
        "unreachable": silent,
    }
    if output == "table":
        rows = [[check.replica, check.ok, check.index, len(check.problems)] for check in checks]
        print_table(["REPLICA", "OK", "INDEX", "PROBLEMS"], rows)
        for problem in problems:
            echo(problem)
    else:
        print_json(found, indent=output == "json")
    end_check(
        ok=bool(found["ok"]),
        silent=silent,
        complaint="ledger invariants violated: stop the cluster and keep all data directories",
    )
