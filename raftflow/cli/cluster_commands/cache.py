"""`raftflow cache`: the results that equal tasks share."""

from __future__ import annotations

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, print_json


@click.group(cls=CommandGroup)
def cache() -> None:
    """Results that stand for those of equal tasks: list, clear."""


add_verbs(cache)


@cache.command()
@click.option("--key", help="The one with this key.")
@click.option("--prefix", help="Those whose key begins with this.")
@click.option("--all", "everything", is_flag=True, help="All of them.")
@output_option
@connection_options
def clear(key: str | None, prefix: str | None, everything: bool, output: str) -> None:
    """Forget cached results: their tasks run again when they are submitted next."""
    if sum((key is not None, prefix is not None, everything)) != 1:
        raise click.UsageError("give one of --key, --prefix and --all")
    with connect() as client:
        cleared = client.clear_cache(key=key, prefix=prefix)
    if output == "table":
        echo(f"{cleared.cleared} cached {'result' if cleared.cleared == 1 else 'results'} forgotten")
    else:
        print_json(cleared, indent=output == "json")
