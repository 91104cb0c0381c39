"""`raftflow simulate trace`: recorded workflows on virtual agents, with the real scheduler and state machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raftflow.cli.local_commands.policies import PolicyName
from raftflow.cli.terminal.exits import FAILED, CommandFailure
from raftflow.cli.terminal.options import Duration, output_option
from raftflow.cli.terminal.output import note, print_json, print_table
from raftflow.cli.terminal.streams import is_terminal

if TYPE_CHECKING:
    from raftflow.simulation.replay.report import TraceReport


class Rate(click.ParamType[float]):
    """A rate such as 0.02/h, per hour."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return events per hour."""
        from raftflow.formats.agents import parse_rate_per_hour  # noqa: PLC0415 - only for the command that uses it

        try:
            return parse_rate_per_hour(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--agents",
    "agents_file",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of agents: how many, of which sizes, speeds, costs and failure rates.",
)
@click.option("--repeat", type=click.IntRange(1), help="Every workflow so many times (default 1).")
@click.option("--tasks", type=click.IntRange(1), help="Workflows in turn until there are so many tasks.")
@click.option(
    "--fail-rate", type=Rate(), default=0.0, help="Failures per agent, such as 0.02/h, where FILE has none."
)
@click.option("--repair", type=Duration(), default=300.0, help="How long a failed agent is away (default 5m).")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=PolicyName(placement=True),
    default=("critical-path",),
    show_default=True,
    help="How agents are chosen, and the order of ready tasks; may be given more than once to compare. "
    "`raftflow help policies` explains each.",
)
@click.option("--tick", type=Duration(), default=0.01, help="Least time between two decisions (default 10ms).")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the failures.")
@output_option
def trace(  # noqa: PLR0917 - click passes options by name
    files: tuple[Path, ...],
    agents_file: Path,
    repeat: int | None,
    tasks: int | None,
    fail_rate: float,
    repair: float,
    policies: tuple[str, ...],
    tick: float,
    seed: int,
    output: str,
) -> None:
    """Simulate the workflows in FILES on virtual agents: makespan, cost, utilisation, balance, waiting times."""
    from raftflow.cli.local_commands.plan import agents_of  # noqa: PLC0415 - lazy, as every heavy import here
    from raftflow.formats.documents import normalize  # noqa: PLC0415
    from raftflow.formats.files import load  # noqa: PLC0415
    from raftflow.scheduler.plan.plan import PlanError  # noqa: PLC0415
    from raftflow.simulation.replay.load import mix  # noqa: PLC0415
    from raftflow.simulation.replay.simulator import Simulation, TraceStuckError  # noqa: PLC0415
    from raftflow.simulation.replay.virtual_fleet import rates_of  # noqa: PLC0415

    if repeat is not None and tasks is not None:
        raise click.UsageError("give --repeat or --tasks, not both")
    agents, rates = agents_of(agents_file)
    templates = [normalize(load(path)) for path in files]
    reports = []
    try:
        for policy in policies:
            simulation = Simulation(
                mix(templates, repeat=repeat or 1, tasks=tasks),
                agents,
                rates_of(agents, rates, fail_rate),
                policy=policy,
                tick_ms=max(1, round(tick * 1000)),
                repair_ms=round(repair * 1000),
                seed=seed,
                progress=note if is_terminal(sys.stderr) else None,
            )
            reports.append(simulation.run())
    except (PlanError, TraceStuckError) as error:
        raise CommandFailure(str(error)) from error
    if output == "json":
        print_json(reports[0] if len(reports) == 1 else {"runs": reports})
    elif output == "jsonl":
        for report in reports:
            print_json(report, indent=False)
    else:
        _print(reports)
    if any(report.problems for report in reports):
        raise CommandFailure("the tables are invalid: a bug; see `problems` of -o json", FAILED)


def _print(reports: list[TraceReport]) -> None:
    """Print a column for each policy."""
    cells: dict[str, Callable[[TraceReport], Any]] = {
        "workflows": lambda r: r.workflows,
        "tasks": lambda r: r.tasks,
        "agents": lambda r: r.agents,
        "makespan": lambda r: f"{r.makespan_s:g} s",
        "lower bounds": lambda r: (
            f"critical path {r.lower_bounds.critical_path_s:g} s, work {r.lower_bounds.work_s:.6g} s"
        ),
        "gap": lambda r: f"{r.gap:.1%}",
        "cost": lambda r: f"{r.cost:g}",
        "utilisation": lambda r: ", ".join(f"{name} {share:.1%}" for name, share in r.utilisation.items()),
        "busy per agent": lambda r: (
            f"{r.balance.busy_s_min:g} to {r.balance.busy_s_max:g} s, variation {r.balance.variation:.1%}"
        ),
        "waiting": lambda r: (
            f"mean {r.waiting.mean:.3g} s, half {r.waiting.p50:g} s, 95% {r.waiting.p95:g} s, max {r.waiting.max:g} s"
        ),
        "failures": lambda r: (
            f"{r.failures.agents} agents, {r.failures.attempts_lost} attempts, {r.failures.wasted_s:g} s lost, "
            f"{r.failures.tasks_failed} tasks failed"
        ),
        "decisions": lambda r: f"{r.decisions} in {r.entries} entries, one in {r.tick_ms} ms at most",
        "simulated in": lambda r: f"{r.real_s:.1f} s, {r.tasks_per_s:.0f} tasks/s, {r.memory_mib} MiB",
    }
    rows = [[label, *(cell(report) for report in reports)] for label, cell in cells.items()]
    print_table(["", *(report.policy for report in reports)], rows)
