"""Kept agents: what is large runs against any stream of what is small."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain.tasks.feasibility import AgentRoom, ReadyTask, shape_of
from raftflow.scheduler.place import Decision, decide
from raftflow.scheduler.queue.ready_queue import ReadyQueue
from raftflow.scheduler.reservations import WAIT_MS, Reservations, ReservedUse, fits_at_ms
from raftflow.scheduler.view import PlacementView

SMALL, LARGE, HUGE = (shape_of({"cpu": cpu}, {}) for cpu in (1_000, 4_000, 8_000))


def room(name: str, cpu: int = 4_000, free: int = 0, **more) -> AgentRoom:
    return AgentRoom(name=name, incarnation=1, capacity={"cpu": cpu}, free={"cpu": free}, **more)


def decision(*, placed=(), overtaken=()) -> Decision:
    return Decision(placements=[], placed=placed, overtaken=overtaken)


def rooms(*each: AgentRoom) -> dict[str, AgentRoom]:
    return {one.name: one for one in each}


def nothing(_name: str) -> list[ReservedUse]:
    return []


WAITING = {SMALL: 1, LARGE: 1, HUGE: 1}


def test_an_agent_is_kept_after_a_while_and_until_the_shape_is_placed():
    kept = Reservations()
    assert kept.next_ms() is None
    assert kept.idle
    kept.note(1_000, decision(placed=(SMALL,), overtaken=(LARGE,)), WAITING)
    kept.note(2_000, decision(overtaken=(LARGE,)), WAITING)
    fleet = rooms(room("a1"), room("a2"))
    assert kept.next_ms() == 1_000 + WAIT_MS
    assert not kept.idle
    assert kept.choose(999 + WAIT_MS, fleet, nothing) == {}
    assert kept.choose(1_000 + WAIT_MS, fleet, nothing) == {"a1": LARGE}
    assert kept.next_ms() is None
    kept.note(50_000, decision(placed=(SMALL,)), WAITING)
    assert kept.choose(50_000, fleet, nothing) == {"a1": LARGE}
    kept.note(60_000, decision(placed=(LARGE,)), WAITING)
    assert kept.choose(99_000, fleet, nothing) == {}


def test_what_no_longer_waits_keeps_nothing():
    kept = Reservations()
    kept.note(0, decision(overtaken=(LARGE,)), WAITING)
    assert kept.choose(WAIT_MS, rooms(room("a1")), nothing) == {"a1": LARGE}
    kept.note(WAIT_MS, decision(), {SMALL: 1})
    assert kept.choose(WAIT_MS, rooms(room("a1")), nothing) == {}


@pytest.mark.parametrize("gone", [{}, {"a1": room("a1", suspect=True)}])
def test_another_agent_is_kept_when_the_first_goes(gone):
    kept = Reservations()
    kept.note(0, decision(overtaken=(LARGE,)), WAITING)
    assert kept.choose(WAIT_MS, rooms(room("a1"), room("a2")), nothing) == {"a1": LARGE}
    assert kept.choose(WAIT_MS, {**gone, "a2": room("a2")}, nothing) == {"a2": LARGE}


def test_few_agents_are_kept_at_a_time():
    kept = Reservations()
    kept.note(0, decision(overtaken=(HUGE, LARGE, SMALL)), WAITING)
    fleet = rooms(*(room(f"a{n:02}") for n in range(19)))
    assert kept.choose(WAIT_MS, fleet, nothing) == {"a00": LARGE}
    fleet = rooms(*(room(f"a{n:02}", cpu=8_000 if n == 7 else 4_000) for n in range(25)))
    assert kept.choose(WAIT_MS, fleet, nothing) == {"a00": LARGE, "a07": HUGE}


def test_the_agent_on_which_it_fits_first_is_kept():
    ends = {
        "a1": [(90, SMALL.demand), (80, SMALL.demand), (70, SMALL.demand), (60, SMALL.demand)],
        "a2": [(85, LARGE.demand)],
        "a3": [(10, SMALL.demand)],
    }
    fleet = [room("a1"), room("a2"), room("a3")]
    kept = Reservations()
    kept.note(0, decision(overtaken=(LARGE,)), WAITING)
    assert kept.choose(WAIT_MS, rooms(*fleet), ends.__getitem__) == {"a2": LARGE}
    at_ms = [fits_at_ms(LARGE, each, ends[each.name]) for each in fleet]
    assert at_ms[:2] == [90, 85]
    assert at_ms[2] > 10**15
    assert fits_at_ms(shape_of({"cpu": 2_000}, {}), fleet[0], ends["a1"]) == 70
    assert fits_at_ms(SMALL, room("a9", free=1_000), []) == 0
    alone = shape_of({"cpu": 1_000}, {}, exclusive=True)
    assert fits_at_ms(alone, room("a9", free=1_000), ends["a1"]) == 90


class Stream:
    """A fleet without queues, in which small tasks come faster than they can run; large ones are added by tests."""

    def __init__(self, agents: int, cpus: int) -> None:
        self.capacity = {f"a{n}": cpus for n in range(agents)}
        self.running: dict[str, deque[tuple[int, int]]] = {name: deque() for name in self.capacity}
        self.queue = ReadyQueue()
        self.kept = Reservations()
        self.tasks: dict[int, ReadyTask] = {}
        self.started: dict[int, int] = {}
        self.now_s = 0

    def add(self, cpu: int, **more) -> int:
        number = len(self.tasks)
        task = ReadyTask(
            workflow_id="wf", task=number, shape=shape_of({"cpu": cpu}, {}), age=self.now_s // 300, **more
        )
        self.tasks[number] = task
        self.queue.add(task)
        return number

    def free(self, name: str) -> int:
        return self.capacity[name] - sum(cpu for _, cpu in self.running[name])

    def second(self, lasts_s: int) -> None:
        self.now_s += 1
        now_ms = self.now_s * 1_000
        for name, running in self.running.items():
            self.running[name] = deque(each for each in running if each[0] > self.now_s)
        fleet = {
            name: AgentRoom(name=name, incarnation=1, capacity={"cpu": cpus}, free={"cpu": self.free(name)})
            for name, cpus in self.capacity.items()
        }

        def holdings(name: str) -> list[ReservedUse]:
            return [(end_s * 1_000, (("cpu", cpu),)) for end_s, cpu in self.running[name]]

        groups = self.queue.groups(50)
        made = decide(
            PlacementView(
                agents=tuple(fleet.values()),
                groups=groups,
                placements_max=50,
                reserved=self.kept.choose(now_ms, fleet, holdings),
            )
        )
        for placement in made.placements:
            cpu = dict(self.tasks[placement.task].shape.demand)["cpu"]
            assert self.free(placement.agent) >= cpu
            self.running[placement.agent].append((self.now_s + lasts_s, cpu))
            self.started[placement.task] = self.now_s
            self.queue.discard("wf", placement.task)
        self.kept.note(now_ms, made, dict.fromkeys(group.shape for group in self.queue.groups(1)))


@settings(max_examples=12, derandomize=True, deadline=None)
@given(
    agents=st.integers(1, 3),
    cpus=st.integers(2, 5),
    lasts=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    urgent=st.integers(0, 100),
)
def test_nothing_that_fits_somewhere_starves(agents, cpus, lasts, urgent):
    """One task wants a whole agent, while small ones, more urgent or less, never stop coming."""
    world = Stream(agents, cpus)
    for _ in range(agents * cpus):
        world.add(1)
    world.second(lasts[0])
    large = world.add(cpus)
    # It is overtaken until ageing has brought it to the front, at most 100 minutes, and then for `WAIT_MS`.
    patience_s = 10 + 60 * max(0, urgent - 50 + 5) + WAIT_MS // 1_000 + 2 * max(lasts)
    for second in range(patience_s):
        while len(world.queue) < agents * cpus + 1:
            world.add(1, priority=urgent)
        world.second(lasts[second % len(lasts)])
        if large in world.started:
            break
    assert large in world.started
    # And the agents are given back.
    world.second(1)
    assert world.kept.choose(world.now_s * 1_000, {}, nothing) == {}


def test_without_kept_agents_it_would_starve(monkeypatch):
    """The stream of the property above does what it is there for."""
    monkeypatch.setattr("raftflow.scheduler.reservations.WAIT_MS", 10**9)
    world = Stream(1, 2)
    world.add(1)
    world.second(2)
    # From here on one of the two processors becomes free every second.
    for second in range(300):
        while len(world.queue) < 4:
            world.add(1)
        if second == 2:
            large = world.add(2, rank=9)
        world.second(2)
    assert large not in world.started
