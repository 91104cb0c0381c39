"""`raftflow chaos`: faults on real processes, a recorded history, and a verdict."""

from __future__ import annotations

from pathlib import Path

import click

from raftflow.cli.terminal.exits import FAILED, REFUSED, CommandFailure
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import output_option
from raftflow.cli.terminal.output import echo, note, print_json, print_table
from raftflow.cli.terminal.streams import flush


@click.group(cls=CommandGroup)
def chaos() -> None:
    """Break a real cluster on purpose, record what its clients see, and check it."""


@chaos.command()
@click.option("--replicas", type=click.Choice(["3", "5"]), default="3", show_default=True, help="Replicas.")
@click.option("--agents", type=click.IntRange(1, 16), default=3, show_default=True, help="Agents.")
@click.option("--minutes", type=click.FloatRange(0.1, 1440.0), default=1.0, show_default=True, help="Time of faults.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Draws load and faults.")
@click.option("--fault", "faults", multiple=True, metavar="KIND", help="Only this kind; may be given more than once.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="For history, report and cluster; a new temporary directory by default.",
)
@click.option(
    "--network",
    type=click.Choice(["auto", "namespaces", "proxies"]),
    default="auto",
    show_default=True,
    help="A network namespace for each process, or TCP proxies; auto: namespaces where they are allowed.",
)
@click.option(
    "--cluster",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Use the local cluster in this directory in place of a new one: faults of processes only.",
)
@click.option("--i-mean-it", is_flag=True, help="Use that cluster although it was not made for chaos.")
@click.option("--keep", is_flag=True, help="Keep the data of the cluster, also if nothing was found.")
@output_option
def run(  # noqa: PLR0917 - click passes options by name
    replicas: str,
    agents: int,
    minutes: float,
    seed: int,
    faults: tuple[str, ...],
    directory: Path | None,
    network: str,
    cluster: Path | None,
    i_mean_it: bool,
    keep: bool,
    output: str,
) -> None:
    """Start a cluster for chaos, load it, inject faults, and let the checker judge the history.

    Exits with 0 only without violations. Every fault is undone, also after Ctrl-C and when this command is killed.
    """
    from raftflow.chaos.main import ChaosOptions, run_chaos  # noqa: PLC0415 - heavy
    from raftflow.chaos.nemesis.catalogue import NAMES  # noqa: PLC0415 - heavy
    from raftflow.chaos.verdict import CheckerFailedError  # noqa: PLC0415 - heavy
    from raftflow.local.cluster_file import LocalClusterError  # noqa: PLC0415 - heavy

    for name in faults:
        if name not in NAMES:
            raise click.UsageError(f"no fault is named {name!r}; there are: {', '.join(NAMES)}")
    if directory is not None and directory.exists() and any(directory.iterdir()):
        raise click.UsageError(f"{directory} is not empty: name a new directory")
    options = ChaosOptions(
        replicas=int(replicas),
        agents=agents,
        minutes=minutes,
        seed=seed,
        faults=faults,
        directory=directory,
        keep=keep,
        network=network,
        cluster=cluster,
        i_mean_it=i_mean_it,
    )
    try:
        report = run_chaos(options, note)
    except LocalClusterError as error:
        raise CommandFailure(str(error), REFUSED if cluster is not None else FAILED) from error
    except CheckerFailedError as error:
        raise CommandFailure(str(error), FAILED) from error
    if output == "table":
        rows = []
        for kind, count in report.faults.items():
            recovery = report.recovery_s.get(kind)
            times = [f"{recovery['median']:.2f}", f"{recovery['max']:.2f}"] if recovery else ["", ""]
            rows.append([kind, str(count), *times])
        print_table(["fault", "count", "recovery median s", "max s"], rows)
        for found in report.violations:
            echo(f"VIOLATION {found['kind']}: {found['text']}")
        echo(
            f"seed {report.seed}: {sum(report.faults.values())} faults of {len(report.faults)} kinds, "
            f"{report.acknowledged} acknowledged writes, {report.tasks} tasks, {len(report.violations)} violations; "
            f"history in {report.history}"
        )
    else:
        print_json(report)
    if report.violations:
        flush()
        raise CommandFailure(f"{len(report.violations)} violations; see {report.history}", FAILED)
