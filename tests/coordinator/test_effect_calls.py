"""Calls about effects: from an attempt's words to commands, and back to answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.domain.contract.views import CallsRequest, CloseEffect, EffectClosed, EffectOpened, OpenEffect
from raftflow.machine.read import steps as step_reads
from raftflow.machine.read.effects import effect_page, find_effect, list_effects


class Calling:
    """A running attempt."""

    def __init__(self, bench: Any, incarnation: int, fence: int, workflow_id: str) -> None:
        self.bench, self.incarnation, self.fence, self.workflow_id = bench, incarnation, fence, workflow_id

    async def ask(self, *calls: Any) -> list[Any]:
        request = msgspec.json.encode(CallsRequest(incarnation=self.incarnation, calls=list(calls)))
        decoded = msgspec.json.decode(request, type=CallsRequest)
        return (await self.bench.replica.attempt_calls.answer("a1", decoded)).answers

    async def begin(self, begin: int = 1, name: str = "send", fence: int = 0) -> Any:
        call = OpenEffect(fence=fence or self.fence, begin=begin, name=name, occurrence=1, function="f")
        return (await self.ask(call))[0]

    async def end(self, outcome: Any, result: bytes = b"null", begin: int = 1) -> Any:
        call = CloseEffect(
            fence=self.fence, begin=begin, name="send", occurrence=1, outcome=outcome, result=msgspec.Raw(result)
        )
        return (await self.ask(call))[0]


@pytest.fixture
async def calling(bench: Any) -> Calling:
    one = await bench()
    incarnation = await one.register(cpu=4)
    workflow_id = await one.submit("t")
    (assignment,) = (await one.work(incarnation, 1)).assign
    return Calling(one, incarnation, assignment.fence, workflow_id)


async def test_an_effect_from_its_beginning_to_its_end(calling: Calling) -> None:
    begun = await calling.begin()
    key = f"{calling.workflow_id}/t/send/1"
    assert begun == EffectOpened(status="begun", number=1, idempotency_key=key)
    assert await calling.begin() == begun
    assert await calling.end("done", b'{"id":1}') == EffectClosed()
    (known,) = (await calling.begin(2)).steps
    assert bytes(known.result) == b'{"done":{"id":1}}'


async def test_many_calls_in_one_request(calling: Calling) -> None:
    calls = [
        OpenEffect(fence=calling.fence, begin=number, name="send", occurrence=number, function="f")
        for number in (1, 2, 3)
    ]
    assert [answer.number for answer in await calling.ask(*calls)] == [1, 2, 3]


async def test_what_is_refused(calling: Calling) -> None:
    assert (await calling.begin(fence=99)).type == "stale"
    assert (await calling.end("done")).type == "invalid"
    await calling.begin()
    assert (await calling.end("done", b"1", begin=7)).type == "stale"
    assert (await calling.end("done", b"[" * 200 + b"]" * 200)).type == "invalid"
    assert await calling.end("not_done") == EffectClosed()


async def test_an_attempt_that_ends_meanwhile_is_told_so(calling: Calling, monkeypatch: pytest.MonkeyPatch) -> None:
    await calling.begin()
    await calling.end("done", b"1")
    monkeypatch.setattr(step_reads, "known_steps", lambda *_, **__: None)
    assert (await calling.begin(2)).type == "stale"


async def test_what_people_see(calling: Calling) -> None:
    machine = calling.bench.machine
    await calling.begin()
    await calling.begin(2, "other")
    await calling.end("done", b"1")
    assert [(each.name, each.state) for each in list_effects(machine)] == [("send", "done"), ("other", "begun")]
    assert [each.id for each in list_effects(machine, unresolved=True)] == [2]
    assert [each.id for each in list_effects(machine, limit=1)] == [1]
    page = effect_page(machine, 1, None, unresolved=False)
    assert [each.id for each in page.effects] == [1]
    assert [each.id for each in effect_page(machine, 1, page.next, unresolved=False).effects] == [2]
    assert find_effect(machine, 9) is None
    assert list_effects(machine, workflow_id="none") == []
    assert len(list_effects(machine, workflow_id=calling.workflow_id)) == 2
    shown = find_effect(machine, 2)
    assert shown is not None and (shown.task, shown.function, shown.fence) == ("t", "f", calling.fence)
    assert shown.idempotency_key == f"{calling.workflow_id}/t/other/1"
