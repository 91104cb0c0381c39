"""`raftflow task`: list, show, logs, explain, kinds."""

from __future__ import annotations

from typing import Literal

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import Moment, connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, print_one, print_table, with_ages
from raftflow.cli.terminal.streams import safe

_ATTEMPT_COLUMNS = ("ATTEMPT", "FENCE", "AGENT", "OUTCOME", "EXIT", "STARTED", "FINISHED", "ERROR")
_COULD = {"run": "now", "queue": "queued", "no": "no"}


@click.group(cls=CommandGroup)
def task() -> None:
    """Look at tasks, their output, and why they wait."""


add_verbs(task)


@task.command()
@click.argument("workflow_id", metavar="WORKFLOW")
@click.argument("task_id", metavar="TASK")
@output_option
@connection_options
def show(workflow_id: str, task_id: str, output: str) -> None:
    """Show a task with its result and its attempts."""
    with connect() as client:
        view = client.task(workflow_id, task_id)
    history, view.history = view.history, ([] if output == "table" else view.history)
    print_one(output, view)
    if output == "table" and history:
        echo()
        keys = ("attempt", "fence", "agent", "outcome", "exit_code", "started_at", "finished_at", "error")
        rows = [[getattr(attempt, key) for key in keys] for attempt in history]
        print_table(_ATTEMPT_COLUMNS, rows)


@task.command()
@click.argument("workflow_id", metavar="WORKFLOW")
@click.argument("task_id", metavar="TASK")
@click.option(
    "--stream",
    type=click.Choice(["stdout", "stderr"]),
    default="stdout",
    show_default=True,
    help="Which of its two outputs.",
)
@click.option("--stderr", "stream", flag_value="stderr", help="The same as --stream stderr.")
@click.option("--attempt", type=click.IntRange(min=1), help="Number of the attempt; the newest by default.")
@click.option(
    "--follow",
    "-f",
    is_flag=True,
    help="Go on until the attempt has ended; without --attempt, until the task has, whatever attempt runs.",
)
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Begin with the last N lines.")
@click.option(
    "--since",
    "since_ms",
    type=Moment(),
    help="Begin with what was written at this time or later, by the agent's clock, to about a second: a duration "
    "before now, such as 10m, or a time, such as 2026-03-01T12:00:00Z.",
)
@connection_options
def logs(  # noqa: PLR0917 - click passes options by name
    workflow_id: str,
    task_id: str,
    stream: Literal["stdout", "stderr"],
    attempt: int | None,
    follow: bool,
    tail: int | None,
    since_ms: int | None,
) -> None:
    """Print what an attempt wrote, byte for byte.

    An agent keeps the beginning and the end of each stream (output_bytes_max in its configuration). Where bytes
    between them are not kept, a line says how many.
    """
    from raftflow.cli.cluster_commands.task_logs import LogPrinter, LogStart  # noqa: PLC0415 - needs little, but only here

    with connect() as client:
        printer = LogPrinter(client, workflow_id, task_id, stream)
        if follow:
            printer.follow(attempt, LogStart(tail, since_ms))
        else:
            printer.show(attempt, LogStart(tail, since_ms))


@task.command()
@click.argument("workflow_id", metavar="WORKFLOW")
@click.argument("task_id", metavar="TASK")
@output_option
@connection_options
def explain(workflow_id: str, task_id: str, output: str) -> None:
    """Explain why a task is in its state and place."""
    with connect() as client:
        explanation = client.explain(workflow_id, task_id)
    if output != "table":
        print_one(output, explanation)
        return
    from raftflow.cli.terminal.advice import advice_for  # noqa: PLC0415 - for people alone

    echo(safe(with_ages(f"{explanation.id} is {explanation.state}: {explanation.reason}")))
    if explanation.waits_for:
        echo(safe(f"waits for: {', '.join(explanation.waits_for)}"))
    if explanation.index is not None:
        index = explanation.index
        echo(f"placed on {explanation.agent} by record {index} of the audit (`raftflow audit list --from {index}`)")
    if explanation.candidates:
        when = "now" if explanation.index is None else "at that decision"
        echo(f"\nagents {when}, the best first:")
        rows = [[each.agent, _COULD[each.where], each.why] for each in explanation.candidates]
        print_table(["AGENT", "TAKES IT", "WHY"], rows)
    advice = advice_for(explanation, workflow_id)
    if advice:
        echo(f"\nwhat to do: {advice}")
