"""`raftflow member`: the replicas of a cluster."""

from __future__ import annotations

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.terminal.groups import CommandGroup


@click.group(cls=CommandGroup)
def member() -> None:
    """The replicas of a cluster: list, add, remove them, hand leadership over."""


add_verbs(member)
