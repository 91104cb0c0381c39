"""Tasks that want an agent for themselves."""

from __future__ import annotations

import msgspec
import pytest

from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import AgentAccepted
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.schema.declaration import SnapshotError


@pytest.fixture
def mixed(drive):
    """Tasks t0 and t1 are exclusive, t2 to t4 are not, t4 demands nothing; an agent of 4 CPUs with a queue."""
    drive.register(cpu=4, prefetch=4)
    spec = drive.bag(5, backup=True)
    tasks = [msgspec.structs.replace(task, exclusive=number < 2) for number, task in enumerate(spec.tasks)]
    tasks[4] = msgspec.structs.replace(tasks[4], resources={"cpu": 0})
    drive.submit(msgspec.structs.replace(spec, tasks=tuple(tasks)))
    return drive


def agent(drive):
    return drive.machine.state.agents["a1"]


def test_it_holds_the_whole_agent_and_what_follows_waits(mixed):
    first, *rest = mixed.place(0, 1, 2, 3, 4)
    assert (mixed.states(), mixed.free()) == ("RQQQQ", 0)
    (assignment, *_) = queries.assignments(mixed.machine, "a1", 0)
    assert (assignment.exclusive, assignment.resources) == (True, {"cpu": 4000})
    assert queries.ledger_view(mixed.machine).agents[0].allocated == {"cpu": 4}
    mixed.finish(first)
    assert mixed.states() == "SRQQQ"
    mixed.finish(rest[0])
    assert (mixed.states(), mixed.free()) == ("SSRRR", 2000)


@pytest.mark.parametrize("beside", [2, 4])
def test_it_waits_until_nothing_runs(mixed, beside):
    """Not even what demands nothing."""
    (other,) = mixed.place(beside)
    (fence,) = mixed.place(0)
    assert mixed.states()[0] == "Q"
    mixed.finish(other)
    assert (mixed.states()[0], mixed.queue(), fence) == ("R", [], 2)


def test_nothing_that_demands_nothing_starts_beside_it(mixed):
    mixed.register(cpu=4, prefetch=0)
    mixed.place(0)
    assert mixed.place(4) == (0,)
    assert mixed.place(1) == (0,)


def test_the_capacity_stays_as_it_is_while_it_runs(mixed):
    (fence,) = mixed.place(0)
    for cpu in (3, 5):
        assert mixed.register(cpu=cpu, prefetch=4).code is RejectionCode.CONFLICT
    assert mixed.register(cpu=4, prefetch=1, labels={"zone": "x"}) == AgentAccepted("a1", 1)
    mixed.finish(fence)
    assert mixed.register(cpu=5, prefetch=4) == AgentAccepted("a1", 1)
    assert mixed.free() == 5000


def test_a_lost_agent_gives_it_back(mixed):
    mixed.place(0, 1)
    mixed.remove()
    assert mixed.states() == "EEEEE"


def test_a_backup_of_it_wants_an_agent_for_itself_too(mixed):
    mixed.register("a2", cpu=4)
    mixed.place(0)
    mixed.place(2, agent="a2")
    assert mixed.back_up(0) == (0,)
    mixed.finish(2, agent="a2")
    assert mixed.back_up(0) == (3,)
    assert mixed.free("a2") == 0
    mixed.finish(3, agent="a2")
    assert (mixed.free("a1"), mixed.free("a2")) == (4000, 4000)


def test_the_scheduler_s_picture(mixed):
    (fence,) = mixed.place(2)
    room = queries.agent_room(mixed.machine, "a1")
    assert (room.running, room.alone) == (1, False)
    mixed.finish(fence)
    mixed.place(0, 1)
    room = queries.agent_room(mixed.machine, "a1")
    assert (room.running, room.alone, room.queued, room.free) == (1, True, 1, {"cpu": 0})
    assert queries.holdings(mixed.machine, "a1")[0][1] == (("cpu", 4000),)


def test_a_restored_machine_agrees(mixed):
    mixed.place(0, 1, 2)
    copy = Machine()
    copy.restore(mixed.machine.snapshot())
    restored = copy.state.agents["a1"]
    assert (restored.alone, restored.free, list(restored.queue)) == (True, {"cpu": 0}, [2, 3])


def test_a_snapshot_in_which_it_is_not_alone_is_refused(mixed):
    mixed.place(2)
    mixed.checked = False
    workflow = mixed.machine.state.workflows["wf-1"]
    kept, number = workflow.profiles, mixed.task(2).profile
    mixed.place(3)
    alone = msgspec.structs.replace(kept[number], shape=msgspec.structs.replace(kept[number].shape, exclusive=True))
    workflow.profiles = (*kept[:number], alone, *kept[number + 1 :])
    pieces = list(mixed.machine.snapshot())
    with pytest.raises(SnapshotError, match="more is allocated than it has"):
        Machine().restore(pieces)
    workflow.profiles = kept
