"""`raftflow ledger` and `raftflow audit`: who has which resources, what was applied, and whether replicas agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from raftflow.cli.terminal.exits import FAILED, USAGE, CommandFailure
from raftflow.cli.terminal.groups import Nouns
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, note, plain, print_json, print_table

if TYPE_CHECKING:
    from raftflow.client import Client
    from raftflow.domain.contract.views import AuditCheck, AuditLine

T = TypeVar("T")
_PAGE = 500


@click.group(cls=Nouns)
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
        checks, silent = _ask_each(client, client.ledger_verify)
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
    _end(
        ok=bool(found["ok"]),
        silent=silent,
        complaint="invariants are violated: stop the cluster and keep all data directories",
    )


@click.group(cls=Nouns)
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
        url = _replica_url(client, replica)
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
        checks, silent = _ask_each(client, client.audit_verify, with_url=True)
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
    _end(ok=ok, silent=silent, complaint="the audits do not agree: stop the cluster and keep all data directories")


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


def _ask_each(client: Client, ask: Callable[[str], T], *, with_url: bool = False) -> tuple[list[Any], list[str]]:
    """Ask every member. Returns the answers (with the URL if wanted) and who was silent. Raises if all were."""
    from raftflow.client.errors import Unreachable  # noqa: PLC0415 - heavy

    answers: list[Any] = []
    last: Unreachable | None = None
    status = client.cluster_status()  # tells quickly who is there
    silent = [line.url or line.name for line in status.replicas if line.contact != "ok"]
    for line in status.replicas:
        if line.contact != "ok":
            continue
        try:
            answer = ask(line.url)
        except Unreachable as error:
            silent.append(line.url)
            last = error
        else:
            answers.append((line.url, answer) if with_url else answer)
    if not answers and last is not None:
        raise last
    return answers, silent


def _replica_url(client: Client, replica: str | None) -> str:
    """Return the URL of a replica given by URL or name; without one, of the first that answers."""
    if replica is not None and "://" in replica:
        return replica
    status = client.cluster_status()
    for line in status.replicas:
        if line.contact == "ok" and replica in (None, line.name):
            return line.url
    names = ", ".join(line.name for line in status.replicas if line.contact == "ok")
    raise CommandFailure(f"no replica called {replica!r} answers; there are {names}", USAGE)


def _end(*, ok: bool, silent: list[str], complaint: str) -> None:
    if silent:
        note(f"raftflow: not asked, since they do not answer: {', '.join(silent)}")
    if not ok:
        raise CommandFailure(complaint, FAILED)
