"""Candidates: what is told of a decision is what was decided."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain.tasks.feasibility import ReadyTask, shape_of
from raftflow.scheduler.explain import candidates
from raftflow.scheduler.place import place
from raftflow.scheduler.policies import PLACEMENT_RULES


def only(world):
    (group,) = world.queue.groups(1)
    return group.tasks[0]


def told(world, limit=9):
    return [(each.agent, each.where, each.why) for each in candidates(world.view(), only(world), limit)]


def test_the_best_come_first_each_with_its_reasons(world):
    world.agent("a1", cpu=4, more={"pressure": 2, "faults": 3}).agent("a2", cpu=4, more={"speed": 500})
    world.agent("a3", cpu=4).agent("a4", cpu=2).agent("a5", cpu=2).agent("gpu", cpu=2, gpu=1)
    world.task("any", more={"near": ("a9", "a3"), "avoid": ("a5",)})
    assert told(world) == [
        ("a3", "run", "has room now; holds inputs; leaves 75% of it free"),
        ("a4", "run", "has room now; leaves 50% of it free"),
        ("a2", "run", "has room now; tasks take 2 times as long there as expected; leaves 75% of it free"),
        (
            "a1", "run",
            (
                "has room now; other work keeps at least 50% of its CPUs busy; "
                "at least 75% of the attempts that ended there lately failed; "
                "leaves 75% of it free"
            ),
        ),
        ("a5", "run", "has room now; an attempt failed there; leaves 50% of it free"),
        ("gpu", "run", "has room now; keeps gpu from tasks that need it; leaves 75% of it free"),
    ]  # fmt: skip
    assert [name for name, _, _ in told(world, 2)] == ["a3", "a4"]
    scores = [each.score for each in candidates(world.view(), only(world), 9)]
    assert scores == sorted(scores)


def test_the_highest_pressure_may_be_of_memory(world):
    world.agent("a1", cpu=4, more={"pressure": 4})
    world.task("any")
    ((_, _, why),) = told(world)
    assert "keeps its CPUs busy, or uses the memory that it offers" in why


def test_what_an_agent_never_has_is_told_with_its_amounts(world):
    world.agent("a1", cpu=4, gpu=1)
    world.task("any", cpu=2, gpu=3)
    assert told(world) == [("a1", "no", "it offers 1 gpu, 3 is needed")]


def test_queues_come_after_room_and_refusals_last(world):
    full = {"cpu": 2}
    world.agent("a1", cpu=2, used=full, queued=1, prefetch=2).agent("a2", cpu=2, used=full, prefetch=2)
    world.agent("a3", cpu=2, used={"cpu": 1}).agent("a4", cpu=2, queued=1).agent("a5", cpu=1, memory=9)
    world.agent("a6", cpu=2, more={"suspect": True}).agent("a7", cpu=2).agent("a8", cpu=4, labels={"zone": "z"})
    world.reserved = {"a7": shape_of({"cpu": 1000}, {})}
    world.task("any", cpu=2, more={"avoid_hard": ("a8",)})
    assert told(world) == [
        ("a2", "queue", "its queue has room: 0 would be ahead of it"),
        ("a1", "queue", "its queue has room: 1 would be ahead of it"),
        ("a3", "no", "1 cpu is free, 2 is needed"),
        ("a4", "no", "its queue is full (1 wait), and no task passes a queue"),
        ("a5", "no", "it offers 1 cpu, 2 is needed"),
        ("a7", "no", "it is reserved for a task that waited too long"),
        ("a8", "no", "an attempt was lost there, and another agent could run it"),
        ("a6", "no", "the leader has not heard it for a while"),
    ]


def test_labels_and_the_only_agent(world):
    world.agent("a1", cpu=2, labels={"zone": "b"}).agent("a2", cpu=2, labels={"zone": "a"})
    world.policy = "first-come"
    world.task("any", labels={"zone": "a"}, more={"avoid_hard": ("a2",)})
    assert told(world) == [
        ("a2", "run", "has room now; an attempt was lost or failed there, and no other agent could ever run it"),
        ("a1", "no", "it does not have the label zone=a"),
    ]


def test_an_agent_on_which_something_runs_is_not_for_an_exclusive_task(world):
    world.agent("a1", cpu=2, more={"running": 1}).agent("a2", cpu=4)
    world.queue.add(ReadyTask(workflow_id="wf", task=0, shape=shape_of({"cpu": 1000}, {}, exclusive=True)))
    assert told(world) == [
        ("a2", "run", "has room now; leaves 0% of it free"),
        ("a1", "no", "other tasks run there, and the task is exclusive"),
    ]


NAMES = [f"a{n}" for n in range(5)]
AGENTS = st.lists(
    st.fixed_dictionaries(
        {
            "used": st.integers(0, 3),
            "gpu": st.integers(0, 1),
            "queued": st.integers(0, 2),
            "pressure": st.integers(0, 1),
            "speed": st.sampled_from([500, 1_000]),
            "given": st.integers(0, 1),
        }
    ),
    min_size=1,
    max_size=5,
)
SOME = st.lists(st.sampled_from(NAMES), unique=True, max_size=3).map(tuple)


@pytest.mark.parametrize("policy", PLACEMENT_RULES)
@settings(max_examples=80, derandomize=True, deadline=None)
@given(agents=AGENTS, cpu=st.integers(1, 3), near=SOME, avoid=SOME, lost=SOME)
def test_the_first_candidate_is_the_one_that_is_taken(new_world, policy, agents, *, cpu, near, avoid, lost):
    world = new_world()
    world.policy = policy
    for name, agent in zip(NAMES, agents, strict=False):
        more = {key: agent[key] for key in ("pressure", "speed", "given")}
        world.agent(name, cpu=3, gpu=agent["gpu"], used={"cpu": agent["used"]}, queued=agent["queued"], prefetch=2,
                    more=more)  # fmt: skip
    world.task("any", cpu=cpu, more={"near": near, "avoid": avoid, "avoid_hard": lost})
    view = world.view()
    found = candidates(view, only(world), 9)
    taken = [placement.agent for placement in place(view)]
    assert taken == [each.agent for each in found if each.where != "no"][:1]
    assert len(found) == len(agents)
    # The order of the agents in the view does not matter.
    turned = msgspec.structs.replace(view, agents=view.agents[::-1])
    assert [placement.agent for placement in place(turned)] == taken
