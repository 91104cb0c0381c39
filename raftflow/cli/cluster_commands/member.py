"""`raftflow member`: the replicas of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import print_items, print_json

if TYPE_CHECKING:
    from raftflow.domain.contract.views import MemberList

_COLUMNS = {
    "MEMBER": "name",
    "PEER": "peer",
    "URL": "url",
    "VOTING": "voting",
    "LEADER": "leader",
    "CONNECTED": "connected",
    "LAG": "lag",
}


@click.group(cls=CommandGroup)
def member() -> None:
    """The replicas of a cluster: list, add, remove them, hand leadership over."""


@member.command("list")
@click.option("--stale", is_flag=True, help="Take any replica's own view, also without a leader.")
@output_option
@connection_options
def list_(stale: bool, output: str) -> None:
    """List the replicas as the leader sees them."""
    with connect() as client:
        _print(client.members(stale=stale), output)


@member.command()
@click.argument("name")
@click.option("--peer", required=True, metavar="HOST:PORT", help="Where other replicas reach it.")
@click.option("--url", required=True, help="Where clients and agents reach it.")
@output_option
@connection_options
def add(name: str, peer: str, url: str, output: str) -> None:
    """Add the replica NAME, which runs on an empty disk with `join = true` in its configuration.

    Returns when it has caught up and counts for majorities. Give the command again if time runs out.
    """
    with connect() as client:
        _print(client.add_member(name, peer, url), output)


@member.command()
@click.argument("name")
@output_option
@connection_options
def remove(name: str, output: str) -> None:
    """Remove the replica NAME for ever. If it leads, it hands over first; its process stops by itself."""
    with connect() as client:
        _print(client.remove_member(name), output)


@member.command()
@click.argument("name", required=False)
@output_option
@connection_options
def transfer(name: str | None, output: str) -> None:
    """Hand leadership to the replica NAME, or to the most caught-up one, before the leader is stopped."""
    with connect() as client:
        _print(client.transfer_leadership(name), output)


def _print(found: MemberList, output: str) -> None:
    if output == "json":
        print_json(found)
    else:
        print_items(output, found.members, _COLUMNS)
