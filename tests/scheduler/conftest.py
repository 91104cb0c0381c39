"""A world in three lines: agents, tasks, and what is expected of a decision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftflow.domain.tasks.feasibility import AgentRoom, ReadyTask, Shape, fits_now, shape_of, suits
from raftflow.scheduler.place import place
from raftflow.scheduler.queue.ready_queue import ReadyQueue
from raftflow.scheduler.view import PlacementView

DIMENSIONS = {"memory": 1}


class World:
    """Agents and ready tasks. Amounts are whole units (`cpu=2`), memory is in MiB."""

    def __init__(self) -> None:
        self.rooms: list[AgentRoom] = []
        self.queue = ReadyQueue()
        self.names: dict[tuple[str, int], str] = {}
        self.expected: dict[str, str | None] = {}
        self.full: list[AgentRoom] = []
        self.policy = "critical-path"
        self.budgets: dict[str, int] = {}
        self.reserved: dict[str, Shape] = {}
        self.rate_units: dict[str, int] = {}

    def agent(
        self,
        name: str,
        *,
        used: dict[str, int] | None = None,
        queued: int = 0,
        prefetch: int = 0,
        labels: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
        **capacity: int,
    ) -> World:
        """Add an agent; `more` are other fields of its room, and `full` for one that is up and has no room."""
        more = dict(more or {})
        rooms = self.full if more.pop("full", False) else self.rooms
        units = {key: amount * DIMENSIONS.get(key, 1000) for key, amount in capacity.items()}
        free = {key: amount - (used or {}).get(key, 0) * DIMENSIONS.get(key, 1000) for key, amount in units.items()}
        rooms.append(
            AgentRoom(
                name=name,
                incarnation=len(self.rooms) + 1,
                capacity=units,
                free=free,
                labels=labels or {},
                queued=queued,
                prefetch=prefetch,
                **more,
            )
        )
        return self

    def task(
        self,
        name: str,
        on: str | None = None,
        *,
        priority: int = 50,
        rank: int = 0,
        labels: dict[str, str] | None = None,
        workflow: str = "wf",
        exclusive: bool = False,
        more: dict[str, Any] | None = None,
        **demand: int,
    ) -> World:
        """Add a ready task that is expected on an agent: `a1` at once, `a1+` in its queue, None nowhere.

        `more` are other fields of the task.
        """
        number = len(self.names)
        age = (more or {}).get("age", 0)
        if workflow == "wf" and (priority != 50 or age):  # they are the workflow's: another one
            workflow = f"{workflow}-{priority}-{age}"
        demand = demand or {"cpu": 1}
        units = {key: amount * DIMENSIONS.get(key, 1000) for key, amount in demand.items()}
        self.queue.add(
            ReadyTask(
                workflow_id=workflow,
                task=number,
                shape=shape_of(units, labels or {}, exclusive=exclusive),
                priority=priority,
                rank=rank,
                number=1,
                **(more or {}),
            )
        )
        self.names[workflow, number] = name
        self.expected[name] = on
        return self

    def tasks(self, count: int, on: str | None = None, **more: Any) -> World:
        for _ in range(count):
            self.task(f"t{len(self.names)}", on, **more)
        return self

    def view(self, placements_max: int = 100) -> PlacementView:
        return PlacementView(
            agents=tuple(self.rooms),
            groups=self.queue.groups(placements_max, self.budgets, self.rate_units),
            placements_max=placements_max,
            policy=self.policy,
            full=tuple(self.full),
            budgets=self.budgets,
            reserved=self.reserved,
            rate_units=self.rate_units,
        )

    def decide(self, placements_max: int = 100) -> list[tuple[str, str]]:
        """Return (task, agent) in order, `+` behind an agent whose queue it joins; check that each holds."""
        view = self.view(placements_max)
        placements = place(view)
        assert placements == place(view)
        assert len(placements) <= placements_max
        assert len({(placement.workflow_id, placement.task) for placement in placements}) == len(placements)
        shapes = {(task.workflow_id, task.task): task.shape for group in view.groups for task in group.tasks}
        free = {room.name: dict(room.free) for room in self.rooms}
        queued = {room.name: room.queued for room in self.rooms}
        rooms = {room.name: room for room in self.rooms}
        running = {room.name: room.running for room in self.rooms}
        alone = {room.name: room.alone for room in self.rooms}
        decided = []
        for placement in placements:
            shape = shapes[placement.workflow_id, placement.task]
            room = rooms[placement.agent]
            assert placement.incarnation == room.incarnation
            assert suits(shape, room.capacity, room.labels)
            fits = fits_now(shape, free[room.name], running=running[room.name], alone=alone[room.name])
            waits = bool(queued[room.name]) or not fits
            if waits:
                queued[room.name] += 1
                assert queued[room.name] <= room.prefetch
            else:
                running[room.name] += 1
                alone[room.name] = shape.exclusive
                for name, amount in shape.demand:
                    free[room.name][name] -= amount
            decided.append((self.names[placement.workflow_id, placement.task], room.name + "+" * waits))
        return decided

    def check(self, placements_max: int = 100) -> None:
        decided = dict(self.decide(placements_max))
        assert {name: decided.get(name) for name in self.expected} == self.expected


@pytest.fixture(scope="session")
def new_world() -> Callable[[], World]:
    return World


@pytest.fixture
def world() -> World:
    return World()
