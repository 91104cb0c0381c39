"""`raftflow events`: what changes, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, print_json

if TYPE_CHECKING:
    from raftflow.domain.contract.views import ClusterEvent

_PAGE = 1_000


@click.command("events")
@click.option("--from", "after", metavar="ID", help="Go on behind this event; 0 for all that are kept.")
@click.option("--workflow", metavar="ID", help="Only events of this workflow.")
@click.option("--task", metavar="ID", help="Only events of tasks with this id.")
@click.option("--agent", metavar="NAME", help="Only events of this agent.")
@click.option("--kind", metavar="KINDS", help="Only these kinds or families, with commas: task.finished,agent.")
@click.option("--no-follow", is_flag=True, help="Print what is kept, and end.")
@output_option
@connection_options
def events(*, after: str | None, no_follow: bool, output: str, **filters: str | None) -> None:
    """Print what changes, as it happens, on any replica; a lost replica is replaced by another one.

    With --from it goes on exactly behind an event that was seen before. JSON comes one event a line.
    """
    with connect() as client:
        if not no_follow:
            for event in client.events(after, **filters):
                _print(event, output)
            return
        following = after or "0"
        while True:
            page = client.events_page(following, limit=_PAGE, wait_s=0, **filters)
            for event in page.events:
                _print(event, output)
            if page.next == following:
                return
            following = page.next


def _print(event: ClusterEvent, output: str) -> None:
    if output != "table":
        print_json(event, indent=False)
        return
    subject = "/".join(part for part in (event.workflow, event.task) if part)
    rest = [subject, event.agent and f"on {event.agent}", event.attempt and f"attempt {event.attempt}"]
    rest += [event.state, event.cause, event.detail]
    echo("  ".join([event.id, event.at, event.kind, *(str(part) for part in rest if part)]))
