"""`raftflow signal`: signals to workflows."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, print_json
from raftflow.domain.values.exact import decode_json


@click.group(cls=CommandGroup)
def signal() -> None:
    """Signals, which tasks wait for: send."""


add_verbs(signal)


def read_payload(text: str | None) -> Any:
    """Return the value of a payload that the user wrote as JSON. Raises `click.UsageError`."""
    try:
        return None if text is None else decode_json(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError) as fault:
        raise click.UsageError(
            f"{text!r:.80} is not JSON ({fault}): write a text in quotes, '\"like this\"'"
        ) from None


@signal.command()
@click.argument("workflow")
@click.argument("name")
@click.argument("payload", required=False, metavar="[JSON]")
@click.option("--key", "--idempotency-key", "key", help="The signal is counted once for this key.")
@output_option
@connection_options
def send(workflow: str, name: str, payload: str | None, key: str | None, output: str) -> None:
    """Send the signal NAME to a workflow, with any JSON for the task that waits for it.

    Without such a task it is kept until one waits.
    """
    value = read_payload(payload)
    with connect() as client:
        sent = client.send_signal(workflow, name, value, key=key)
    if output != "table":
        print_json(sent, indent=output == "json")
    else:
        echo(
            {"delivered": f"delivered to {sent.task}", "kept": "kept: no task waits for it yet"}.get(
                sent.state, "repeated: it was counted before"
            )
        )
