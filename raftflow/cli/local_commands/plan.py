"""`raftflow workflow plan`: what would run where and when, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raftflow.cli.local_commands.policies import PolicyName
from raftflow.cli.terminal.documents import file_options, load_file
from raftflow.cli.terminal.exits import CommandFailure
from raftflow.cli.terminal.options import Duration, connect, connection_options, output_option
from raftflow.cli.terminal.output import echo, note, print_json, print_table

if TYPE_CHECKING:
    from raftflow.domain.tasks.workflow import WorkflowSpec
    from raftflow.scheduler.plan.bounds import LowerBounds
    from raftflow.scheduler.plan.plan import Plan, PlanAgent, PlanningProblem
    from raftflow.scheduler.plan.plan_report import PlanReport


@click.command()
@file_options
@click.option(
    "--agents",
    "agents_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of agents; by default those of the cluster that are up.",
)
@click.option(
    "--policy",
    type=PolicyName(),
    help="How tasks are placed (default critical-path); `raftflow help policies` explains each.",
)
@click.option("--compare", is_flag=True, help="Plan by every policy and compare.")
@click.option(
    "--given",
    "given_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Show this plan as well: a TOML or JSON table of task to agent, or what -o json printed.",
)
@click.option(
    "--exact",
    type=click.Choice(["makespan", "cost"]),
    help="Show the best plan there is, proven, in place of a policy's; for small workflows, needs raftflow[exact].",
)
@click.option("--exact-time", type=Duration(), default=60.0, help="Give the proof up after this (default 60s).")
@click.option(
    "--gantt",
    "gantt_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Draw the plan: FILE.svg, or FILE.png (needs raftflow[png]).",
)
@output_option
@connection_options
def plan(  # noqa: PLR0917 - click passes options by name
    file: str,
    format_name: str | None,
    agents_file: Path | None,
    policy: str | None,
    compare: bool,
    given_file: Path | None,
    exact: str | None,
    exact_time: float,
    gantt_file: Path | None,
    output: str,
    **scales: Any,
) -> None:
    """Plan the workflow in FILE: every task's agent, start and end, and how far the plan is from the lower bounds."""
    from raftflow.formats.documents import normalize  # noqa: PLC0415 - lazy, as every heavy import here
    from raftflow.scheduler.plan.bounds import lower_bounds  # noqa: PLC0415
    from raftflow.scheduler.plan.plan import PlanError, PlanningProblem  # noqa: PLC0415
    from raftflow.scheduler.plan.plan_report import differences, report  # noqa: PLC0415
    from raftflow.scheduler.policies import DEFAULT_POLICY, make_plan  # noqa: PLC0415

    if sum((policy is not None, compare, exact is not None)) > 1:
        raise click.UsageError("give one of --policy, --compare and --exact")
    if gantt_file is not None and (compare or gantt_file.suffix not in {".svg", ".png"}):
        raise click.UsageError("--gantt draws one plan, into a file called .svg or .png")
    document, source = load_file(file, format_name, **scales)
    with source.lines():
        spec = normalize(document)
    if agents_file is None:
        agents, spec = _live(spec)
    else:
        agents = agents_of(agents_file)[0]
    try:
        problem = PlanningProblem(spec, agents)
        bounds = lower_bounds(problem)
        given = None if given_file is None else _given(problem, given_file)
        if compare:
            _compare(output, problem, bounds, given)
            return
        proven: bool | None = None
        if exact is not None:
            chosen, proven = _exact(problem, exact, exact_time)
        else:
            chosen = make_plan(problem, policy or DEFAULT_POLICY)
        described = report(problem, chosen, bounds)
        described.optimal = proven
        if gantt_file is not None:
            _draw(problem, chosen, gantt_file)
    except PlanError as error:
        raise CommandFailure(str(error)) from error
    if output != "table":
        value: Any = described
        if given is not None:
            from msgspec import to_builtins  # noqa: PLC0415

            value = {**to_builtins(described), "given": report(problem, given, bounds)}
            value["differences"] = differences(problem, given, chosen)
        print_json(value, indent=output == "json")
        return
    if given is not None:
        _print(report(problem, given, bounds))
        echo()
    _print(described)
    if given is not None:
        _print_differences(problem, given, chosen)


def agents_of(path: Path) -> tuple[list[PlanAgent], dict[str, float]]:
    """Read an agents file: the agents, and the failures per hour of those for which it has them."""
    from raftflow.formats.agents import load_agents  # noqa: PLC0415
    from raftflow.scheduler.plan.plan import PlanAgent  # noqa: PLC0415

    entries = load_agents(path)
    agents = [
        PlanAgent(
            name=entry.name,
            capacity=entry.capacity,
            labels=entry.labels,
            speed_milli=entry.speed_milli,
            cost_rate_milli=entry.cost_rate_milli,
        )
        for entry in entries
    ]
    return agents, {entry.name: entry.fails_per_hour for entry in entries if entry.fails_per_hour is not None}


def _live(spec: WorkflowSpec) -> tuple[list[PlanAgent], WorkflowSpec]:
    """Ask the cluster for its agents that are up, and for what it has learnt of the tasks' kinds.

    The agents are of equal speed and cost, and empty in the plan. Tasks without an expected time get the learnt one.
    A kind whose tasks have spawned children counts with all the time until the end, as one long task.
    """
    from msgspec.structs import replace  # noqa: PLC0415

    from raftflow.client import NotFound  # noqa: PLC0415
    from raftflow.domain.tasks.program import kind_of  # noqa: PLC0415
    from raftflow.domain.tasks.resources import parse_amount  # noqa: PLC0415
    from raftflow.scheduler.plan.plan import PlanAgent  # noqa: PLC0415

    with connect() as client:
        found = [agent for agent in client.agents() if agent.up]
        try:
            mean_s = {kind.kind: kind.span_s or kind.mean_s for kind in client.kinds()}
        except NotFound:  # a replica of an older version
            mean_s = {}
    if not found:
        raise CommandFailure("the cluster has no agent that is up; give --agents FILE")
    agents = [
        PlanAgent(
            name=agent.name,
            capacity={name: parse_amount(name, amount) for name, amount in agent.resources.items()},
            labels=agent.labels,
        )
        for agent in sorted(found, key=lambda agent: agent.name)
    ]
    tasks = []
    for task in spec.tasks:
        learnt_s = mean_s.get(kind_of(task.kind, task.program) or "")
        known = task.expected_ms is not None or learnt_s is None
        tasks.append(task if known else replace(task, expected_ms=round((learnt_s or 0) * 1000)))
    return agents, replace(spec, tasks=tuple(tasks))


def _given(problem: PlanningProblem, path: Path) -> Plan:
    """Read a given plan and find its times."""
    from raftflow.formats.files import FormatError, load  # noqa: PLC0415
    from raftflow.scheduler.plan.heuristics import follow  # noqa: PLC0415
    from raftflow.scheduler.plan.plan import assignment_of  # noqa: PLC0415

    table = load(path)
    rows = table.get("tasks")
    if isinstance(rows, list) and all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        table = {row["id"]: row.get("agent") for row in rows}
    if not all(isinstance(agent, str) for agent in table.values()):
        raise FormatError(f"{path}: a given plan is a table of task to agent")
    return follow(problem, assignment_of(problem, table))


def _exact(problem: PlanningProblem, objective: str, time_s_max: float) -> tuple[Plan, bool]:
    """Ask the solver."""
    from raftflow.planning.exact import best_plan  # noqa: PLC0415

    found, proven = best_plan(problem, "cost" if objective == "cost" else "makespan", time_s_max)
    if not proven:
        note(f"raftflow: not proven to be the best within {time_s_max:g} s")
    return found, proven


def _draw(problem: PlanningProblem, chosen: Plan, path: Path) -> None:
    """Write the chart."""
    from raftflow.scheduler.plan.gantt import draw, to_svg  # noqa: PLC0415

    drawing = draw(problem, chosen)
    if path.suffix == ".svg":
        path.write_text(to_svg(drawing), encoding="utf-8")
    else:
        from raftflow.planning.png import write_png  # noqa: PLC0415

        write_png(drawing, path)


def _compare(output: str, problem: PlanningProblem, bounds: LowerBounds, given: Plan | None) -> None:
    """Print the figures of every policy."""
    from raftflow.scheduler.plan.plan_report import report  # noqa: PLC0415
    from raftflow.scheduler.policies import POLICIES, make_plan  # noqa: PLC0415

    plans = ([] if given is None else [given]) + [make_plan(problem, policy) for policy in POLICIES]
    reports = [report(problem, each, bounds) for each in plans]
    if output == "json":
        print_json({"plans": reports})
    elif output == "jsonl":
        for each in reports:
            print_json(each, indent=False)
    else:
        rows = [
            [
                each.policy,
                f"{each.makespan_s:g}",
                f"{each.cost:g}",
                f"{each.gap:.1%}",
                sum(agent.tasks > 0 for agent in each.agents),
                _shares(each.utilisation),
            ]
            for each in reports
        ]
        print_table(["POLICY", "MAKESPAN_S", "COST", "GAP", "AGENTS", "UTILISATION"], rows)
        echo(_bounds_line(reports[0]))


def _print(described: PlanReport) -> None:
    """Print one plan."""
    rows = [
        [task.id, task.agent, f"{task.start_s:g}", f"{task.end_s:g}", f"{task.cost:g}", task.why]
        for task in sorted(described.tasks, key=lambda task: task.start_s)
    ]
    print_table(["TASK", "AGENT", "START_S", "END_S", "COST", "WHY"], rows)
    best = {True: ", proven to be the best", False: ", not proven to be the best", None: ""}[described.optimal]
    echo(f"policy         {described.policy}{best}")
    echo(f"makespan       {described.makespan_s:g} s, {described.gap:.1%} above the lower bound")
    echo(f"cost           {described.cost:g}")
    echo(f"utilisation    {_shares(described.utilisation)}")
    echo(_bounds_line(described))
    echo(f"critical path  {' -> '.join(described.critical_path)}")


def _bounds_line(described: PlanReport) -> str:
    bounds = described.lower_bounds
    work = f"work {bounds.work_s:g} s ({_each(bounds.work_by_resource_s)})"
    return f"lower bounds   critical path {bounds.critical_path_s:g} s, {work}, windows {bounds.window_s:g} s"


def _each(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g} s" for name, value in figures.items())


def _shares(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0%}" for name, value in figures.items())


def _print_differences(problem: PlanningProblem, given: Plan, chosen: Plan) -> None:
    """Say why the plans differ."""
    from raftflow.scheduler.plan.plan import MILLI, cost_micro  # noqa: PLC0415
    from raftflow.scheduler.plan.plan_report import differences  # noqa: PLC0415

    costs = [cost_micro(problem, each) / MILLI**2 for each in (given, chosen)]
    ends = [each.makespan_ms / MILLI for each in (given, chosen)]
    echo()
    echo(f"given plan: cost {costs[0]:g}, end {ends[0]:g} s; {chosen.policy}: cost {costs[1]:g}, end {ends[1]:g} s")
    for line in differences(problem, given, chosen):
        echo(f"  {line}")
