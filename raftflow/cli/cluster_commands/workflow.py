"""`raftflow workflow`: submit, validate, plan, list, show, watch, wait, cancel, pause, resume, retry, priority."""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raftflow.cli.cluster_commands.operation_verbs import add_verbs
from raftflow.cli.cluster_commands.spending.budget import budget
from raftflow.cli.local_commands.plan import plan
from raftflow.cli.terminal.documents import file_options, load_file
from raftflow.cli.terminal.exits import DONE, FAILED, INTERRUPTED, OUTPUT_CLOSED, CommandFailure, faults_as_text
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import Duration, connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, note, print_json, print_one
from raftflow.cli.terminal.streams import OutputError, flush, is_terminal, safe
from raftflow.domain.limits import PRIORITY_MAX

if TYPE_CHECKING:
    from raftflow.client import Client
    from raftflow.domain.contract.views import WorkflowCreated, WorkflowView
    from raftflow.domain.tasks.workflow import WorkflowSpec

_PATH_SHOWN = 20
"""Tasks of the critical path that `validate` prints in a line."""


@click.group(cls=CommandGroup)
def workflow() -> None:
    """Submit workflows, watch and control them."""


workflow.add_command(plan)
add_verbs(workflow)
workflow.add_command(budget)


@workflow.command()
@file_options
@click.option("--wait/--detach", default=False, help="Wait until it has ended, or return its id at once (default).")
@click.option("--name", help="Replaces the document's name.")
@click.option("--priority", type=click.IntRange(0, PRIORITY_MAX), help="Replaces the document's priority.")
@click.option(
    "--code",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder whose files travel with the workflow.",
)
@click.option("--idempotency-key", help="Submitting again with the same key gives the same workflow.")
@click.option("--timeout", type=Duration(), help="With --wait: give up waiting after this; the workflow goes on.")
@output_option
@connection_options
def submit(  # noqa: PLR0917 - click passes options by name
    file: str,
    format_name: str | None,
    wait: bool,
    name: str | None,
    priority: int | None,
    code: Path | None,
    idempotency_key: str | None,
    timeout: float | None,
    output: str,
    **scales: Any,
) -> None:
    """Submit the workflow in FILE (`-` for standard input) and print its id.

    With --wait, print what `workflow show` prints once it has ended, and exit with 1 unless it succeeded.

    With --code, python tasks look for their modules in that folder first, and commands find it in RAFTFLOW_CODE.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    document, source = load_file(file, format_name, **scales)
    if name is not None:
        document["name"] = name
    if priority is not None:
        document["priority"] = priority
    if code is not None:
        _describe_code(code, document)
    key = uuid.uuid4().hex if idempotency_key is None else idempotency_key
    with connect(code) as client:
        try:
            with source.lines():
                created = client.submit(document, idempotency_key=key)
        except KeyboardInterrupt:
            again = f"the same command with --idempotency-key {key} gives its id, and submits it only once"
            raise CommandFailure(f"interrupted; the workflow may be submitted: {again}", INTERRUPTED) from None
        _print_id(created, output, wait=wait)
        for warning in created.warnings:
            note(f"warning: {warning}")
        if wait:
            view = _wait(client, created.id, timeout)
            print_one(output, view)
            _exit_as(view)


def _describe_code(folder: Path, document: dict[str, Any]) -> None:
    """Say what travels with a document. Raises `click.UsageError` if the document names other code."""
    from raftflow.sdk.code import FolderCode  # noqa: PLC0415 - heavy

    if document.get("code") is not None:
        raise click.UsageError("the document names its own `code`; give --code for one that does not")
    note(FolderCode(folder).bundle().describe())


def _print_id(created: WorkflowCreated, output: str, *, wait: bool) -> None:
    """Print the id of the workflow before anything else can fail, so that it is never lost."""
    try:
        if wait:
            note(f"submitted {created.id}")
            return
        if output == "table":
            echo(created.id)
        else:
            print_json(created, indent=output == "json")
        flush()
    except (OutputError, KeyboardInterrupt) as error:
        why, code = ("interrupted", INTERRUPTED) if isinstance(error, KeyboardInterrupt) else (error, OUTPUT_CLOSED)
        raise CommandFailure(f"{why}; the workflow is submitted as {created.id}", code, id=created.id) from None


def _wait(client: Client, workflow_id: str, timeout_s: float | None) -> WorkflowView:
    """Wait for the end with progress on a terminal."""
    from raftflow.cli.terminal.progress import live  # noqa: PLC0415

    last: WorkflowView | None = None
    try:
        with live() as show:
            for view in client.watch(workflow_id, timeout_s=timeout_s):
                last = view
                show(view)
    except KeyboardInterrupt:
        raise _stopped(workflow_id) from None
    if last is None:
        raise CommandFailure(f"nothing was heard of {workflow_id}")
    return last


def _stopped(workflow_id: str) -> CommandFailure:
    return CommandFailure(f"stopped waiting; {workflow_id} continues", INTERRUPTED, id=workflow_id)


def _exit_as(view: WorkflowView) -> None:
    """End the command as the workflow ended."""
    if view.state != "succeeded":
        why = f"{view.id} ended as {view.state}; see `raftflow task list {view.id}`"
        raise CommandFailure(why, FAILED, id=view.id, state=view.state)
    click.get_current_context().exit(DONE)


@workflow.command()
@file_options
@output_option
def validate(file: str, format_name: str | None, output: str, **scales: Any) -> None:
    """Check the workflow in FILE without a cluster, and name every fault with its line.

    Exits with 1 if there is any, with 2 if FILE cannot be read as a document at all.
    """
    from raftflow.formats.documents import DocumentError, normalize  # noqa: PLC0415

    try:
        document, source = load_file(file, format_name, **scales)
        with source.lines():
            spec = normalize(document)
    except DocumentError as error:
        if output == "table":
            for line in faults_as_text(error.problems, "standard input" if file == "-" else file):
                echo(safe(line))
        else:
            print_json({"ok": False, "problems": error.problems}, indent=output == "json")
        raise CommandFailure(f"{file} is invalid: {len(error.problems)} fault(s)", FAILED) from None
    facts = _facts(spec)
    if output != "table":
        print_json({"ok": True, "name": spec.name, **facts, "problems": []}, indent=output == "json")
        return
    echo(f"{spec.name}: {facts['tasks']} tasks, {facts['needs']} needs, no faults")
    echo(f"levels         {facts['levels']}, at most {facts['widest_level']} tasks in one")
    path = facts["critical_path"]
    shown = " -> ".join([*path[:_PATH_SHOWN], *(["..."] if len(path) > _PATH_SHOWN else [])])
    echo(f"critical path  {facts['critical_path_s']:g} s: {shown}")
    if facts["redundant_needs"]:
        echo(f"redundant      {facts['redundant_needs']} needs follow from others and cost nothing")


def _facts(spec: WorkflowSpec) -> dict[str, Any]:
    """Return facts about the graph. The cluster prepares it in the same way."""
    from raftflow.domain.tasks.preparation import critical_path, levels_of, without_redundant  # noqa: PLC0415
    from raftflow.domain.tasks.workflow import topological_order, upward_ranks  # noqa: PLC0415

    number = {task.id: position for position, task in enumerate(spec.tasks)}
    needs = [[number[need] for need in task.needs] for task in spec.tasks]
    order = topological_order(spec)
    ranks, levels = upward_ranks(spec, order), levels_of(needs, order)
    path = critical_path(needs, order, ranks)
    reduced = without_redundant(needs, order, levels)
    return {
        "tasks": len(spec.tasks),
        "needs": sum(map(len, needs)),
        "redundant_needs": sum(len(needs[position]) - len(left) for position, left in reduced.items()),
        "levels": 1 + max(levels),
        "widest_level": max(Counter(levels).values()),
        "critical_path": [spec.tasks[position].id for position in path],
        "critical_path_s": ranks[path[0]] / 1000,
    }


@workflow.command()
@click.argument("workflow_id", metavar="ID")
@click.option("--timeout", type=Duration(), help="Give up after this.")
@output_option
@connection_options
def watch(workflow_id: str, timeout: float | None, output: str) -> None:
    """Follow a workflow to its end: a bar on a terminal, else a line for every change. Exits as `wait` does."""
    from raftflow.cli.terminal.progress import describe  # noqa: PLC0415

    with connect() as client:
        if output == "table" and is_terminal(sys.stdout):
            view = _wait(client, workflow_id, timeout)
            echo(describe(view))
            _exit_as(view)
        try:
            for view in client.watch(workflow_id, timeout_s=timeout):
                if output == "table":
                    echo(describe(view))
                else:
                    print_json(view, indent=False)
                flush()
                if view.finished_at is not None:
                    _exit_as(view)
        except KeyboardInterrupt:
            raise _stopped(workflow_id) from None


@workflow.command()
@click.argument("workflow_id", metavar="ID")
@click.option("--timeout", type=Duration(), help="Give up after this; the workflow goes on.")
@output_option
@connection_options
def wait(workflow_id: str, timeout: float | None, output: str) -> None:
    """Wait until a workflow has ended and show it. Exits with 1 unless it succeeded."""
    with connect() as client:
        view = _wait(client, workflow_id, timeout)
        print_one(output, view)
        _exit_as(view)
