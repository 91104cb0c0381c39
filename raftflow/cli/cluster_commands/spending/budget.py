"""`raftflow workflow budget`: what a workflow may spend, and what it has spent."""

from __future__ import annotations

import re

import click

from raftflow.cli.cluster_commands.operation_verbs import help_of
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, print_json
from raftflow.cli.terminal.streams import safe
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import BudgetView

_CHANGE = re.compile(r"([^=+]+)(\+?=)([0-9.]+)")


@click.group(cls=CommandGroup)
def budget() -> None:
    """What a workflow may spend, and what it has spent: show, raise."""


@budget.command(help=help_of(operations.budgets.SHOW_BUDGET))
@click.argument("workflow_id", metavar="ID")
@output_option
@connection_options
def show(workflow_id: str, output: str) -> None:
    """Print the budgets of a workflow."""
    with connect() as client:
        _print(client.budget(workflow_id), output)


@budget.command("raise", help=help_of(operations.budgets.RAISE_BUDGET))
@click.argument("workflow_id", metavar="ID")
@click.argument("changes", metavar="NAME=AMOUNT|NAME+=AMOUNT...", nargs=-1, required=True)
@output_option
@connection_options
def raise_(workflow_id: str, changes: tuple[str, ...], output: str) -> None:
    """Raise budgets of a workflow."""
    limits: dict[str, str] = {}
    added: dict[str, str] = {}
    for change in changes:
        found = _CHANGE.fullmatch(change)
        if found is None:
            raise click.UsageError(f"{change!r} is not a change of a budget: write usd=30 or usd+=10")
        name, sign, amount = found.groups()
        (added if sign == "+=" else limits)[name] = amount
    with connect() as client:
        _print(client.raise_budget(workflow_id, limits, add=added), output)


def _print(view: BudgetView, output: str) -> None:
    if output != "table":
        print_json(view, indent=output == "json")
        return
    echo(safe(f"{view.id} {view.state}{'' if view.pause_reason is None else f': {view.pause_reason}'}"))
    for line in view.budgets:
        limit = "no limit" if line.limit is None else f"of {_shown(line.limit)}, soft limit {_shown(line.soft or 0)}"
        echo(safe(f"  {line.name}: {_shown(line.used)} {limit}"))
    for task in view.tasks:
        spent = ", ".join(f"{_shown(amount)} {name}" for name, amount in task.spent.items())
        echo(safe(f"  task {task.id}: {spent}"))
    if view.more_tasks:
        echo(f"  and {view.more_tasks} more tasks")


def _shown(amount: float) -> str:
    """Return an amount without an exponent."""
    return str(amount) if isinstance(amount, int) else f"{amount:.6f}".rstrip("0")
