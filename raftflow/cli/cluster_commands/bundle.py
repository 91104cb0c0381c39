"""`raftflow bundle`: code bundles, which travel with workflows."""

from __future__ import annotations

from pathlib import Path

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, note, print_json


@click.group(cls=CommandGroup)
def bundle() -> None:
    """Code that travels with workflows: list, show, send."""


add_verbs(bundle)


@bundle.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@output_option
@connection_options
def send(folder: Path, output: str) -> None:
    """Send the code in FOLDER, and print its digest: documents can name it as `code`.

    `workflow submit --code FOLDER` does this by itself. A replica that has lost a bundle gets it again by this.
    """
    from raftflow.sdk.code import FolderCode  # noqa: PLC0415 - heavy

    note(FolderCode(folder).bundle().describe())
    with connect() as client:
        sent = client.send_bundle(folder)
    if output == "table":
        echo(sent.digest)
    else:
        print_json(sent, indent=output == "json")
