"""`raftflow schema`: what documents may hold, for editors and programs."""

from __future__ import annotations

import click

from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.output import print_json


@click.group(cls=CommandGroup)
def schema() -> None:
    """Print the schema of documents, for editors and programs."""


@schema.command()
def workflow() -> None:
    """Print the JSON Schema of workflow documents.

    Every replica serves the same one at /v1/schema/workflow.json, without a token.
    """
    from raftflow.formats.schema import workflow_schema_file  # noqa: PLC0415 - lazy, as every heavy import here

    print_json(workflow_schema_file())
