"""Children outside of a cluster, and the requests that the SDK makes of them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import raftflow
from raftflow.sdk import children, context
from raftflow.sdk.calls import TaskCalls
from raftflow.sdk.children import ChildFailed, ChildFamily, ChildHandle, TaskParked


@raftflow.task
def double(x: int) -> int:
    return 2 * x


@raftflow.task
async def halve(x: int) -> int:
    return x // 2


def fail(x: int) -> int:
    raise ValueError(x)


CONTEXT = context.Context("wf-1", "t", 1, 1, {})


def test_outside_of_a_cluster_children_run_here() -> None:
    assert CONTEXT.map(double, [1, 2]) == [2, 4] and CONTEXT.map(halve, [4]) == [2]
    assert CONTEXT.race(CONTEXT.spawn(double, 1)) == 2
    both = CONTEXT.map(fail, [1], return_exceptions=True)
    assert isinstance(both[0], ValueError)
    with pytest.raises(ValueError, match="7"):
        CONTEXT.spawn(fail, 7).result()
    with pytest.raises(raftflow.UsageError, match="on a cluster only"):
        CONTEXT.spawn({"command": ["true"]})

    async def main() -> list[Any]:
        one = await CONTEXT.spawn_async(halve, 4)
        failed = await CONTEXT.spawn_async(fail, 4)
        assert isinstance((await CONTEXT.gather_async(failed, return_exceptions=True))[0], ValueError)
        return [await CONTEXT.map_async(double, [1]), await one.result_async(), await CONTEXT.race_async(one)]

    assert asyncio.run(main()) == [[2], 2, 2]


class Agent:
    """Answers requests of the SDK as the test says."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.requests: list[Any] = []

    def call(self, name: str, fields: Any) -> bytes:
        self.requests.append((name, fields))
        answer = self.answers[name]
        return json.dumps(answer(fields) if callable(answer) else answer).encode()


def family_of(agent: Any) -> ChildFamily:
    return ChildFamily(agent, TaskCalls)


def numbered() -> Any:
    """Give numbers to the tasks of spawns, from 1 on."""
    last = [0]

    def answer(fields: Any) -> Any:
        first = last[0] + 1
        last[0] += len(fields["tasks"])
        return {"children": list(range(first, last[0] + 1))}

    return answer


def test_a_large_map_is_spawned_in_parts() -> None:
    agent = Agent(spawn=numbered())
    family = family_of(agent)
    made = family.run(children.spawn_many(family, double, range(600), None))
    assert [len(fields["tasks"]) for _, fields in agent.requests] == [250, 250, 100]
    assert (made[599].key, made[599].number) == ("double.599", 600)
    assert agent.requests[0][1]["defaults"] == {"python": f"{__name__}:double"}
    large = ["x" * 60_000] * 5
    family.run(children.spawn_many(family, double, large, "large"))
    assert [len(fields["tasks"]) for _, fields in agent.requests[3:]] == [2, 2, 1]


def test_keys_are_the_same_in_every_attempt() -> None:
    for _ in range(2):
        agent = Agent(spawn=numbered())
        family = family_of(agent)
        keys = [family.run(children.spawn_one(family, double, (each,), {}, None)).key for each in (1, 2)]
        keys += [each.key for each in family.run(children.spawn_many(family, double, [3], None))]
        keys.append(family.run(children.spawn_one(family, {"command": ["x"]}, (), {}, "own")).key)
        assert keys == ["double", "double-2", "double-3.0", "own"]
    for wrong in ("", "a b", "x" * 71):
        with pytest.raises(raftflow.UsageError, match="the key"):
            family.run(children.spawn_one(family, double, (1,), {}, wrong or "-"))
    with pytest.raises(raftflow.UsageError, match="has its arguments in"):
        family.run(children.spawn_one(family, {"command": ["x"]}, (1,), {}, None))


END = {"number": 2, "id": "t:b", "state": "failed", "error": "no"}


def test_a_gather_raises_the_first_failure_and_parks_else() -> None:
    failing = family_of(Agent(children={"total": 2, "open": 1, "first": END, "failed": END}, park={}))
    handles = [ChildHandle(failing, "a", 1), ChildHandle(failing, "b", 2)]
    with pytest.raises(ChildFailed, match=r"child 'b' \(t:b\) failed: no") as caught:
        failing.run(children.gather(handles, return_exceptions=False))
    assert (caught.value.key, caught.value.state, failing.parked) == ("b", "failed", False)
    with pytest.raises(TaskParked):
        failing.run(children.gather(handles, return_exceptions=True))
    assert failing.parked and not issubclass(TaskParked, Exception)
    assert failing._socket.requests[-1] == ("park", {"children": ((1, 2),), "mode": "all"})  # type: ignore[attr-defined]


def test_results_come_in_pieces_and_in_the_order_of_the_handles() -> None:
    def found(fields: Any) -> Any:
        if not fields.get("ends"):
            return {"total": 2}
        if fields["begin"]:
            return {"ends": [END]}
        return {"ends": [{"number": 1, "id": "t:a", "state": "succeeded", "result": 5}], "next": 2}

    family = family_of(Agent(children=found))
    handles = [ChildHandle(family, "b", 2), ChildHandle(family, "a", 1)]
    failed, ok = family.run(children.gather(handles, return_exceptions=True))
    assert (type(failed), ok) == (ChildFailed, 5)
    assert family.run(children.gather([], return_exceptions=True)) == []


def test_a_race_cancels_what_is_open() -> None:
    first = {"number": 1, "id": "t:a", "state": "succeeded", "result": [1]}
    agent = Agent(children={"total": 2, "open": 1, "first": first}, cancel={})
    family = family_of(agent)
    handles = [ChildHandle(family, "a", 1), ChildHandle(family, "b", 2)]
    assert family.run(children.race(handles)) == [1]
    assert [name for name, _ in agent.requests] == ["children", "cancel"]
    agent.answers["children"] = {"total": 2, "first": END}
    with pytest.raises(ChildFailed):
        family.run(children.race(handles))
    agent.answers |= {"children": {"total": 2, "open": 2}, "park": {}}
    with pytest.raises(TaskParked):
        family.run(children.race(handles))
    with pytest.raises(raftflow.UsageError, match="at least one"):
        family.run(children.race([]))
    with pytest.raises(raftflow.UsageError, match="1001 groups"):
        family.run(children.race([ChildHandle(family, str(each), 2 * each) for each in range(1_001)]))


def test_only_a_parked_task_has_parked(monkeypatch: pytest.MonkeyPatch) -> None:
    family = family_of(Agent(park={}))
    monkeypatch.setattr(context, "_family", family)
    assert not context.has_parked(TaskParked())
    family.parked = True
    assert context.has_parked(TaskParked()) and not context.has_parked(ValueError())
    assert context.has_parked(BaseExceptionGroup("group", [TaskParked(), asyncio.CancelledError()]))
    assert not context.has_parked(ExceptionGroup("group", [ValueError()]))
