"""What attempts ask their agent about children: words of the socket to calls, and parking."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.domain.contract.views import (
    Assignment,
    ChildEnd,
    ChildrenFound,
    ChildrenSpawned,
    ChildrenStopped,
    FindChildren,
    RefusedCall,
    SpawnChildren,
    StopChildren,
)
from raftflow.domain.tasks.children import ParkCondition, read_condition
from raftflow.domain.tasks.program import CommandLine


class Channel:
    """Answers each call with what the test has prepared."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[Any] = []

    def send(self, call: Any, told: Any) -> None:
        self.calls.append(call)
        told(self.answers.pop(0))

    def forget(self, fence: int) -> None:
        self.calls.append(fence)

    def now_ms(self) -> int:
        return 0


class Asking:
    """An attempt with a channel."""

    def __init__(self, *answers: Any) -> None:
        self.channel = Channel(*answers)
        assignment = Assignment(
            fence=7,
            workflow_id="wf-1",
            workflow_name="w",
            task_id="t",
            attempt=1,
            resources={},
            program=CommandLine(("true",)),
        )
        self.attempt = CallingAttempt(assignment, self.channel)

    def ask(self, call: str, **fields: Any) -> Any:
        lines: list[bytes] = []
        self.attempt.handle(json.dumps({"id": 3, "call": call, **fields}).encode(), lines.append)
        answer = json.loads(lines[0])
        assert answer.pop("id") == 3
        return answer


async def test_a_spawn_is_passed_on_as_it_is() -> None:
    asking = Asking(ChildrenSpawned(children=[4, 5]), RefusedCall(type="limit", detail="too many"))
    tasks = [{"id": "a", "command": ["true"]}]
    assert asking.ask("spawn", tasks=tasks, defaults={"retries": 2}) == {"ok": {"children": [4, 5]}}
    (call,) = asking.channel.calls
    assert isinstance(call, SpawnChildren) and call.fence == 7
    assert json.loads(bytes(call.tasks[0])) == tasks[0] and json.loads(bytes(call.defaults)) == {"retries": 2}
    assert asking.ask("spawn", tasks=tasks) == {"error": {"type": "limit", "detail": "too many"}}
    assert "error" in asking.ask("spawn", tasks=[])


async def test_children_are_shown() -> None:
    end = ChildEnd(number=4, id="t:a", state="failed", error="no")
    asking = Asking(ChildrenFound(total=2, open=1, first=end, failed=end), ChildrenFound(ends=[end], next=5))
    counts = asking.ask("children")["ok"]
    assert (counts["total"], counts["open"], counts["failed"]["error"]) == (2, 1, "no")
    ends = asking.ask("children", children=[[4, 9]], ends=True, begin=4)["ok"]
    assert (ends["ends"][0]["id"], ends["next"]) == ("t:a", 5)
    assert asking.channel.calls[1] == FindChildren(fence=7, children=[(4, 9)], ends=True, begin=4)


async def test_an_attempt_that_parks_asks_nothing_any_more() -> None:
    asking = Asking()
    assert asking.attempt.parked == b""
    assert asking.ask("park", children=[[1, 3]], mode="any") == {"ok": {}}
    assert read_condition(asking.attempt.parked) == ParkCondition(mode="any", children=((1, 3),))
    assert asking.ask("now")["error"]["type"] == "parked"
    assert asking.channel.calls == []


async def test_keys_are_looked_up_before_an_attempt_parks() -> None:
    asking = Asking(RefusedCall(type="invalid", detail="no child"), ChildrenFound(numbers=[2, 9]))
    assert asking.ask("park", keys=["z"])["error"]["detail"] == "no child"
    assert asking.attempt.parked == b""
    assert asking.ask("park", keys=["a", "b"], children=[[4, 5]]) == {"ok": {}}
    assert read_condition(asking.attempt.parked).children == ((4, 5), (2, 2), (9, 9))


async def test_only_named_children_are_cancelled() -> None:
    asking = Asking(ChildrenFound(numbers=[2]), ChildrenStopped(), RefusedCall(type="stale", detail="over"))
    assert asking.ask("cancel")["error"]["type"] == "invalid"
    assert asking.ask("cancel", keys=["a"]) == {"ok": {}}
    assert asking.channel.calls[1] == StopChildren(fence=7, children=[(2, 2)])
    assert asking.ask("cancel", children=[[1, 1]])["error"]["type"] == "stale"


@pytest.mark.parametrize(
    "fields",
    [
        {"keys": ["x" * 71]},
        {"children": [[1]]},
        {"children": [[-1, 2]]},
        {"children": [[1, 2]] * 1_001},
        {"mode": "some"},
        {"keys": "a"},
    ],
)
async def test_odd_requests_are_refused(fields: Any) -> None:
    asking = Asking()
    assert asking.ask("park", **fields)["error"]["type"] == "invalid"
    assert asking.attempt.parked == b"" and msgspec.json.encode(asking.channel.calls) == b"[]"
