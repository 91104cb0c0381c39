"""`raftflow audit`: what every replica applied, and whether all replicas agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from raftflow.cli.cluster_commands.each_replica import ask_each_replica, end_check, url_of_replica
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, note, plain, print_json, print_table

if TYPE_CHECKING:
    from raftflow.client import Client
    from raftflow.domain.contract.views import AuditCheck, AuditLine

_PAGE = 500


@click.group(cls=CommandGroup)
def audit() -> None:
    """What every replica applied, and whether all agree."""


@audit.command("list")
@click.option("--from", "from_index", type=click.IntRange(min=0), default=0, help="Log index to begin at.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="About how many records.")
@click.option("--all", "everything", is_flag=True, help="To the end, however many.")
@click.option("--replica", metavar="NAME|URL", help="Whose audit; that of any replica by default: they are equal.")
@output_option
@connection_options
def audit_list(from_index: int, limit: int, everything: bool, replica: str | None, output: str) -> None:
    """List applied commands in log order: who changed what when."""
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
