"""`raftflow coordinator`: run one replica."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

import click
import msgspec

from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import config_option, log_option, output_option
from raftflow.cli.terminal.output import echo, print_json


@click.group(cls=CommandGroup)
def coordinator() -> None:
    """Run one replica, or restore one from a snapshot of a cluster."""


def _settings(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise click.BadParameter(f"{text!r} is not TABLE.KEY=VALUE, such as timing.lease_ms=5000", param=param)
        settings[key] = value
    return settings


@coordinator.command()
@config_option("The replica's TOML file.")
@click.option("--name", help="Which of the members this replica is.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Journal, snapshots and audit of this replica.")
@click.option("--bind", metavar="HOST:PORT", help="Where to listen for clients and agents.")
@click.option("--peer-bind", metavar="HOST:PORT", help="Where to listen for the other replicas.")
@click.option("--insecure", is_flag=True, help="Serve a network without a token: anybody may run programs.")
@click.option(
    "--bootstrap",
    is_flag=True,
    help="For one start: begin a new cluster with a majority of the members. Say it only if none of them had data.",
)
@click.option("--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", callback=_settings, help="Any setting.")
@log_option
def run(  # noqa: PLR0917 - click passes options by name
    config_file: Path | None,
    name: str | None,
    data_dir: Path | None,
    bind: str | None,
    peer_bind: str | None,
    insecure: bool,
    bootstrap: bool,
    settings: dict[str, str],
    log_level: str,
) -> None:
    """Run one coordinator replica until SIGTERM; it then hands its leadership over.

    Flags go over RAFTFLOW_<TABLE>_<KEY> in the environment, and these over the file.
    """
    from raftflow.api.server import run as run_replica  # noqa: PLC0415 - heavy
    from raftflow.coordinator.config.loading import load_config  # noqa: PLC0415 - heavy
    from raftflow.log_output import start_logging  # noqa: PLC0415 - as above

    if config_file is None:
        raise click.UsageError("--config FILE is missing: the file that lists the members (see cluster-configs/)")
    flags: dict[str, object] = {
        **settings,
        "replica.name": name,
        "replica.data_dir": data_dir,
        "replica.bind": bind,
        "replica.peer_bind": peer_bind,
        "replica.insecure": True if insecure else None,
    }
    start_logging(log_level)  # first: what overrides what is logged
    config = load_config(config_file, environ=os.environ, flags=flags)
    if bootstrap:
        if config.join:
            raise click.UsageError(
                "--bootstrap is for founders of a new cluster, and this replica joins (join = true)"
            )
        config = msgspec.structs.replace(config, bootstrap=True)
    click.get_current_context().exit(run_replica(config))


@coordinator.command()
@config_option("The replica's TOML file, with the new cluster's id.")
@click.option(
    "--from",
    "snapshot_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="A file of `snapshot save` or `recover`. Every replica gets the same one.",
)
@click.option("--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", callback=_settings, help="Any setting.")
@output_option
def restore(config_file: Path | None, snapshot_file: Path, settings: dict[str, str], output: str) -> None:
    """Make the data directory of a replica of a new cluster from a snapshot, before its first start.

    Give this command for every replica of the new cluster, with the same snapshot and a new `id` in its file; then
    start them all. Attempts that ran when the snapshot was taken run again. Agents and replicas of the old cluster
    are refused. The data directory must be empty.
    """
    from raftflow.coordinator.config.loading import load_config  # noqa: PLC0415 - heavy
    from raftflow.recovery.bundle_files import MISSING_BUNDLE  # noqa: PLC0415 - heavy
    from raftflow.recovery.restore import restore_replica  # noqa: PLC0415 - heavy
    from raftflow.replication.real_files import RealFileSystem  # noqa: PLC0415 - heavy

    if config_file is None:
        raise click.UsageError("--config FILE is missing: the file that lists the members (see cluster-configs/)")
    config = load_config(config_file, environ=os.environ, flags={**settings})
    fs = RealFileSystem()
    try:
        restored = restore_replica(config, snapshot_file, fs, now_ms=time.time_ns() // 1_000_000)
    finally:
        fs.close()
    if output != "table":
        print_json(restored, indent=output == "json")
        return
    echo(
        f"{restored.replica} of cluster {restored.cluster} is restored in {restored.data_dir}: "
        f"{restored.workflows} workflows, {restored.unfinished} of them unfinished, at index {restored.index}"
    )
    for digest in restored.missing_bundles:
        echo(MISSING_BUNDLE.format(digest))
    echo(f"digest {restored.digest[:16]}: every replica of the new cluster must show the same")
    echo(f"start it: raftflow coordinator run --config {shlex.quote(str(config_file))}")
