"""Commands that run something here: a replica, the demo, a benchmark."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from raftflow.cli.terminal.exits import FAILED, USAGE, CommandFailure
from raftflow.cli.terminal.groups import Nouns
from raftflow.cli.terminal.options import output_option
from raftflow.cli.terminal.output import echo, print_json, print_table

T = TypeVar("T")
_LEVELS = ["debug", "info", "warning", "error"]


def log_option(command: Callable[..., T]) -> Callable[..., T]:
    """Add `--log-level`."""
    option: Callable[[Callable[..., T]], Callable[..., T]] = click.option(
        "--log-level",
        type=click.Choice(_LEVELS),
        default="info",
        show_default=True,
        help="The least weight of what is logged, to standard error.",
    )
    return option(command)


@click.group(cls=Nouns)
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
    from raftflow.coordinator.config.replica_config import load_config  # noqa: PLC0415 - heavy
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


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="A temporary directory by default.")
@click.option("--keep", is_flag=True, help="Leave the cluster running and print its addresses.")
def demo(data_dir: Path | None, keep: bool) -> None:
    """Run a real workflow on a cluster of this machine, kill its leader and an agent, and print a verdict.

    Exits with 0 only if every line of the verdict holds.
    """
    from raftflow.demo.main import run_demo  # noqa: PLC0415 - heavy

    click.get_current_context().exit(run_demo(data_dir=data_dir, keep=keep))


def _names(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(",") if name.strip())


@click.command()
@click.argument("name")
@click.option("--runs", type=click.IntRange(1, 10_000), help="How often; each benchmark has its own default.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where its cluster writes: the disk counts.")
@click.option("--tasks", type=click.IntRange(1, 2_000_000), help="Size of the work: tasks, hops, agents, rounds.")
@click.option("--slots", type=click.IntRange(1, 1_024), help="Tasks at the same time, over all agents (4).")
@click.option("--agents", type=click.IntRange(1, 64), help="Agents that run them (2).")
@click.option("--prefetch", type=click.IntRange(0, 1_024), help="Tasks that may wait at each agent (256).")
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), help="How long each measurement of a rate goes on.")
@click.option(
    "--how",
    type=click.Choice(["kill", "silent", "stop"]),
    help="failover: SIGKILL (default), its machine's packets dropped (needs root), SIGSTOP.",
)
@click.option("--versus", metavar="PEER,...", callback=_names, help="dask, ray, celery, procrastinate; commit: etcd.")
@output_option
def bench(name: str, output: str, **given: Any) -> None:
    """Run the benchmark NAME and print its figures.

    lifecycle, chain, fanout, subprocess: workflows from submission to known results. failover: from a leader's end to
    work. recovery: from a kill of all replicas to work. commit, apply, place, snapshot, agents: single parts. pauses,
    flood: what others notice of many tasks and of an attack. soak: hours at half load. --versus runs other systems in
    the same run, each in a virtual environment of its own; a ratio above 1 means that raftflow is better.
    """
    from raftflow.bench import main as benches  # noqa: PLC0415 - heavy

    if name not in benches.NAMES:
        raise CommandFailure(f"no benchmark is called {name!r}; there are: {', '.join(benches.NAMES)}", USAGE)
    try:
        result: dict[str, Any] = benches.run(name, **given)
    except benches.BenchError as error:
        raise CommandFailure(str(error), FAILED) from error
    if output != "table":
        print_json(result, indent=output == "json")
        return
    echo(f"{result['name']}, {len(result['runs'])} runs")
    spread = result.get("spread", {})
    versus = result.get("versus", {})
    rows = []
    for figure, value in result["median"].items():
        others = [each for peer in versus.values() for each in (peer["median"].get(figure), _ratio(peer, figure))]
        rows.append([figure, value, *(spread.get(figure, [None, None]) if spread else []), *others])
    titles = [title for peer in versus for title in (peer.upper(), "TIMES BETTER")]
    print_table(["FIGURE", "MEDIAN", *(["LEAST", "MOST"] if spread else []), *titles], rows)
    cpu = [run["cpu_us_per_task"] for run in result["runs"] if isinstance(run, dict) and "cpu_us_per_task" in run]
    if cpu:
        echo("\nCPU, microseconds a task (median run of each role)")
        print_table(["ROLE", "US"], [[role, sorted(run[role] for run in cpu)[len(cpu) // 2]] for role in cpu[0]])


def _ratio(peer: dict[str, Any], figure: str) -> float | None:
    """Return the ratio beside the figure that it is about."""
    ratio: float | None = peer["ratio"] if next(iter(peer["median"])) == figure else None
    return ratio
