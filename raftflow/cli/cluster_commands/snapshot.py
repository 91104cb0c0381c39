"""`raftflow snapshot`: a backup of a whole cluster in one file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raftflow.cli.cluster_commands.each_replica import url_of_replica
from raftflow.cli.terminal.exits import FAILED, CommandFailure
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, note, plain, print_json

if TYPE_CHECKING:
    from raftflow.client import Client
    from raftflow.domain.contract.views import SnapshotView
    from raftflow.recovery.cluster_snapshot import SnapshotLabel

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group(cls=CommandGroup)
def snapshot() -> None:
    """A backup of a whole cluster in one file: save, inspect, verify."""


@snapshot.command()
@_file
@click.option("--stale", is_flag=True, help="Take it from any replica, also from a follower or without a leader.")
@click.option("--replica", metavar="NAME|URL", help="Take it from this replica; with --stale.")
@output_option
@connection_options
def save(file: Path, stale: bool, replica: str | None, output: str) -> None:
    """Save the state of a running cluster in FILE, and its code bundles in the folder FILE.bundles.

    FILE holds every write that was acknowledged before the command; with --stale it may lack the last ones. It gets
    its name only when it is complete, on the disk and checked.
    """
    from raftflow.client.errors import ClientError  # noqa: PLC0415 - heavy
    from raftflow.recovery.bundle_files import save_beside  # noqa: PLC0415 - heavy

    if replica is not None and not stale:
        raise click.UsageError("--replica needs --stale: only the leader knows everything that was acknowledged")
    with connect() as client:
        url = None if replica is None else url_of_replica(client, replica)
        label = _fetch(client, file, url, stale=stale)
        missing = []
        for bundle in client.bundles(stale=stale):
            try:
                save_beside(file, [bundle.digest], client.bundle_content)
            except ClientError as error:
                missing.append(bundle.digest)
                note(f"the code bundle {bundle.digest} is not saved beside {file}: {error}")
    _show(file, label, output, missing_bundles=missing)


def _fetch(client: Client, file: Path, url: str | None, *, stale: bool) -> SnapshotLabel:
    """Bring a snapshot into the file. One whose replica stops meanwhile begins again."""
    from raftflow.client.errors import NotFound, Unreachable  # noqa: PLC0415 - heavy
    from raftflow.recovery.cluster_snapshot import ClusterSnapshotWriter, SnapshotLabel  # noqa: PLC0415 - heavy

    for last in (False, False, True):
        taken: SnapshotView = client.take_snapshot(url, stale=stale)
        try:
            with ClusterSnapshotWriter(file, SnapshotLabel.of(taken)) as writer:
                offset = 0
                while offset < taken.size:
                    piece = client.read_snapshot(taken, offset)
                    if not piece:
                        break
                    writer.write(piece)
                    offset += len(piece)
                return writer.finish()
        except (NotFound, Unreachable):
            if last:
                raise
    raise AssertionError("the last try returns or raises")


@snapshot.command()
@_file
@output_option
def inspect(file: Path, output: str) -> None:
    """Show what FILE says of itself: cluster, position in the log, audit anchor, feature level."""
    from raftflow.recovery.cluster_snapshot import ClusterSnapshotFile  # noqa: PLC0415 - heavy

    with ClusterSnapshotFile(file) as opened:
        label = opened.label
    _show(file, label, output)


@snapshot.command()
@_file
@output_option
def verify(file: Path, output: str) -> None:
    """Recompute every checksum of FILE, restore it into a state machine, and compare.

    Exits with 1 if the file is damaged, or needs a newer version of raftflow.
    """
    from raftflow.recovery.verification import verify_snapshot  # noqa: PLC0415 - heavy

    began_s = time.monotonic()
    found = verify_snapshot(file)
    if output == "table":
        for problem in found.problems:
            echo(problem)
        for digest in found.missing_bundles:
            echo(f"the code bundle {digest} is not beside the file: its tasks wait after a restore until it is sent")
        echo(
            f"{'ok' if found.ok else 'not ok'}: {found.workflows} workflows, {found.tasks} tasks and {found.agents} "
            f"agents at index {found.index}, chain {found.chain[:16]}, {time.monotonic() - began_s:.1f} s"
        )
    else:
        print_json(found, indent=output == "json")
    if not found.ok:
        raise CommandFailure(f"{file} does not hold a state that can be restored", FAILED)


def _show(file: Path, label: SnapshotLabel, output: str, **more: object) -> None:
    from raftflow.domain.values.times import iso_utc  # noqa: PLC0415 - as the others

    found = {"file": str(file), **plain(label), "taken_at": iso_utc(label.taken_at_ms), **more}
    if output != "table":
        print_json(found, indent=output == "json")
        return
    del found["taken_at_ms"]
    for name, value in found.items():
        if name in more:
            continue  # it was told already
        echo(f"{name + ':':<15} {', '.join(value) if isinstance(value, list) else value}")
