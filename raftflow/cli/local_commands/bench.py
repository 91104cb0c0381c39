"""`raftflow bench`: measure raftflow on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from raftflow.cli.terminal.exits import FAILED, USAGE, CommandFailure
from raftflow.cli.terminal.options import output_option
from raftflow.cli.terminal.output import echo, print_json, print_table


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
@click.option(
    "--versus",
    metavar="PEER,...",
    callback=_names,
    help="dask, ray, celery, procrastinate; commit: etcd; steps: dbos, restate.",
)
@output_option
def bench(name: str, output: str, **given: Any) -> None:
    """Run the benchmark NAME and print its figures.

    lifecycle, chain, fanout, subprocess: workflows from submission to known results. steps: durable steps. failover:
    from a leader's end to work. recovery: from a kill of all replicas to work. commit, apply, place, snapshot,
    agents: single parts. pauses, flood: what others notice of many tasks and of an attack. soak: hours at half
    load. --versus runs other systems in the same run, each in a virtual environment of its own; a ratio above 1
    means that raftflow is better.
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
