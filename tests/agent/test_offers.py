"""An agent that was declared lost brings back what it had finished."""

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw, structs

from raftflow.agent.exchange.attempt_table import AttemptTable
from raftflow.agent.exchange.poll_items import first_of
from raftflow.domain.contract.views import ReportedEnd

ADD = {"python": "operator:add", "args": [40, 2]}


@pytest.fixture
def online(leader: Any) -> Any:
    leader.poll_wait_ms = 300
    return leader


async def lose(leader: Any, registrations: int = 2) -> None:
    """Declare the agent lost, and wait until it has registered anew."""
    leader.lose_agent()
    await leader.notify()
    await leader.until(lambda: len(leader.registrations) == registrations and leader.polls[-1].incarnation > 1)


async def test_a_success_that_nobody_heard_of_is_offered_once(online: Any, start_agent: Any) -> None:
    start_agent()
    heard = await online.run(**ADD)
    online.deaf_polls = 1
    (fence,) = await online.assign({**ADD, "task_id": "kept"})
    await online.until(lambda: online.reports[-1].fence == fence)
    await lose(online)
    first, second = online.registrations
    assert first.offers == []
    (offer,) = second.offers
    assert (offer.fence, offer.task_id, offer.outcome, bytes(offer.result)) == (fence, "kept", "succeeded", b"42")
    assert heard.fence != fence
    await lose(online, 3)
    assert online.registrations[2].offers == []


async def test_what_did_not_succeed_is_void(online: Any, start_agent: Any, tmp_path: Path) -> None:
    start_agent(resources={"cpu": 3})
    os.mkfifo(tmp_path / "fifo")
    online.deaf_polls = 1
    fences = await online.assign({"command": ["/bin/false"]}, {"command": ["cat", str(tmp_path / "fifo")]})
    await online.until(lambda: online.reports and online.reports[-1].fence == fences[0])
    await lose(online)
    assert online.registrations[1].offers == []


async def test_offers_are_made_again_until_the_registration_is_answered(online: Any, start_agent: Any) -> None:
    start_agent()
    online.deaf_polls = 1
    (fence,) = await online.assign(ADD)
    await online.until(lambda: online.reports)
    online.deaf_registrations = 2
    await lose(online, 4)
    assert [[offer.fence for offer in seen.offers] for seen in online.registrations] == [[], *[[fence]] * 3]


async def test_an_agent_whose_offers_are_refused_comes_back_without(online: Any, start_agent: Any) -> None:
    start_agent()
    online.deaf_polls = 1
    online.refuses_offers = True
    await online.assign(ADD)
    await online.until(lambda: online.reports)
    await lose(online, 3)
    assert [len(seen.offers) for seen in online.registrations] == [0, 1, 0]
    assert (await online.run(**ADD)).outcome == "succeeded"


def test_the_attempt_table_knows_what_nobody_heard_of() -> None:
    attempt_table = AttemptTable({"cpu": 1000})
    good = ReportedEnd(fence=1, workflow_id="w", task_id="t", outcome="succeeded")
    bad = structs.replace(good, fence=2, outcome="failed")
    late = structs.replace(good, fence=3)
    for end in (good, bad, late):
        attempt_table.end(end)
    attempt_table.refuse([good, bad, structs.replace(good, fence=9)])  # 9 has had a verdict meanwhile
    assert [end.fence for end in attempt_table.unheard()] == [1, 3]
    assert list(attempt_table.ends) == [3]


def test_offers_are_bounded_in_number_and_size() -> None:
    small = ReportedEnd(fence=1, workflow_id="w", task_id="t", outcome="succeeded")
    large = structs.replace(small, result=Raw(b'"' + b"x" * (300 << 10) + b'"'))
    assert len(first_of([small] * 5, 3)) == 3
    assert len(first_of([large] * 5, 3)) == 1
    assert first_of([], 3) == []
