"""Queued attempts that are asked back because a more urgent task waits for their place."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.coordinator.placement.precedence import attempts_in_the_way


@pytest.fixture
async def one(bench: Any) -> Any:
    made = await bench()
    made.replica.rebalance_loop.stop()  # the tests look themselves
    return made


async def settled(one: Any) -> None:
    await one.until(lambda: one.replica.planner.settled)


def in_the_way(one: Any) -> dict[str, list[int]]:
    return attempts_in_the_way(one.machine, one.replica.planner)


async def filled(one: Any, name: str = "a1", *, count: int = 4) -> list[int]:
    """Let an agent of one place have a running task and queued ones; returns the fences of the queued ones."""
    incarnation = await one.register(name, prefetch=count)
    await one.submit(*(f"t{n}" for n in range(count)))
    answer = await one.work(incarnation, 1, name=name)
    await settled(one)
    return [item.fence for item in answer.assign][1:]


@pytest.mark.parametrize("priority", [0, 50])
async def test_a_task_that_is_not_more_urgent_joins_the_queue(one: Any, priority: int) -> None:
    await filled(one)
    incarnation = one.machine.state.agents["a1"].incarnation
    assert incarnation == 1
    await one.submit("u", priority=priority)
    await settled(one)
    assert in_the_way(one) == {}


async def test_only_as_many_queues_as_are_needed(one: Any) -> None:
    queued = {name: await filled(one, name) for name in ("a1", "a2")}
    await one.submit("u", priority=100)
    await settled(one)
    found = in_the_way(one)
    assert list(found) == ["a1"]
    assert found["a1"] == queued["a1"]
    await one.submit("v", "w", priority=100)
    await settled(one)
    assert in_the_way(one) == queued


async def test_an_agent_that_could_never_run_it_keeps_its_queue(one: Any) -> None:
    await filled(one)
    await one.submit("u", priority=100, resources={"gpu": 1_000})
    await settled(one)
    assert in_the_way(one) == {}


async def test_a_silent_agent_is_asked_nothing(one: Any) -> None:
    await filled(one)
    one.replica.planner.suspect("a1", silent=True)
    await one.submit("u", priority=100)
    await settled(one)
    assert in_the_way(one) == {}


async def test_nothing_makes_way_while_another_agent_has_room(one: Any) -> None:
    await filled(one)
    await one.register("a2")
    await one.submit("u", priority=100)
    assert in_the_way(one) == {}
    await settled(one)
    assert in_the_way(one) == {}, "it runs there"
