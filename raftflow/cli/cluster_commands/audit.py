"""`raftflow audit`: what every replica applied, whether all agree, and what the state was."""

from __future__ import annotations

import collections
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raftflow.cli.cluster_commands.each_replica import ask_each_replica, end_check, url_of_replica
from raftflow.cli.terminal.exits import FAILED, CommandFailure
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import config_option, connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, note, plain, print_json, print_table

if TYPE_CHECKING:
    from raftflow.client import Client
    from raftflow.domain.contract.views import AuditCheck, AuditLine
    from raftflow.recovery.replay import ReplayedState

_PAGE = 500


@click.group(cls=CommandGroup)
def audit() -> None:
    """What every replica applied, and whether all agree."""


@audit.command("list")
@click.option("--from", "from_index", type=click.IntRange(min=0), default=0, help="Log index to begin at.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="About how many records.")
@click.option("--all", "everything", is_flag=True, help="To the end, however many.")
@click.option("--replica", metavar="NAME|URL", help="Whose audit; that of any replica by default: they are equal.")
@click.option("--refused", is_flag=True, help="Requests that replicas refused because of who sent them, instead.")
@output_option
@connection_options
def audit_list(  # noqa: PLR0917 - its options
    from_index: int, limit: int, everything: bool, replica: str | None, refused: bool, output: str
) -> None:
    """List applied commands in log order: who changed what when.

    With --refused: which requests were refused, of every replica or the one that is named. They are not in the log: a
    replica counts them in memory since its start.
    """
    if refused:
        _list_refused(limit, replica, output)
        return
    records: list[AuditLine] = []
    with connect() as client:
        url = url_of_replica(client, replica)
        following: int | None = from_index
        while following is not None and (everything or len(records) < limit):
            size = _PAGE if everything else min(_PAGE, limit - len(records))
            page = client.audit(url, following, size)
            following = page.next
            if output == "jsonl":
                for record in page.records:
                    print_json(record, indent=False)
            records += page.records
    if output == "json":
        print_json(records)
    elif output == "table":
        rows = [
            [r.index, r.position, r.term, r.at, r.actor, r.command, r.subject, r.outcome, len(r.transitions)]
            for r in records
        ]
        titles = ["INDEX", "POS", "TERM", "AT", "ACTOR", "COMMAND", "SUBJECT", "OUTCOME", "MOVED"]
        print_table(titles, rows)
        if following is not None:
            note(f"more: --from {following}")


def _list_refused(limit: int, replica: str | None, output: str) -> None:
    """Print what replicas have refused, the last first."""
    with connect() as client:
        if replica is None:
            answers, silent = ask_each_replica(client, client.refusals)
        else:
            url = url_of_replica(client, replica)
            answers, silent = [(url, client.refusals(url))], []
    rows = [{"replica": page.replica, **plain(row)} for _, page in answers for row in page.refusals]
    rows = sorted(rows, key=lambda row: str(row["last_at"]), reverse=True)[:limit]
    if output == "json":
        print_json(rows)
    elif output == "jsonl":
        for row in rows:
            print_json(row, indent=False)
    else:
        keys = ("last_at", "replica", "actor", "address", "operation", "status", "count", "request_id")
        titles = [key.removesuffix("_at").replace("_", " ").upper() for key in keys]
        print_table(titles, [[row[key] if row[key] is not None else "-" for key in keys] for row in rows])
        if forgotten := sum(page.forgotten for _, page in answers):
            note(f"not listed any more: {forgotten} refusals")
    end_check(ok=True, silent=silent, complaint="")


@audit.command("verify")
@output_option
@connection_options
def audit_verify(output: str) -> None:
    """Let every replica that answers check its hash chain, and compare the chains.

    They are compared at the last common index, and before every gap that a snapshot left in the audit of one. Exits
    with 1 if a chain is broken or two replicas differ.
    """
    with connect() as client:
        checks, silent = ask_each_replica(client, client.audit_verify)
        compared_at, differences = _compare(client, checks)
    problems = [f"{check.replica}: {problem}" for _, check in checks for problem in check.problems] + differences
    ok = all(check.ok for _, check in checks) and not differences
    found = {
        "ok": ok,
        "compared_at": compared_at,
        "problems": problems,
        "replicas": [plain(check) for _, check in checks],
        "unreachable": silent,
    }
    if output == "table":
        rows = [
            [c.replica, c.ok, c.records, c.first_index, c.last_index, c.chain[:16], len(c.gaps)] for _, c in checks
        ]
        print_table(["REPLICA", "OK", "RECORDS", "FIRST", "LAST", "CHAIN", "GAPS"], rows)
        for problem in problems:
            echo(problem)
        if ok and len(checks) > 1:
            echo(f"{len(checks)} replicas agree up to index {compared_at}")
    else:
        print_json(found, indent=output == "json")
    end_check(ok=ok, silent=silent, complaint="audit logs differ: stop the cluster and keep all data directories")


@audit.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--replica", metavar="NAME|URL", help="Whose audit; that of any replica by default: they are equal.")
@output_option
@connection_options
def audit_export(file: Path, replica: str | None, output: str) -> None:
    """Copy the whole audit of a replica into FILE: one JSON line a record, with the chain checked and sealed."""
    from raftflow.recovery.audit_export import AuditExportWriter, ExportHead  # noqa: PLC0415 - heavy

    with connect() as client:
        url = url_of_replica(client, replica)
        status, check = client.status(url), client.audit_verify(url)
        head = ExportHead(cluster=status.cluster, replica=status.name, anchor_index=check.anchor_index)
        with AuditExportWriter(file, head, frozenset(last for _, last in check.gaps)) as writer:
            following: int | None = 0
            while following is not None:
                page = client.audit(url, following, _PAGE)
                writer.add(page.records)
                following = page.next
            end = writer.finish()
    if output == "table":
        echo(
            f"{end.records} records of {status.name}, index {end.first_index} to {end.last_index}, "
            f"chain {end.chain[:16]}, in {file}"
        )
    else:
        print_json({**plain(end), "file": str(file)}, indent=output == "json")


@audit.command("replay")
@config_option("The file of the replica whose data directory is read. It may run.", required=True)
@click.option("--to", "to_index", type=click.IntRange(min=1), required=True, help="Show the state as of this entry.")
@click.option("--from", "from_index", type=click.IntRange(min=1), help="Show the tasks that differ from this entry.")
@output_option
def audit_replay(config_file: Path, to_index: int, from_index: int | None, output: str) -> None:
    """Show the state as of an earlier entry of the log, from a replica's log, snapshots and audit.

    Behind the replica's newest snapshot the state is complete. Before it the audit tells the states of the tasks that
    moved. The digest is compared with the recorded one. Exits with 1 if a record was altered.
    """
    from raftflow.coordinator.config.loading import load_config  # noqa: PLC0415 - heavy
    from raftflow.recovery.replay import difference, replay_to  # noqa: PLC0415 - heavy
    from raftflow.replication.real_files import RealFileSystem  # noqa: PLC0415 - heavy

    config = load_config(config_file, environ=os.environ)
    fs = RealFileSystem()
    try:
        state = replay_to(fs, config.data_dir, to_index)
        before = None if from_index is None else replay_to(fs, config.data_dir, from_index)
    finally:
        fs.close()
    changes = None if before is None else list(difference(before, state))
    problems = [*([] if before is None else before.problems), *state.problems]
    if output != "table":
        shown = {**plain(state), "changes": plain(changes)} if changes is not None else plain(state)
        print_json(shown, indent=output == "json")
    else:
        _print_replayed(state)
        if changes is not None:
            print_table(
                ["WORKFLOW", "TASK", "BEFORE", "AFTER"], [[c.workflow, c.task, c.before, c.after] for c in changes]
            )
        for problem in problems:
            echo(problem)
    if problems:
        raise CommandFailure("the audit was altered: keep the data directory, and compare with the others", FAILED)


def _print_replayed(state: ReplayedState) -> None:
    known = "equals the recorded one" if state.digest == state.recorded else "is not recorded that far"
    if state.recorded and state.digest != state.recorded:
        known = f"differs from the recorded one, {state.recorded[:16]}"
    source = "complete, from the log" if state.source == "log" else "moves of tasks, from the audit"
    echo(f"index {state.index}, {state.at}: {source} since entry {state.base}")
    echo(f"digest {state.digest[:16]} {known}")
    rows = []
    for workflow in state.workflows:
        counts = collections.Counter(workflow.tasks.values())
        told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        rows.append([workflow.id, workflow.state, told])
    print_table(["WORKFLOW", "STATE", "TASKS"], rows)


def _compare(client: Client, checks: list[tuple[str, AuditCheck]]) -> tuple[int, list[str]]:
    """Compare the chains at the lowest last index, and before every gap. Returns that index and what differs.

    The chain covers all that came before, so equal chains at one index are equal histories up to it. Behind a gap the
    chain is that of the replica which made the snapshot, so what stands before the gap is compared by itself.
    """
    common = min(check.last_index for _, check in checks)
    before_gaps = {index for _, check in checks for index, _ in check.before_gaps}
    differences = []
    for index in sorted(before_gaps | {common}):
        chains = {check.replica: _chain_at(client, url, check, index) for url, check in checks}
        known = {name: chain for name, chain in chains.items() if chain is not None}
        if len(set(known.values())) > 1:
            gaps = [
                f"{check.replica}'s gap from {index + 1} to {last}"
                for _, check in checks
                for first, last in check.gaps
                if first == index + 1
            ]
            where = f", before {' and '.join(gaps)}" if gaps else ""
            told = ", ".join(f"{name} {known[name]}" for name in known)
            differences.append(f"chains differ at index {index}{where}: {told}")
    return common, differences


def _chain_at(client: Client, url: str, check: AuditCheck, index: int) -> str | None:
    """Return a replica's chain at an index, None if it cannot be told there."""
    if index == check.last_index:
        return check.chain
    if index in dict(check.before_gaps):
        return dict(check.before_gaps)[index]
    if not check.anchor_index < index < check.last_index or any(first <= index <= last for first, last in check.gaps):
        return None  # dropped here, not applied yet, or a snapshot stands for these records
    at = [record for record in client.audit(url, index, 1).records if record.index == index]
    return at[-1].chain if at else "no record"
