"""Calls about children: from an attempt's words to commands, and back to answers."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from raftflow.coordinator.calls import child_calls
from raftflow.domain import limits
from raftflow.domain.contract.views import CallsRequest, FindChildren, SpawnChildren, StopChildren
from raftflow.machine.read import children as child_reads


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


class Parent:
    """A running attempt of a task on an agent with some CPUs."""

    def __init__(self, bench: Any, incarnation: int, fence: int, workflow_id: str) -> None:
        self.bench, self.incarnation, self.fence, self.workflow_id = bench, incarnation, fence, workflow_id
        self.seq = 1

    async def ask(self, *calls: Any) -> list[Any]:
        request = msgspec.json.encode(CallsRequest(incarnation=self.incarnation, calls=list(calls)))
        decoded = msgspec.json.decode(request, type=CallsRequest)
        return (await self.bench.replica.attempt_calls.answer("a1", decoded)).answers

    async def spawn(self, *tasks: Any, **defaults: Any) -> Any:
        call = SpawnChildren(fence=self.fence, tasks=[raw(task) for task in tasks], defaults=raw(defaults))
        return (await self.ask(call))[0]

    async def find(self, **fields: Any) -> Any:
        return (await self.ask(FindChildren(fence=self.fence, **fields)))[0]

    async def report(self, *ends: Any, running: Any = ()) -> Any:
        """Report ends, and return what is to run."""
        self.seq += 1
        answer = await self.bench.work(
            self.incarnation, self.seq, ends=list(ends), running=list(running), seen=self.fence
        )
        return {item.task_id: item for item in answer.assign}


@pytest.fixture
async def parent(bench: Any) -> Parent:
    one = await bench()
    incarnation = await one.register(cpu=4)
    workflow_id = await one.submit("t")
    (assignment,) = (await one.work(incarnation, 1)).assign
    return Parent(one, incarnation, assignment.fence, workflow_id)


async def test_children_are_written_as_in_a_document(parent: Parent) -> None:
    answer = await parent.spawn(
        {"id": "a", "args": [1]}, {"id": "b", "args": [2], "resources": {"cpu": 2}}, python="jobs:work", retries=2
    )
    assert answer.children == [1, 2]
    workflow = parent.bench.machine.state.workflows[parent.workflow_id]
    made = [workflow.profiles[task.profile] for task in workflow.tasks[1:]]
    assert [(each.program.function, each.program.args, each.retries) for each in made] == [
        ("jobs:work", b"[1]", 2),
        ("jobs:work", b"[2]", 2),
    ]
    again = await parent.spawn({"id": "b", "python": "jobs:work", "args": [2], "resources": {"cpu": 2}, "retries": 2})
    assert again.children == [2]


@pytest.mark.parametrize(
    ("task", "kind", "words"),
    [
        ({"id": "a"}, "invalid", "tasks[0]"),
        ({"id": "a", "command": ["true"], "needs": ["b"]}, "invalid", "no task has the id 'b'"),
        ({"command": ["true"]}, "invalid", "tasks[0].id: is required"),
        ({"id": "x" * 71, "command": ["true"]}, "invalid", "the limit is 70"),
        ({"id": "known", "command": ["false"]}, "mismatch", "another task under the key 'known'"),
    ],
)
async def test_what_cannot_be_spawned(parent: Parent, task: Any, kind: str, words: str) -> None:
    await parent.spawn({"id": "known", "command": ["true"]})
    refused = await parent.spawn(task)
    assert (refused.type, words in refused.detail) == (kind, True), refused
    assert (await parent.find()).total == 1


async def test_limits_and_ends_of_attempts_are_told_as_such(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CHILDREN_PER_TASK_MAX", 1)
    refused = await parent.spawn(*({"id": key, "command": ["true"]} for key in "ab"))
    assert refused.type == "limit"
    parent.fence += 1
    assert [each.type for each in (await parent.spawn({"id": "a", "command": ["x"]}), await parent.find())] == [
        "stale",
        "stale",
    ]
    (stopped,) = await parent.ask(StopChildren(fence=parent.fence, children=[(0, 9)]))
    assert stopped.type == "stale"


async def test_what_an_attempt_sees_of_its_children(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    spawned = await parent.spawn(*({"id": key, "command": ["true"], "resources": {"cpu": 1}} for key in "abc"))
    end, workflow_id = parent.bench.end, parent.workflow_id
    found = await parent.report(running=[parent.fence])
    assert (await parent.find(keys=["b", "a"])).numbers == [2, 1]
    assert (await parent.find(keys=["z"])).type == "invalid"
    assert "no task at 99" in (await parent.find(children=[(1, 99)])).detail
    running = [parent.fence, found["t:a"].fence]
    parent.bench.clock.ms += 5
    await parent.report(
        end(found["t:c"].fence, workflow_id, "t:c", result=raw("c")), running=[*running, found["t:b"].fence]
    )
    parent.bench.clock.ms += 5
    await parent.report(end(found["t:b"].fence, workflow_id, "t:b", "failed", error="no"), running=running)
    counts = await parent.find()
    assert (counts.total, counts.open, counts.first.number, counts.failed.error) == (3, 1, 3, "no")
    assert (await parent.find(ends=True)).ends == [], "the first has not ended"
    some = await parent.find(children=[(2, 3)], ends=True)
    assert [(each.id, each.state, bytes(each.result)) for each in some.ends] == [
        ("t:b", "failed", b"null"),
        ("t:c", "succeeded", b'"c"'),
    ]
    monkeypatch.setattr(child_reads, "INPUTS_PIECE_COUNT_MAX", 1)
    first = await parent.find(children=[(2, 3)], ends=True)
    assert ([each.number for each in first.ends], first.next) == ([2], 3)
    rest = await parent.find(children=[(2, 3)], ends=True, begin=first.next)
    assert ([each.number for each in rest.ends], rest.next) == ([3], None)
    assert spawned.children == [1, 2, 3]


async def test_many_children_are_counted_bit_by_bit(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_calls, "COUNTED_PER_TURN", 2)
    await parent.spawn(*({"id": key, "command": ["true"], "resources": {"cpu": 9}} for key in "abcde"))
    counting = asyncio.ensure_future(parent.find())
    turns = 0
    while not counting.done():
        turns += 1
        await asyncio.sleep(0)
    assert (counting.result().total, counting.result().open) == (5, 5) and turns > 2


async def test_children_are_cancelled_in_parts(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SPAWN_TASKS_MAX", 2)
    for first in ("ab", "cd", "e"):
        await parent.spawn(*({"id": key, "command": ["true"], "resources": {"cpu": 9}} for key in first))
    (answer,) = await parent.ask(StopChildren(fence=parent.fence, children=[(1, 4), (3, 3)]))
    assert type(answer).__name__ == "ChildrenStopped"
    counts = await parent.find()
    assert (counts.total, counts.open) == (5, 1)


async def test_a_parked_attempt_goes_on_when_its_children_have_ended(parent: Parent) -> None:
    await parent.spawn({"id": "a", "command": ["true"]})
    end, workflow_id = parent.bench.end, parent.workflow_id
    parked = end(parent.fence, workflow_id, "t", "parked", result=raw({"children": [[1, 1]]}))
    found = await parent.report(parked)
    assert list(found) == ["t:a"]
    parent.fence = found["t:a"].fence
    again = await parent.report(end(parent.fence, workflow_id, "t:a", result=raw(7)))
    assert [(task, item.attempt) for task, item in again.items()] == [("t", 2)]


async def test_children_that_are_there_need_no_entry_of_the_log(parent: Parent) -> None:
    a, b = ({"id": key, "command": ["true"], "resources": {"cpu": 8}} for key in "ab")
    assert (await parent.spawn(a)).children == [1]
    before = parent.bench.machine.applied_index
    assert (await parent.spawn(a)).children == [1]
    assert parent.bench.machine.applied_index == before
    assert (await parent.spawn(a, b)).children == [1, 2], "one of them is not there"
    assert parent.bench.machine.applied_index == before + 1
    assert (await parent.spawn(b, a)).children == [2, 1]
    refused = await parent.spawn(a, {**b, "command": ["false"]})
    assert (refused.type, "under the key 'b'" in refused.detail) == ("mismatch", True)
    assert parent.bench.machine.applied_index == before + 2
