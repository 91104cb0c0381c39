"""`raftflow effect`: calls that must not happen twice, and what became of them."""

from __future__ import annotations

import json

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs, help_of
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, print_items, print_json
from raftflow.cli.terminal.streams import safe
from raftflow.domain.contract.operations.effects import LIST_EFFECTS, RESOLVE_EFFECT


@click.group(cls=CommandGroup)
def effect() -> None:
    """Calls that must not happen twice, such as payments: list, show, resolve."""


add_verbs(effect)


@effect.command("list", help=help_of(LIST_EFFECTS))
@click.option("--all", "everything", is_flag=True, help="Also those that are done.")
@click.option("--workflow", metavar="ID", help="Only the effects of this workflow.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; all by default.")
@output_option
@connection_options
def list_(everything: bool, workflow: str | None, limit: int | None, output: str) -> None:
    """List effects."""
    verb = LIST_EFFECTS.verb
    assert verb is not None  # noqa: S101 - it is declared
    with connect() as client:
        print_items(output, client.effects(everything=everything, workflow=workflow, limit=limit), verb.columns)


@effect.command(help=help_of(RESOLVE_EFFECT))
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
@click.option("--done", metavar="RESULT", help="It has happened; RESULT is what it returned, as JSON.")
@click.option("--retry", is_flag=True, help="Call it again, with the same idempotency key.")
@click.option("--fail", is_flag=True, help="It has failed: every attempt that comes to it gets an error.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the audit and for the error.")
@output_option
@connection_options
def resolve(  # noqa: PLR0917 - click gives them by name
    number: int, done: str | None, retry: bool, fail: bool, reason: str, output: str
) -> None:
    """Resolve an effect."""
    if sum((done is not None, retry, fail)) != 1:
        raise click.UsageError("give one of --done RESULT, --retry and --fail")
    result = None
    if done is not None:
        try:
            result = json.loads(done)
        except ValueError as error:
            raise click.UsageError(
                f"--done: RESULT is not JSON ({error}); a text has quotes: --done '\"id-7\"'"
            ) from None
    with connect() as client:
        found = client.resolve_effect(
            number, "fail" if fail else "retry" if retry else "done", result=result, detail=reason
        )
    if output == "table":
        echo(safe(f"{found.id} {found.state}"))
    else:
        print_json(found, indent=output == "json")
