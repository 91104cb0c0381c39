"""`raftflow cache`: the results that equal tasks share."""

from __future__ import annotations

import click

from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, print_items, print_json

_COLUMNS = {
    "KEY": "key",
    "BYTES": "size",
    "WORKFLOW": "workflow_id",
    "TASK": "task_id",
    "MADE": "made_at",
    "USED": "used_at",
    "HITS": "hits",
}


@click.group(cls=CommandGroup)
def cache() -> None:
    """Results that stand for those of equal tasks: list, clear."""


@cache.command("list")
@click.option("--prefix", default="", help="Only those whose key begins with this.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; all by default.")
@output_option
@connection_options
def list_(prefix: str, limit: int | None, output: str) -> None:
    """List cached results in order of their keys: size, where they come from, how often they were used."""
    with connect() as client:
        print_items(output, client.cached_results(prefix=prefix, limit=limit), _COLUMNS)


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
