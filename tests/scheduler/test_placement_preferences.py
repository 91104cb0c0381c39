"""Preferences of tasks, what is known of agents, policies, budgets, kept agents: each rule as a small world."""

from __future__ import annotations

import msgspec
import pytest

from raftflow.domain.tasks.feasibility import AgentRoom, fault_class, shape_of
from raftflow.scheduler.place import decide
from raftflow.scheduler.queue.ready_queue import ReadyQueue
from raftflow.scheduler.view import pressure_of

# --- order


def test_what_was_lost_goes_before_everything_fresh(world):
    world.agent("a1", cpu=1)
    world.task("urgent", None, priority=100, rank=9).task("lost", "a1", priority=0, more={"lost": True})
    world.check()


def test_an_older_workflow_gains_a_point_of_priority_a_minute(world):
    world.agent("a1", cpu=4)
    world.task("fresh", priority=60, more={"age": 12}).task("old", priority=50, more={"age": 9})
    world.task("level", priority=55, rank=1, more={"age": 10}).task("late", priority=50, rank=9, more={"age": 12})
    assert [name for name, _ in world.decide()] == ["level", "old", "fresh", "late"]


def test_within_an_age_step_priority_decides_to_the_point(world):
    world.agent("a1", cpu=1)
    world.task("less", None, priority=50, rank=9).task("more", "a1", priority=51)
    world.check()


# --- what is known of agents


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"pressure": 1}),
        ({"faults": 4}, {"pressure": 1}),
        ({"speed": 100}, {"faults": 1}),
        ({"speed": 2_000}, {"speed": 1_000}),
        ({"speed": 1_000}, {"speed": 800}),
    ],
)
def test_the_healthier_and_faster_agent_comes_first(world, better, worse):
    """Although the other one would fit better."""
    world.agent("a1", cpu=2, more=worse).agent("a2", cpu=8, more=better)
    world.tasks(8, "a2").task("rest", "a1")
    world.check()


def test_small_differences_of_speed_do_not_count(world):
    world.agent("a1", cpu=2, more={"speed": 900}).agent("a2", cpu=8, more={"speed": 1_100})
    world.task("any", "a1").check()


def test_gpus_are_kept_even_from_those_who_flee_trouble(world):
    world.agent("gpu", cpu=2, gpu=1).agent("a2", cpu=1, more={"pressure": 4, "faults": 4, "speed": 1})
    world.task("any", "a2").check()


def test_equal_agents_take_turns(world):
    world.agent("a1", cpu=4, more={"given": 9}).agent("a2", cpu=4, more={"given": 3})
    world.tasks(4, "a2").tasks(4, "a1")
    world.check()


def test_a_slow_or_busy_or_failing_agent_gets_a_shorter_queue(world):
    world.agent("a1", cpu=1, used={"cpu": 1}, prefetch=9)
    world.agent("a2", cpu=1, used={"cpu": 1}, prefetch=9, more={"speed": 250})
    world.agent("a3", cpu=1, used={"cpu": 1}, prefetch=9, more={"pressure": 4})
    world.agent("a4", cpu=1, used={"cpu": 1}, prefetch=9, more={"faults": 4})
    world.tasks(14)
    agents = [agent for _, agent in world.decide()]
    assert [agents.count(f"a{n}+") for n in (1, 2, 3, 4)] == [7, 1, 3, 3]


# --- preferences of tasks


def test_a_task_goes_where_its_inputs_are(world):
    world.agent("a1", cpu=1).agent("a2", cpu=4).agent("a3", cpu=4)
    world.task("gone", "a3", rank=3, more={"near": ("a9", "a3", "a2")})
    world.task("next", "a2", rank=2, cpu=4, more={"near": ("a3", "a2")})
    world.task("free", "a1", rank=1)
    world.check()


def test_locality_is_for_those_policies_that_want_it(world):
    world.agent("a1", cpu=2).agent("a2", cpu=4)
    world.policy = "first-come"
    world.task("any", "a1", more={"near": ("a2",)}).check()


def test_locality_does_not_outweigh_trouble_or_gpus(world):
    world.agent("a1", cpu=4, more={"pressure": 1}).agent("a2", cpu=4, gpu=1).agent("a3", cpu=9)
    world.task("any", "a3", more={"near": ("a1", "a2")}).check()


def test_locality_decides_between_equal_queues_alone(world):
    for name in ("a1", "a2"):
        world.agent(name, cpu=1, used={"cpu": 1}, prefetch=2)
    near = {"near": ("a2",)}
    world.task("1", "a2+", more=near).task("2", "a1+", more=near).task("3", "a2+", more=near).check()


def test_a_retry_prefers_another_agent(world):
    world.agent("a1", cpu=1).agent("a2", cpu=4).agent("gpu", cpu=9, gpu=1)
    world.task("again", "a2", rank=2, more={"avoid": ("a1",), "near": ("a1",)}).task("fresh", "a1", rank=1).check()


def test_a_retry_stays_where_it_failed_rather_than_block_a_gpu_or_wait(world):
    world.agent("a1", cpu=1).agent("gpu", cpu=9, gpu=1)
    world.task("again", "a1", more={"avoid": ("a1",)}).check()


def test_several_agents_may_be_avoided(world):
    for name in ("a1", "a2", "a3"):
        world.agent(name, cpu=1)
    world.task("again", "a3", rank=2, more={"avoid": ("a1", "a2")}).task("fresh", "a1", rank=1).check()


def test_after_an_agent_fault_another_agent_is_waited_for(world):
    world.agent("a1", cpu=1, prefetch=2).agent("a2", cpu=1, more={"full": True})
    world.task("again", None, rank=3, more={"avoid_hard": ("a1",)}).task("fresh", "a1").check()


def test_after_an_agent_fault_one_without_another_goes_back(world):
    world.agent("a1", cpu=2).agent("a2", cpu=1, more={"full": True})
    world.agent("a3", cpu=1, more={"full": True, "suspect": True})
    world.task("again", "a1", cpu=2, more={"avoid_hard": ("a1",)}).check()


def test_an_agent_fault_outweighs_all_else(world):
    world.agent("a1", cpu=1).agent("a2", cpu=1).agent("gpu", cpu=1, gpu=1, more={"pressure": 4})
    world.task("again", "gpu", rank=3, more={"avoid_hard": ("a1",), "avoid": ("a2",), "near": ("a1",)})
    world.expected["again"] = "a2"
    world.check()
    world.rooms[1] = AgentRoom(name="a2", incarnation=2, capacity={"cpu": 1000}, free={"cpu": 0})
    world.expected["again"] = "gpu"
    world.check()


def test_the_shunned_do_not_stop_others_of_their_shape(world):
    """Without queues a shape that fits nowhere is not looked at again; one task that may not go there is no sign."""
    world.agent("a1", cpu=2).agent("a2", cpu=2, more={"full": True})
    world.task("again", None, rank=9, more={"avoid_hard": ("a1",)}).tasks(2, "a1").check()


def test_queues_keep_to_preferences_too(world):
    for name in ("a1", "a2"):
        world.agent(name, cpu=1, used={"cpu": 1}, prefetch=3)
    world.task("again", "a2+", rank=2, more={"avoid": ("a1",)}).task(
        "lost", "a2+", rank=1, more={"avoid_hard": ("a1",)}
    )
    world.check()


# --- budgets


def test_a_budget_holds_over_shapes_and_queues(world):
    world.agent("a1", cpu=3, prefetch=9)
    world.budgets = {"few": 3}
    for cpu in (1, 2, 3, 1, 2, 3):
        world.task(f"t{len(world.names)}", workflow="few", cpu=cpu, more={"limited": True})
    assert [agent for _, agent in world.decide()] == ["a1", "a1", "a1+"]


def test_what_was_shown_for_an_earlier_budget_is_passed(world):
    world.agent("a1", cpu=1, prefetch=2)
    for _ in range(3):
        world.task(f"t{len(world.names)}", workflow="few", more={"limited": True})
    view = msgspec.structs.replace(world.view(), budgets={"few": 1})
    assert len(decide(view).placements) == 1


def test_what_a_workflow_may_not_start_stands_before_nothing(world):
    world.agent("a1", cpu=1)
    world.budgets = {"none": 0}
    for number in range(50):
        world.task(f"n{number}", workflow="none", priority=90, more={"limited": True})
    world.task("other", "a1")
    assert world.decide(3) == [("other", "a1")]
    assert (world.queue.shapes, len(world.queue)) == (2, 51)
    assert isinstance(world.queue, ReadyQueue)


# --- agents that are kept


def test_who_was_overtaken_is_told(world):
    world.agent("a1", cpu=2, used={"cpu": 1})
    world.task("large", None, cpu=2, rank=9).task("small", "a1").task("after", None, cpu=2, memory=1)
    decision = decide(world.view())
    assert decision.overtaken == (shape_of({"cpu": 2000}, {}),)
    assert decision.placed == (shape_of({"cpu": 1000}, {}),)


# --- policies


# --- what is made of reports


def test_faults_in_quarters():
    assert [fault_class(n) for n in (0, 125, 249, 250, 999, 1_000)] == [0, 0, 0, 1, 3, 4]


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({}, 0),
        ({"cpu_busy_per_mille": 500}, 0),
        ({"cpu_busy_per_mille": 760}, 1),
        ({"cpu_busy_per_mille": 1_000}, 2),
        ({"cpu_busy_per_mille": 0}, 0),
        ({"run_queue": 4}, 0),
        ({"run_queue": 6}, 1),
        ({"run_queue": 60}, 4),
        ({"memory_free_mib": 50}, 0),
        ({"memory_free_mib": 49}, 4),
    ],
)
def test_pressure_is_load_that_nothing_allocated_explains(load, expected):
    room = AgentRoom(
        name="a1", incarnation=1, capacity={"cpu": 4_000, "memory": 200}, free={"cpu": 2_000, "memory": 100}
    )
    assert pressure_of(room, **load) == expected


def test_pressure_without_a_processor_is_unknown():
    room = AgentRoom(name="a1", incarnation=1, capacity={}, free={})
    assert pressure_of(room, cpu_busy_per_mille=1_000, run_queue=9, memory_free_mib=1) == 0


def test_a_suspect_agent_is_waited_for_by_what_must_not_go_to_the_others(world):
    """It is heard again or lost before long; an agent on which everything fails is no better choice meanwhile."""
    world.agent("a1", cpu=2).agent("a2", cpu=2, more={"suspect": True})
    world.task("again", None, rank=3, more={"avoid_hard": ("a1",)}).task("fresh", "a1").check()
