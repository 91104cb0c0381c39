"""Commands that run something here: a replica, the demo, a benchmark."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from raftflow.cli.exits import USAGE, Failure
from raftflow.cli.options import output_option
from raftflow.cli.output import print_json, print_table

T = TypeVar("T")
_LEVELS = ["debug", "info", "warning", "error"]


def log_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add `--log-level`."""
    option: Callable[[Callable[..., T]], Callable[..., T]] = click.option(
        "--log-level", type=click.Choice(_LEVELS), default="info", show_default=True
    )
    return option(command)


def start_logging(level: str) -> None:
    """Send log lines to standard error."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


@click.group()
def coordinator() -> None:
    """Run one replica."""


def _settings(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals or "." not in key:
            raise click.BadParameter(f"{text!r} is not TABLE.KEY=VALUE, such as timing.lease_ms=5000", param=param)
        settings[key] = value
    return settings


@coordinator.command()
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    envvar="RAFTFLOW_CONFIG",
    help="The replica's TOML file.  [env: RAFTFLOW_CONFIG]",
)
@click.option("--name", help="Which of the members this replica is.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Journal, snapshots and audit of this replica.")
@click.option("--bind", metavar="HOST:PORT", help="Where to listen for clients and agents.")
@click.option("--peer-bind", metavar="HOST:PORT", help="Where to listen for the other replicas.")
@click.option("--insecure", is_flag=True, help="Serve a network without a token: anybody may run programs.")
@click.option("--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", callback=_settings, help="Any setting.")
@log_option
def run(  # noqa: PLR0917 - click passes options by name
    config_file: Path | None,
    name: str | None,
    data_dir: Path | None,
    bind: str | None,
    peer_bind: str | None,
    insecure: bool,
    settings: dict[str, str],
    log_level: str,
) -> None:
    """Run one coordinator replica until SIGTERM; it then hands its leadership over.

    Flags go over RAFTFLOW_<TABLE>_<KEY> in the environment, and these over the file.
    """
    from raftflow.api.server import run as run_replica  # noqa: PLC0415 - heavy
    from raftflow.coordinator.config import load_config  # noqa: PLC0415 - heavy

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
    config = load_config(config_file, environ=os.environ, flags=flags)
    start_logging(log_level)
    click.get_current_context().exit(run_replica(config))


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="A temporary directory by default.")
@click.option("--keep", is_flag=True, help="Leave the cluster running and print its addresses.")
def demo(data_dir: Path | None, keep: bool) -> None:
    """Run a real workflow on a cluster of this machine, kill its leader and an agent, and print a verdict.

    Exits with 0 only if every line of the verdict holds.
    """
    from raftflow.demo.main import run_demo  # noqa: PLC0415 - heavy

    click.get_current_context().exit(run_demo(data_dir=data_dir, keep=keep))


@click.command()
@click.argument("name")
@click.option("--runs", type=click.IntRange(1, 10_000), help="How often; each benchmark has its own default.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where its cluster writes: the disk counts.")
@output_option
def bench(name: str, runs: int | None, data_dir: Path | None, output: str) -> None:
    """Run the benchmark NAME and print its figures."""
    from raftflow.bench import main as benches  # noqa: PLC0415 - heavy

    if name not in benches.NAMES:
        raise Failure(f"no benchmark is called {name!r}; there are: {', '.join(benches.NAMES)}", USAGE)
    result: dict[str, Any] = benches.run(name, runs=runs, data_dir=data_dir)
    if output != "table":
        print_json(result, indent=output == "json")
        return
    click.echo(f"{result['name']}, {len(result['runs'])} runs")
    print_table(["FIGURE", "MEDIAN"], list(result["median"].items()))
