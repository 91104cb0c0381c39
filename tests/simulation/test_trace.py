"""The trace simulator: small loads whose figures can be worked out by hand, failures, and equal runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import msgspec
import pytest
from click.testing import CliRunner

from raftflow.cli.main import root
from raftflow.domain.tasks.program import CommandLine, TaskWait
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.scheduler.plan.plan import PlanAgent, PlanError
from raftflow.scheduler.policies import PLACEMENT_RULES
from raftflow.simulation.replay import simulator
from raftflow.simulation.replay.load import load_bounds, mix
from raftflow.simulation.replay.simulator import Simulation, TraceStuckError
from raftflow.simulation.replay.virtual_fleet import LEASE_MS, rates_of


def task(task_id: str, seconds: float | None, *needs: str, cpu: int = 1000) -> TaskSpec:
    expected_ms = None if seconds is None else round(seconds * 1000)
    return TaskSpec(
        id=task_id, needs=needs, program=CommandLine(("true",)), resources={"cpu": cpu}, expected_ms=expected_ms
    )


def workflow(*tasks: TaskSpec) -> WorkflowSpec:
    return WorkflowSpec(name="wf", tasks=tasks)


def agents(count: int, *, cpu: int = 1000, speed_milli: int = 1000, cost_rate_milli: int = 1000):
    return [
        PlanAgent(name=f"a{n}", capacity={"cpu": cpu}, speed_milli=speed_milli, cost_rate_milli=cost_rate_milli)
        for n in range(count)
    ]


def simulate(load, fleet, *, rate: float = 0.0, **more):
    return Simulation(load, fleet, [rate] * len(fleet), **more).run()


DIAMOND = workflow(task("a", 1), task("b", 2, "a"), task("c", 3, "a"), task("d", 1, "b", "c"))


def test_waits_take_no_time():
    wait = TaskSpec(id="w", needs=("a",), program=TaskWait("signal", "go"), resources={}, expected_ms=0)
    report = simulate(mix([workflow(task("a", 1), wait, task("b", 2, "w"))]), agents(1))
    assert report.problems == [] and report.lower_bounds.critical_path_s == 3
    assert 3 <= report.makespan_s < 3.1


def test_one_diamond_on_two_agents():
    report = simulate(mix([DIAMOND], repeat=1), agents(2, cost_rate_milli=2000))
    assert (report.makespan_s, report.cost, report.gap) == (5.0, 14.0, 0.0)
    assert report.lower_bounds.critical_path_s == 5.0
    assert report.lower_bounds.work_s == 3.5
    assert report.utilisation == {"cpu": pytest.approx(0.7)}
    assert (report.placements, report.skipped, report.problems, report.sealed) == (4, 0, [], True)
    assert report.balance.busy_s_min + report.balance.busy_s_max == 7.0
    assert report.waiting.max == 0.0


def test_speed_and_waiting():
    """Four tasks of 2 s at double speed on one agent with one CPU: they wait 0, 1, 2 and 3 s."""
    load = mix([workflow(task("a", 2))], repeat=4)
    report = simulate(load, agents(1, speed_milli=2000))
    assert report.makespan_s == 4.0
    assert (report.waiting.mean, report.waiting.p50, report.waiting.max) == (1.5, 2.0, 3.0)
    assert report.balance.variation == 0.0


def test_policies_order_what_waits():
    """The long chain was submitted last: its rank starts it first, first come starts it last."""
    spec = workflow(task("x", 1), task("y", 1), task("head", 1), task("tail", 5, "head"))
    load = mix([spec])
    assert simulate(load, agents(2)).makespan_s == 6.0
    assert simulate(load, agents(2), policy="first-come").makespan_s == 7.0


def test_least_cost_takes_the_cheap_agent_and_the_default_the_fast_one():
    fleet = [
        PlanAgent(name="cheap", capacity={"cpu": 2000}, speed_milli=1000, cost_rate_milli=1000),
        PlanAgent(name="fast", capacity={"cpu": 2000}, speed_milli=2000, cost_rate_milli=5000),
    ]
    load = mix([DIAMOND])
    dear, fair = (simulate(load, fleet, policy=policy) for policy in ("critical-path", "least-cost"))
    assert (dear.makespan_s, dear.cost) == (2.5, 17.5)
    assert (fair.makespan_s, fair.cost) == (5.0, 7.0)


def test_spread_is_even_and_binpack_is_not():
    load = mix([workflow(task("a", 5))], repeat=8)
    even, packed = (simulate(load, agents(4, cpu=4000), policy=policy) for policy in ("spread", "binpack"))
    assert even.balance.variation == 0.0
    assert packed.balance.variation == 1.0


@pytest.mark.parametrize("policy", PLACEMENT_RULES)
def test_what_is_large_runs_under_every_policy_though_small_ones_never_stop(policy):
    """Without kept agents it would begin when the last of the small ones has begun, and end after 690 s."""
    large = workflow(task("head", 1), task("large", 300, "head", cpu=4000))
    small = workflow(*(task(f"s{n}", 9 + n % 4) for n in range(300)))
    report = simulate(mix([large, small]), agents(2, cpu=4000), policy=policy)
    assert report.makespan_s < 600
    assert report.problems == []


def test_tick_delays_decisions():
    assert simulate(mix([DIAMOND]), agents(2), tick_ms=4000).makespan_s == 12.0


def test_failures_are_noticed_and_the_work_is_done_again():
    load = mix([workflow(*(task(f"t{n}", 60) for n in range(40)))])
    fleet = agents(4)
    report = simulate(load, fleet, rate=10.0, repair_ms=1_000, seed=1)
    assert report.failures.agents > 0
    assert report.failures.attempts_lost > 0
    assert report.placements == report.tasks + report.failures.attempts_lost
    assert report.makespan_s > 600
    assert report.problems == []
    assert report.failures.tasks_failed == 0
    # Lost work is paid for and does not count as used.
    assert report.cost == pytest.approx(40 * 60 + report.failures.wasted_s)
    assert report.utilisation["cpu"] == pytest.approx(40 * 60 / (4 * report.makespan_s))


def test_a_run_ends_when_tasks_are_lost_with_too_many_agents():
    """Agents fail every two minutes. A task of a minute meets the fourth failure sooner or later."""
    load = mix([workflow(*(task(f"t{n}", 60) for n in range(40)))])
    report = simulate(load, agents(4), rate=30.0, repair_ms=1_000, seed=7)
    assert report.failures.tasks_failed > 0
    assert report.problems == []


def test_a_placement_on_an_agent_whose_failure_is_not_known_yet_is_lost():
    """One agent fails while it is idle between two workflows' tasks, far below its lease: nothing hangs."""
    load = mix([workflow(*(task(f"t{n}", 1) for n in range(300)))])
    report = simulate(load, agents(1), rate=120.0, seed=3)
    assert report.failures.agents > 0
    assert report.makespan_s >= 300 + LEASE_MS / 1000
    assert report.placements == 300 + report.failures.attempts_lost


def test_equal_seeds_give_equal_runs_and_others_do_not():
    load = mix([DIAMOND], repeat=30)

    def figures(seed: int):
        told = msgspec.to_builtins(simulate(load, agents(3), rate=60.0, seed=seed))
        return {key: value for key, value in told.items() if key not in {"real_s", "tasks_per_s", "memory_mib"}}

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)


def test_light_runs_decide_as_sealed_ones(monkeypatch):
    load = mix([DIAMOND], repeat=20)
    sealed = simulate(load, agents(3), rate=60.0)
    monkeypatch.setattr(simulator, "SEALED_TASKS_MAX", 10)
    told = []
    light = simulate(load, agents(3), rate=60.0, progress=told.append)
    assert (sealed.sealed, light.sealed) == (True, False)
    assert told and told[-1].split()[0].isdigit()
    for field in ("makespan_s", "cost", "balance", "waiting", "failures", "placements", "decisions", "entries"):
        assert getattr(light, field) == getattr(sealed, field), field


def test_loads_take_turns():
    one, two = workflow(task("a", 1)), workflow(task("a", 1), task("b", None))
    assert mix([one, two], repeat=2).order == (0, 1, 0, 1)
    load = mix([one, two], tasks=5)
    assert (load.order, load.tasks) == ((0, 1, 0, 1), 6)
    assert mix([one, two], tasks=1).order == (0,)
    with pytest.raises(PlanError, match="ask for fewer"):
        mix([one], repeat=10**9)


def test_bounds_of_loads():
    bounds = load_bounds(mix([DIAMOND], repeat=100), agents(10))
    assert (bounds.critical_path_s, bounds.work_s) == (5.0, 70.0)
    assert load_bounds(mix([DIAMOND, workflow(task("z", 99))], tasks=4), agents(1)).critical_path_s == 5.0
    with pytest.raises(PlanError, match="fits on none"):
        load_bounds(mix([workflow(task("a", 1, cpu=9000))]), agents(1))


def test_what_can_never_end_is_said():
    simulation = Simulation(mix([DIAMOND]), agents(1), [0.0])
    simulation._fleet.agents[0].alive = False
    with pytest.raises(TraceStuckError, match="4 tasks wait"):
        simulation.run()


def test_rates_of_the_file_go_over_the_default():
    assert rates_of(agents(2), {"a1": 2.0}, 0.5) == [0.5, 2.0]


FILE = """
name = "diamond"
[[tasks]]
id = "a"
command = ["true"]
expected = "1s"
[[tasks]]
id = "b"
needs = ["a"]
command = ["true"]
expected = "2s"
"""
AGENTS = '[[agents]]\nname = "a"\ncount = 2\nfail_rate = "1/d"\nresources = { cpu = 1 }\n'


@pytest.fixture
def files(tmp_path):
    (tmp_path / "wf.toml").write_text(FILE)
    (tmp_path / "agents.toml").write_text(AGENTS)
    return tmp_path


def run(files, *arguments: str):
    given = ["simulate", "trace", str(files / "wf.toml"), "--agents", str(files / "agents.toml"), *arguments]
    return CliRunner().invoke(root, given, prog_name="raftflow")


def test_command_line(files):
    told = json.loads(run(files, "--repeat", "4", "-o", "json").output)
    assert (told["tasks"], told["makespan_s"], told["policy"]) == (8, 6.0, "critical-path")
    both = ("--policy", "first-come", "--policy", "critical-path")
    runs = json.loads(run(files, *both, "-o", "json").output)["runs"]
    assert [each["policy"] for each in runs] == ["first-come", "critical-path"]
    assert len(run(files, *both, "-o", "jsonl").output.splitlines()) == 2
    table = run(files, "--tasks", "9", "--fail-rate", "0.02/h", *both).output.splitlines()
    assert table[0].split() == ["first-come", "critical-path"]
    assert table[2].split() == ["tasks", "10", "10"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--repeat", "2", "--tasks", "3"), 2, "not both"),
        (("--fail-rate", "often"), 2, "not a rate"),
        (("--tasks", "999999999"), 1, "ask for fewer"),
    ],
)
def test_wrong_usage(files, arguments, code, message):
    result = run(files, *arguments)
    assert result.exit_code == code
    assert message in result.stderr


def test_same_run_under_any_hash_seed(files):
    command = [sys.executable, "-m", "raftflow", "simulate", "trace", files / "wf.toml", "--agents"]
    command += [files / "agents.toml", "--repeat", "50", "--fail-rate", "30/h", "-o", "json"]
    figures = set()
    for seed in ("0", "77"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        told = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
        for key in ("real_s", "tasks_per_s", "memory_mib"):
            del told[key]
        figures.add(json.dumps(told))
    assert len(figures) == 1
