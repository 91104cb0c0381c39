"""Exact plans: the optimum of the reference case, and no policy is ever better than the proven best."""

from __future__ import annotations

import builtins

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.planning.exact import PAIRS_MAX, best_plan
from raftflow.planning.png import write_png
from raftflow.scheduler.plan.bounds import lower_bounds
from raftflow.scheduler.plan.check import plan_faults
from raftflow.scheduler.plan.gantt import Chart, ChartBox, ChartLabel
from raftflow.scheduler.plan.plan import PlanAgent, PlanError, PlanningProblem, cost_micro
from raftflow.scheduler.policies import POLICIES, make_plan


def task(task_id: str, ms: int, *needs: str, cpu: int = 1000, memory: int = 0) -> TaskSpec:
    wants = {"cpu": cpu, "memory": memory}
    return TaskSpec(id=task_id, needs=needs, program=CommandLine(("true",)), resources=wants, expected_ms=ms)


REFERENCE = WorkflowSpec(
    name="reference", tasks=(task("C", 3000), task("A", 2000, "C"), task("B", 3000, "C", cpu=2000))
)
AGENTS = (
    PlanAgent(name="a1", capacity={"cpu": 3000}, cost_rate_milli=3000),
    PlanAgent(name="a2", capacity={"cpu": 4000}, cost_rate_milli=4000),
)


@pytest.mark.parametrize("objective", ["makespan", "cost"])
def test_the_reference_case_has_its_known_optimum(objective):
    problem = PlanningProblem(REFERENCE, AGENTS)
    plan, proven = best_plan(problem, objective)
    assert proven
    assert (plan.makespan_ms, cost_micro(problem, plan)) == (6000, 24_000_000)
    assert plan_faults(REFERENCE, AGENTS, plan) == []


def test_the_two_objectives_give_different_plans():
    """The fast agent is dear: least makespan uses it, least cost does not."""
    spec = WorkflowSpec(name="wf", tasks=(task("a", 4000), task("b", 4000)))
    agents = (
        PlanAgent(name="slow", capacity={"cpu": 1000}),
        PlanAgent(name="fast", capacity={"cpu": 1000}, speed_milli=4000, cost_rate_milli=9000),
    )
    problem = PlanningProblem(spec, agents)
    quick, cheap = best_plan(problem, "makespan")[0], best_plan(problem, "cost")[0]
    assert (quick.makespan_ms, cost_micro(problem, quick)) == (2000, 18_000_000)
    assert (cheap.makespan_ms, cost_micro(problem, cheap)) == (8000, 8_000_000)


@st.composite
def small(draw):
    count = draw(st.integers(1, 12))
    tasks = []
    for number in range(count):
        needs = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=2)) if number else []
        tasks.append(
            task(
                f"t{number}",
                draw(st.integers(1, 9)) * 1000,
                *(f"t{need}" for need in needs),
                cpu=draw(st.integers(1, 3)) * 1000,
                memory=draw(st.integers(0, 2)),
            )
        )
    agents = [PlanAgent(name="a0", capacity={"cpu": 3000, "memory": 3})]
    if draw(st.booleans()):
        speed_milli = draw(st.sampled_from((500, 1000, 2000)))
        agents.append(PlanAgent(name="a1", capacity={"cpu": 4000, "memory": 2}, speed_milli=speed_milli))
    return WorkflowSpec(name="wf", tasks=tuple(tasks)), tuple(agents)


@settings(max_examples=25, deadline=None)
@given(small())
def test_no_policy_beats_the_optimum_and_no_bound_passes_it(case):
    spec, agents = case
    problem = PlanningProblem(spec, agents)
    plan, proven = best_plan(problem, time_s_max=10)
    assert plan_faults(spec, agents, plan) == []
    plans = {policy: make_plan(problem, policy) for policy in POLICIES}
    assert plan.makespan_ms <= min(each.makespan_ms for each in plans.values())
    if proven:
        assert lower_bounds(problem).best_ms <= plan.makespan_ms
        assert plans["least-makespan"].makespan_ms <= 1.25 * plan.makespan_ms


def test_a_problem_beyond_the_limits_is_refused_with_them():
    many = WorkflowSpec(name="wf", tasks=tuple(task(f"t{n}", 1) for n in range(PAIRS_MAX // 2 + 1)))
    with pytest.raises(PlanError, match="too many for an exact plan"):
        best_plan(PlanningProblem(many, AGENTS))
    dear = PlanAgent(name="a", capacity={"cpu": 3000}, cost_rate_milli=2**50)
    with pytest.raises(PlanError, match="too large"):
        best_plan(PlanningProblem(REFERENCE, (dear,)))
    with pytest.raises(PlanError, match="found no plan within"):
        best_plan(PlanningProblem(REFERENCE, AGENTS), time_s_max=0.0)


def test_missing_libraries_are_named_in_the_error(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith(("ortools", "PIL")):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PlanError, match=r"raftflow\[exact\]"):
        best_plan(PlanningProblem(REFERENCE, AGENTS))
    with pytest.raises(PlanError, match=r"raftflow\[png\]"):
        write_png(Chart(10, 10, (), ()), tmp_path / "x.png")


def test_png_shows_the_boxes(tmp_path):
    from PIL import Image

    drawing = Chart(60, 40, (ChartBox(10, 10, 20, 10, "#ff0000", "#00ff00"),), (ChartLabel(2, 38, "text"),))
    path = tmp_path / "x.png"
    write_png(drawing, path)
    with Image.open(path) as image:
        assert image.size == (60, 40)
        assert image.getpixel((15, 15)) == (255, 0, 0)
        assert image.getpixel((10, 10)) == (0, 255, 0)
        assert image.getpixel((40, 15)) == (255, 255, 255)
