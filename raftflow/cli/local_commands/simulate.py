"""`raftflow simulate`: the real code on a virtual clock, a simulated network and simulated disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from raftflow.cli.local_commands.trace import trace
from raftflow.cli.terminal.exits import FAILED, CommandFailure
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import output_option
from raftflow.cli.terminal.output import echo, note, print_json, print_table
from raftflow.cli.terminal.streams import flush

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRESS_EVERY: Final = 100
"""Seeds from one line about the progress to the next."""


class SeedRange(click.ParamType[range]):
    """`A:B`, the seeds from A up to but not with B."""

    name = "A:B"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """Return the range."""
        if isinstance(value, range):
            return value
        first, colon, last = str(value).partition(":")
        if not colon or not (first.isdigit() and last.isdigit()) or int(first) >= int(last):
            self.fail(f"{value!r} is not A:B with A below B, such as 0:500", param, ctx)
        return range(int(first), int(last))


@click.group(cls=CommandGroup)
def simulate() -> None:
    """Run whole clusters in one process, with faults of every kind, and check what they promise."""


simulate.add_command(trace)


@simulate.command()
@click.option("--seeds", type=SeedRange(), default="0:20", show_default=True, help="Which seeds to run.")
@click.option("--seed", type=click.IntRange(0), help="One seed alone.")
@click.option("--trace", is_flag=True, help="With --seed: print the last events, whatever came of the run.")
@click.option("--family", help="Of these seeds, only those of one family of scenarios.")
@click.option("--replicas", type=click.Choice(["3", "5", "7"]), help="By default each seed draws its own.")
@click.option("--duration", type=click.FloatRange(0.5, 600.0), help="Simulated seconds of faults.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes.")
@click.option(
    "--no-guard", is_flag=True, help="For tests: switch the guard's rules T1 to T7 off. It must find losses."
)
@output_option
def faults(  # noqa: PLR0917 - click passes options by name
    seeds: range,
    seed: int | None,
    trace: bool,
    family: str | None,
    replicas: str | None,
    duration: float | None,
    jobs: int,
    no_guard: bool,
    output: str,
) -> None:
    """Run seeds and check them. Exits with 1 if one shows a violation; the same seed gives the same run."""
    from raftflow.simulation.campaign import campaign  # noqa: PLC0415 - heavy
    from raftflow.simulation.plan import FAMILIES, seeds_of  # noqa: PLC0415 - heavy
    from raftflow.simulation.run import GUARD_RULES, NO_RULES, Report, RunOptions  # noqa: PLC0415 - heavy

    if trace and seed is None:
        raise click.UsageError("--trace goes with --seed")
    options = RunOptions(
        replicas=None if replicas is None else int(replicas),
        seconds=duration,
        disabled_rules=GUARD_RULES if no_guard else NO_RULES,
    )

    chosen: Sequence[int] = seeds if seed is None else range(seed, seed + 1)
    if family is not None:
        if family not in FAMILIES:
            raise click.UsageError(f"no family is named {family!r}; there are: {', '.join(sorted(set(FAMILIES)))}")
        chosen = seeds_of(family, chosen)
        if not chosen:
            raise click.UsageError(f"none of these seeds is of the family {family!r}: give more of them")
    done = violations = 0

    def progress(report: Report) -> None:
        nonlocal done, violations
        done, violations = done + 1, violations + len(report.violations)
        if done % PROGRESS_EVERY == 0:
            note(f"{done} of {len(chosen)} seeds, {violations} violations")
        if report.violations or trace:
            for line in report.trace:
                note(line)
            for found in report.violations:
                note(f"seed {report.seed}: {found.kind}: {found.detail}")
            note(f"seed {report.seed}: digest {report.digest}")

    summary = campaign(chosen, options, jobs=jobs if seed is None else 1, progress=progress)
    if output == "table":
        print_table(["fault", "count"], [[kind, str(count)] for kind, count in summary.faults.items()])
        print_table(["command", "with effect"], [[tag, str(count)] for tag, count in summary.commands.items()])
        echo(
            f"{summary.seeds} seeds, {summary.acknowledged} acknowledged writes, {summary.entries} log entries, "
            f"{summary.reads} reads, {summary.simulated_s:.0f} simulated seconds, "
            f"{len(summary.violations)} violations"
        )
    else:
        print_json(summary)
    if summary.violations:
        flush()
        seeds_found = sorted({found.seed for found in summary.violations})
        raise CommandFailure(f"violations with seeds {', '.join(map(str, seeds_found[:20]))}", FAILED)


@simulate.command()
@click.option("--name", "names", multiple=True, help="Only this one; may be given more than once.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Processes.")
@output_option
def mutants(names: tuple[str, ...], jobs: int, output: str) -> None:
    """Plant faults in the code, one at a time; the simulation must find each. Exits with 1 if one survives."""
    from raftflow.simulation.mutation.detection import hunt_all  # noqa: PLC0415 - heavy
    from raftflow.simulation.mutation.mutants import MUTANTS  # noqa: PLC0415 - heavy

    known = [mutant.name for mutant in MUTANTS]
    for name in names:
        if name not in known:
            raise click.UsageError(f"no mutant is named {name!r}; there are: {', '.join(known)}")
    findings = list(hunt_all(list(names) or known, jobs=jobs))
    if output == "table":
        print_table(
            ["mutant", "found", "seed", "kind", "tried", "within"],
            [
                [
                    found.mutant,
                    "yes" if found.found else "NO",
                    "" if found.seed is None else str(found.seed),
                    found.kind,
                    str(found.tried),
                    str(found.seeds_max),
                ]
                for found in findings
            ],
        )
    else:
        print_json(findings)
    survivors = [found.mutant for found in findings if not found.found]
    if survivors:
        flush()
        raise CommandFailure(f"not found: {', '.join(survivors)}", FAILED)
