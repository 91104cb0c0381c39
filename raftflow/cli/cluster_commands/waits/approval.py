"""`raftflow approval`: what tasks ask people to decide."""

from __future__ import annotations

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.cluster_commands.waits.signal import read_payload
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, print_items, print_json

_COLUMNS = {
    "ID": "id",
    "WORKFLOW": "workflow",
    "TASK": "task",
    "TITLE": "title",
    "STATE": "state",
    "CHOICE": "choice",
    "ASKED": "asked_at",
    "EXPIRES": "expires_at",
}


@click.group(cls=CommandGroup)
def approval() -> None:
    """What tasks ask people: list, show, approve, deny."""


add_verbs(approval)


@approval.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that have ended, too.")
@output_option
@connection_options
def show_all(everything: bool, output: str) -> None:
    """List what tasks ask people to decide, oldest first."""
    with connect() as client:
        print_items(output, client.approvals(None if everything else "open"), _COLUMNS)


def _decide(approval_id: str, choice: str, comment: str, payload: str | None, output: str) -> None:
    value = read_payload(payload)
    with connect() as client:
        decided = client.decide(approval_id, choice, comment=comment, payload=value)
    if output == "table":
        echo(f"{decided.id} {decided.choice}: {decided.title}")
    else:
        print_json(decided, indent=output == "json")


_comment = click.option("--comment", default="", help="A text for the task, and for others who look.")
_payload = click.option("--payload", metavar="JSON", help="A value for the task.")


@approval.command()
@click.argument("approval_id", metavar="ID")
@click.option("--choice", default="approve", show_default=True, help="One of the choices of the approval.")
@_comment
@_payload
@output_option
@connection_options
def approve(approval_id: str, choice: str, comment: str, payload: str | None, output: str) -> None:
    """Decide an approval: the task that asked goes on. The first decision counts."""
    _decide(approval_id, choice, comment, payload, output)


@approval.command()
@click.argument("approval_id", metavar="ID")
@click.option("--choice", default="deny", show_default=True, help="One of the choices of the approval.")
@_comment
@_payload
@output_option
@connection_options
def deny(approval_id: str, choice: str, comment: str, payload: str | None, output: str) -> None:
    """Decide against what an approval asks. The first decision counts."""
    _decide(approval_id, choice, comment, payload, output)
