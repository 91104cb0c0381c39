"""`raftflow limit`: rates that all tasks share."""

from __future__ import annotations

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.terminal.groups import CommandGroup


@click.group(cls=CommandGroup)
def limit() -> None:
    """Rates that all tasks share, such as calls of a model in a minute: set, list, remove."""


add_verbs(limit)
