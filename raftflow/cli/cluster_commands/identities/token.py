"""`raftflow token`: who is let in, and for what."""

from __future__ import annotations

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs, help_of
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import Duration, connect, connection_options, name_values, output_option
from raftflow.cli.terminal.output import echo, print_json
from raftflow.domain.contract.operations.tokens import CREATE_TOKEN
from raftflow.domain.values.roles import ROLES, Role


@click.group(cls=CommandGroup)
def token() -> None:
    """Who is let in, and for what: create, list, rotate, revoke, whoami."""


add_verbs(token)


@token.command(help=help_of(CREATE_TOKEN))
@click.argument("name", metavar="NAME")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What its holder may do.")
@click.option("--expires", "expires_s", type=Duration(), help="How long it is valid.")
@click.option("--agents", metavar="PATTERN", help="With role agent: which agents its holder may be, such as gpu-*.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    callback=name_values,
    help="With role agent: its holder may claim these labels of an agent and no others.",
)
@output_option
@connection_options
def create(  # noqa: PLR0917 - its options
    name: str, role: Role, expires_s: float | None, agents: str | None, labels: dict[str, str] | None, output: str
) -> None:
    """Create a token and print it, this once."""
    with connect() as client:
        made = client.create_token(name, role, expires_s=expires_s, agents=agents, labels=labels)
    if output == "table":
        echo(made.token)
    else:
        print_json(made, indent=output == "json")
