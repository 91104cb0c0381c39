"""`raftflow recover`: a snapshot of the cluster from the one replica that is left."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raftflow.cli.terminal.exits import REFUSED, CommandFailure
from raftflow.cli.terminal.options import config_option, output_option
from raftflow.cli.terminal.output import echo, note, plain, print_json

if TYPE_CHECKING:
    from raftflow.recovery.survivor import SurvivorReport


@click.command()
@config_option("The file of the replica that is left.", required=True)
@click.option(
    "--to", "target", type=click.Path(path_type=Path, dir_okay=False), help="Where the snapshot is written."
)
@click.option(
    "--i-know-the-others-are-gone",
    "others_gone",
    is_flag=True,
    help="The disks of the other replicas are lost for ever, and nobody starts them again.",
)
@output_option
def recover(config_file: Path, target: Path | None, others_gone: bool, output: str) -> None:
    """Make a snapshot of the cluster from the last replica that has data, when a majority lost its disks for ever.

    The replica must not run. Without --to the command says what the replica has and what may be missing, and changes
    nothing. With --to it writes the snapshot, of which `coordinator restore` makes a new cluster. The replica's
    directory is only read: keep it.
    """
    from raftflow.coordinator.config.loading import load_config  # noqa: PLC0415 - heavy
    from raftflow.recovery.bundle_files import MISSING_BUNDLE  # noqa: PLC0415 - heavy
    from raftflow.recovery.survivor import (  # noqa: PLC0415 - heavy
        RecoveryRefusedError,
        Survivor,
        answering_addresses,
        check_alone,
    )
    from raftflow.replication.real_files import RealFileSystem  # noqa: PLC0415 - heavy

    config = load_config(config_file, environ=os.environ)
    fs = RealFileSystem()
    try:
        survivor = Survivor(config, fs)
    except RecoveryRefusedError as error:
        raise CommandFailure(str(error), REFUSED) from error
    finally:
        fs.close()
    report = survivor.report(answering_addresses(survivor.addresses()))
    if output == "table":
        _print(report)
    else:
        print_json({**plain(report), "snapshot": None if target is None else str(target)}, indent=output == "json")
    if target is None:
        return
    try:
        check_alone(report, others_gone=others_gone)
    except RecoveryRefusedError as error:
        raise CommandFailure(str(error), REFUSED) from error
    survivor.save(target, time.time_ns() // 1_000_000)
    for digest in survivor.missing_bundles:
        note(MISSING_BUNDLE.format(digest))
    if output == "table":
        echo(f"\nsaved {target}. Make a new cluster of it, and keep {report.data_dir}:")
        echo(f"  raftflow coordinator restore --config FILE --from {shlex.quote(str(target))}    for every replica")


def _print(report: SurvivorReport) -> None:
    echo(
        f"{report.replica} of cluster {report.cluster} has the log up to entry {report.last_index} of term "
        f"{report.last_term}, at {report.last_at}: {report.workflows} workflows, {report.unfinished} unfinished"
    )
    for other in report.others:
        known = (
            f"had acknowledged entry {other.acknowledged}" if other.acknowledged else "nothing is known of its log"
        )
        answers = f"answers at {', '.join(other.answers)}" if other.answers else "does not answer"
        echo(f"{other.name}: {known}; {answers}")
    for sentence in report.missing:
        echo(f"- {sentence}")
