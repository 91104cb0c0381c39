"""Tasks that want an agent for themselves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st


def test_it_finds_no_agent_while_something_runs_that_holds_nothing(world):
    world.agent("a1", cpu=4, more={"running": 1})
    world.task("x", None, exclusive=True)
    world.check()


def test_nothing_starts_beside_one_not_even_what_demands_nothing(world):
    world.agent("a1", cpu=4, used={"cpu": 4}, more={"running": 1, "alone": True})
    world.task("t", None, cpu=0)
    world.check()


def test_it_may_wait_in_a_queue_and_others_behind_it(world):
    world.agent("a1", cpu=4, used={"cpu": 1}, prefetch=2, more={"running": 1})
    world.task("x", "a1+", exclusive=True, rank=1)
    world.task("t", "a1", cpu=3, rank=9)
    world.check()


def test_one_placed_in_this_decision_keeps_the_others_away(world):
    world.agent("a1", cpu=4).agent("a2", cpu=4)
    world.task("x", exclusive=True, rank=9)
    world.task("y", exclusive=True, rank=8)
    world.task("t", cpu=0)
    assert world.decide() == [("x", "a1"), ("y", "a2")]


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    agents=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=4),
    tasks=st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 9)), max_size=12),
)
def test_every_placement_holds(new_world, agents, tasks):
    """`decide` of the world checks each, in order, by the same rule as `apply`."""
    world = new_world()
    for number, (cpu, prefetch) in enumerate(agents):
        world.agent(f"a{number}", cpu=cpu, prefetch=prefetch)
    for number, (exclusive, cpu, rank) in enumerate(tasks):
        world.task(f"t{number}", exclusive=exclusive, cpu=cpu, rank=rank)
    world.decide()
