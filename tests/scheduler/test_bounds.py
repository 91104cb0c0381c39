"""Lower bounds: what each one sees that the others do not."""

from __future__ import annotations

from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.scheduler.plan.bounds import HEADS_MAX, lower_bounds
from raftflow.scheduler.plan.plan import PlanAgent, PlanningProblem


def bounds_of(tasks, agents):
    specs = tuple(
        TaskSpec(id=name, needs=needs, program=CommandLine(("true",)), resources=wants, labels=labels, expected_ms=ms)
        for name, needs, wants, labels, ms in tasks
    )
    return lower_bounds(PlanningProblem(WorkflowSpec(name="wf", tasks=specs), agents))


def agents(count: int, *, speed_milli: int = 1000, labels=None, **capacity: int):
    return [
        PlanAgent(name=f"a{n}", capacity=capacity, speed_milli=speed_milli, labels=labels or {}) for n in range(count)
    ]


def test_work_in_every_dimension():
    tasks = [(f"t{n}", (), {"cpu": 1000, "memory": 600}, {}, 1000) for n in range(8)]
    found = bounds_of(tasks, agents(2, cpu=4000, memory=1000, gpu=0))
    assert found.work_by_resource_ms == {"cpu": 1000, "memory": 2400, "gpu": 0}
    assert found.work_ms == 2400
    # More than half of an agent's memory: one at a time on each.
    assert found.window_ms == found.best_ms == 4000


def test_more_than_a_third_means_two_at_a_time():
    tasks = [(f"t{n}", (), {"cpu": 1400}, {}, 1000) for n in range(6)]
    found = bounds_of(tasks, agents(1, cpu=4000))
    assert found.work_ms == 2100
    assert found.window_ms == 3000


def test_heads_and_tails_around_a_layer():
    """Eight tasks between a head and a tail, two at a time: what lies around the layer counts as well."""
    layer = [(f"t{n}", ("head",), {"cpu": 1000}, {}, 1000) for n in range(8)]
    tasks = [
        ("head", (), {"cpu": 1000}, {}, 3000),
        *layer,
        ("tail", tuple(f"t{n}" for n in range(8)), {"cpu": 1000}, {}, 5000),
    ]
    found = bounds_of(tasks, agents(2, cpu=1000))
    assert (found.critical_path_ms, found.work_ms) == (9000, 8000)
    assert found.window_ms == 3000 + 4000 + 5000


def test_labels_narrow_the_agents():
    fleet = [
        *agents(1, labels={"gpu": "yes"}, cpu=1000),
        PlanAgent(name="b", capacity={"cpu": 9000}),
    ]
    tasks = [(f"t{n}", (), {"cpu": 1000}, {"gpu": "yes"}, 1000) for n in range(4)]
    tasks.append(("free", (), {"cpu": 1000}, {}, 1000))
    assert bounds_of(tasks, fleet).work_ms == 4000


def test_speed_counts():
    tasks = [(f"t{n}", (), {"cpu": 1000}, {}, 1000) for n in range(4)]
    found = bounds_of(tasks, agents(1, speed_milli=2000, cpu=1000))
    assert (found.critical_path_ms, found.work_ms, found.window_ms) == (500, 2000, 2000)


def test_tasks_that_want_nothing_and_agents_that_have_nothing():
    found = bounds_of([("a", (), {}, {}, 1000)], agents(1))
    assert (found.critical_path_ms, found.work_ms, found.window_ms, found.best_ms) == (1000, 0, 1000, 1000)


def test_many_heads_are_sampled():
    """A chain longer than the number of heads that are tried."""
    count = 3 * HEADS_MAX
    tasks = [(f"t{n}", (f"t{n - 1}",) if n else (), {"cpu": 1000}, {}, 10) for n in range(count)]
    found = bounds_of(tasks, agents(1, cpu=1000))
    assert found.best_ms == found.work_ms == found.window_ms == 10 * count


def test_one_task_more_than_there_are_slots():
    """Five tasks of 3 s on two agents with two CPUs: two of them share a slot, whatever the work says."""
    tasks = [(f"t{n}", (), {"cpu": 1000}, {}, 3000) for n in range(5)]
    found = bounds_of(tasks, agents(2, cpu=2000))
    assert (found.work_ms, found.window_ms) == (3750, 6000)


def test_layers_with_a_barrier_between_add_up():
    """Two layers of five such tasks around a join: the join starts at 6 s at the earliest, and 6 s go after it."""
    first = [(f"a{n}", (), {"cpu": 1000}, {}, 3000) for n in range(5)]
    join = ("join", tuple(f"a{n}" for n in range(5)), {"cpu": 1000}, {}, 1000)
    second = [(f"b{n}", ("join",), {"cpu": 1000}, {}, 3000) for n in range(5)]
    tasks = [*first, join, *second]
    assert bounds_of(tasks, agents(2, cpu=2000)).best_ms == 6000 + 1000 + 6000


def test_joins_with_equal_needs_are_bounded_once_and_large_workflows_not_at_all(monkeypatch):
    layer = [(f"a{n}", (), {"cpu": 1000}, {}, 1000) for n in range(3)]
    below = [(f"b{n}", ("a0", "a1", "a2"), {"cpu": 1000}, {}, 1000) for n in range(2)]
    tasks = [*layer, *below]
    assert bounds_of(tasks, agents(1, cpu=1000)).best_ms == 5000
    monkeypatch.setattr("raftflow.scheduler.plan.bounds.JOINED_TASKS_MAX", 1)
    assert bounds_of(tasks, agents(1, cpu=1000)).best_ms == 5000
