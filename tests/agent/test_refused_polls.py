"""Polls and registrations that a coordinator refuses: what is at fault is found, everything else goes through."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftflow.agent.exchange.leader import RefusedError
from raftflow.agent.exchange.poll_items import PollItems, RefusalSearch
from raftflow.domain.contract.views import (
    AgentLoad,
    AttemptUsage,
    LogPiece,
    PollRequest,
    RegisterRequest,
    ReportedEnd,
)


def end(fence: int) -> ReportedEnd:
    return ReportedEnd(fence=fence, workflow_id="w", task_id="t", outcome="succeeded")


def key(item: Any) -> Any:
    return getattr(item, "fence", None) or getattr(item, "request", "load")


# --- the search


class Door:
    """Refuses polls with certain items, and finds out what a search does about it."""

    def __init__(self, wrong: set[Any], *, refuses_all: bool = False) -> None:
        self.wrong = wrong
        self.refuses_all = refuses_all
        self.sent: list[list[Any]] = []
        self.taken: list[Any] = []
        self.guilty: list[Any] = []
        self.search = RefusalSearch()

    def send(self, portion: PollItems) -> None:
        keys = [key(item) for item in portion.items()]
        self.sent.append(keys)
        if self.refuses_all or self.wrong & {*keys}:
            found = self.search.refused(portion, "because")
        else:
            self.taken += keys
            found = self.search.answered(portion)
        if found is not None:
            assert found.why == "because"
            self.guilty.append(key(found.item))

    def continue_polling(self, *, bare_every: int = 1_000) -> None:
        while self.search.going_on:
            self.send(self.search.next(bare=len(self.sent) % bare_every == 0))
            assert len(self.sent) < 10_000


def poll_items(count: int) -> PollItems:
    return PollItems(
        [end(fence) for fence in range(1, count + 1)],
        [LogPiece(request=f"r{n}", data=b"", size=0, truncated=False, complete=True) for n in range(2)],
        [AttemptUsage(fence=1_000 + n) for n in range(2)],
        AgentLoad(),
    )


@given(st.sets(st.integers(1, 40)), st.sets(st.sampled_from(["r0", "r1", 1_000, 1_001, "load"])), st.integers(2, 9))
def test_exactly_what_is_at_fault_is_found_and_all_else_goes_through_in_order(
    ends: set[int], others: set[Any], bare_every: int
) -> None:
    door = Door({*ends, *others})
    whole = poll_items(40)
    door.send(whole)
    door.continue_polling(bare_every=bare_every)
    keys = [key(item) for item in whole.items()]
    assert set(door.guilty) == door.wrong
    assert door.taken == [item for item in keys if item not in door.wrong]
    refused = [sent for sent in door.sent if door.wrong & {*sent}]
    singles = [sent for sent in refused if len(sent) == 1]
    assert len({tuple(sent) for sent in refused}) == len(refused), "no refused poll is sent again as it is"
    assert len(singles) == len(door.wrong)
    assert len(refused) <= max(len(door.wrong), 0) * 7
    assert not door.search.active or door.wrong, "nothing is left of a search that is over"


def test_nothing_is_blamed_while_polls_without_items_are_refused_too() -> None:
    door = Door(set(), refuses_all=True)
    door.send(poll_items(3))
    for _ in range(20):
        door.send(door.search.next(bare=False))
    assert door.sent[1:] == [[]] * 20
    door.refuses_all = False
    door.continue_polling()
    assert door.guilty == []
    assert len(door.taken) == 8


def test_what_was_accused_before_bare_polls_were_refused_is_tried_again() -> None:
    door = Door(set(), refuses_all=True)
    door.send(PollItems([end(1)], [], [], None))
    door.send(door.search.next(bare=False))
    door.refuses_all = False
    door.continue_polling()
    assert (door.guilty, door.taken) == ([], [1])


def test_a_second_accusation_waits_for_its_turn() -> None:
    door = Door({1, 2})
    door.send(PollItems([end(1)], [], [], None))
    door.send(PollItems([end(2)], [], [], None))  # it was on its way
    door.continue_polling()
    assert sorted(door.guilty) == [1, 2]
    assert door.taken == []


def test_a_search_that_is_cleared_is_over() -> None:
    door = Door({1})
    door.send(poll_items(3))
    door.search.clear()
    assert not door.search.active


# --- an agent and a leader


ADD = {"python": "operator:add", "args": [40, 2]}


@pytest.fixture
def picky(leader: Any) -> Any:
    leader.poll_wait_ms = 300
    return leader


def items_of(request: Any) -> list[Any]:
    if isinstance(request, RegisterRequest):
        return [key(item) for item in request.offers]
    return [key(item) for item in PollItems(request.ends, request.logs, request.usage, request.load).items()]


def assert_reported_once(requests: list[Any]) -> None:
    """No refused request with items was sent again as it was."""
    told = [(items_of(request), [end.outcome for end in getattr(request, "ends", [])]) for request in requests]
    bodies = [str(body) for body in told if body[0]]
    assert len({*bodies}) == len(bodies)


def refuse_ends(wrong: set[int], status: int = 400) -> Callable[[Any], int]:
    def refuses(request: Any) -> int:
        ends = request.ends if isinstance(request, PollRequest) else []
        return status if any(end.fence in wrong and end.outcome == "succeeded" for end in ends) else 0

    return refuses


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_ends_that_are_refused_become_failed_attempts_and_all_others_go_through(
    picky: Any, start_agent: Any, tmp_path: Path, status: int
) -> None:
    picky.refuses = refuse_ends({3, 4, 9}, status)
    picky.hold_reports = asyncio.Event()
    start_agent(resources={"cpu": 1})
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    fences = await picky.assign(*[ADD] * 12, {"command": ["sh", "-c", f"echo > {fifo}; cat {fifo}"]})
    await asyncio.to_thread(fifo.read_text)
    picky.hold_reports.set()
    await picky.until(lambda: len(picky.accepted) == 12)
    outcomes = [picky.accepted[fence].outcome for fence in fences[:12]]
    assert outcomes == ["succeeded"] * 2 + ["failed"] * 2 + ["succeeded"] * 4 + ["failed"] + ["succeeded"] * 3
    assert "the coordinator refuses the result: " in picky.accepted[3].error
    assert str(status) in picky.accepted[3].error
    assert bytes(picky.accepted[3].result) == b"null"
    assert_reported_once(picky.refused_requests)
    assert len(picky.registrations) == 1
    await asyncio.to_thread(fifo.write_text, "")
    await picky.until(lambda: len(picky.accepted) == 13)


async def test_an_end_that_is_refused_even_without_its_result_is_dropped_and_the_agent_goes_on(
    picky: Any, start_agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    picky.refuses = lambda poll: 400 if any(end.fence == 1 for end in getattr(poll, "ends", [])) else 0
    start_agent()
    await picky.assign(ADD, ADD)
    await picky.until(lambda: 2 in picky.accepted)
    await picky.until(lambda: picky.polls[-1].ends == [] and picky.polls[-1].seen == 2 and 1 in picky.missing)
    assert "takes no end of attempt 1" in caplog.text
    assert_reported_once(picky.refused_requests)
    picky.missing.clear()
    picky.live.clear()
    assert (await picky.run(**ADD)).outcome == "succeeded"


async def test_the_lease_is_kept_while_many_polls_are_refused(picky: Any, start_agent: Any, tmp_path: Path) -> None:
    """Every end of many is refused, each refusal takes its time, and what runs is not stopped."""
    picky.lease_ms = 1_000
    picky.poll_wait_ms = 100

    def refuses(request: Any) -> int:
        return refuse_ends({*range(2, 200)})(request)

    picky.refuses = refuses
    original = picky._refuse

    async def slowly(request: Any) -> Any:
        answer = await original(request)
        if answer is not None:
            await asyncio.sleep(0.06)
        return answer

    picky._refuse = slowly
    picky.hold_reports = asyncio.Event()
    start_agent(resources={"cpu": 2})
    fifos = [tmp_path / name for name in ("runs", "ended")]
    for fifo in fifos:
        os.mkfifo(fifo)
    (runs,) = await picky.assign({"command": ["sh", "-c", f"cat {fifos[0]}"]})
    await picky.assign(*[ADD] * 20, {"command": ["sh", "-c", f"echo > {fifos[1]}"]})
    await asyncio.to_thread(fifos[1].read_text)
    picky.hold_reports.set()
    await picky.until(lambda: len(picky.accepted) >= 21, 30)
    assert len(picky.refused_requests) > 30
    await asyncio.to_thread(fifos[0].write_text, "")
    assert (await picky.end_of(runs)).outcome == "succeeded", "nobody has stopped it"
    assert len(picky.registrations) == 1


async def test_load_and_usage_and_output_that_are_refused_are_told_no_more(
    picky: Any, start_agent: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(request: Any) -> int:
        if not isinstance(request, PollRequest):
            return 0
        wrong = request.load is not None or request.usage or any(piece.data for piece in request.logs)
        return 422 if wrong else 0

    picky.refuses = refuses
    start_agent()
    assert (await picky.run(**ADD)).outcome == "succeeded"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (fence,) = await picky.assign({"command": ["sh", "-c", f"echo text; echo > {fifo}; cat {fifo}"]})
    await asyncio.to_thread(fifo.read_text)
    piece = await picky.log_of(fence, "stdout")
    while not piece.error:
        piece = await picky.log_of(fence, "stdout")
    assert "the coordinator refuses the output: " in piece.error

    def usage_refused() -> bool:
        polls = [request for request in picky.refused_requests if isinstance(request, PollRequest)]
        return any(usage.fence == fence for poll in polls for usage in poll.usage)

    await picky.until(usage_refused)
    await asyncio.to_thread(fifo.write_text, "")
    assert (await picky.end_of(fence)).outcome == "succeeded"
    refused = len(picky.refused_requests)
    assert (await picky.run(**ADD)).outcome == "succeeded"
    assert len(picky.refused_requests) == refused, "it has learnt"
    assert_reported_once(picky.refused_requests)
    for words in ("refuses the load of this machine", f"refuses the usage of attempt {fence}"):
        assert caplog.text.count(words) == 1


async def test_a_poll_without_items_that_is_refused_blames_nobody_and_is_not_repeated_at_once(
    picky: Any, start_agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    picky.refuses = lambda request: 400 if isinstance(request, PollRequest) and request.seen else 0
    start_agent()
    await picky.assign(ADD, ADD)
    await picky.until(lambda: picky.refused_requests and not items_of(picky.refused_requests[-1]))
    began = len(picky.refused_requests)
    await asyncio.sleep(1.0)
    assert len(picky.refused_requests) <= began + 1
    assert "this agent cannot repair that" in caplog.text
    picky.refuses = lambda _request: 0
    await picky.until(lambda: len(picky.accepted) == 2)
    assert {end.outcome for end in picky.accepted.values()} == {"succeeded"}


async def test_a_refusal_that_is_about_the_sender_divides_nothing(picky: Any, start_agent: Any) -> None:
    start_agent()
    await picky.until(lambda: picky.polls)
    picky.refuses = lambda request: 401 if getattr(request, "ends", None) else 0
    await picky.assign(ADD)
    await picky.until(lambda: len(picky.refused_requests) >= 2)
    picky.refuses = lambda _request: 0
    assert (await picky.end_of(1)).outcome == "succeeded"


async def test_of_offers_that_are_refused_only_those_at_fault_are_dropped(
    picky: Any, start_agent: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start_agent(resources={"cpu": 1})
    await picky.run(**ADD)
    picky.refuses = lambda request: 503 if getattr(request, "ends", None) else 0
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    await picky.assign(*[ADD] * 7, {"command": ["sh", "-c", f"echo > {fifo}; sleep 300"], "grace_ms": 10})
    await asyncio.to_thread(fifo.read_text)
    picky.lose_agent()
    wrong = {3, 6}
    picky.refuses = lambda request: 422 if any(end.fence in wrong for end in getattr(request, "offers", [])) else 0
    await picky.notify()
    await picky.until(lambda: picky.polls and picky.polls[-1].incarnation > 1)
    offered = [offer.fence for request in picky.registrations for offer in request.offers]
    assert sorted(offered) == [2, 4, 5, 7, 8]
    assert caplog.text.count("dropping 1 results") == 2
    assert_reported_once([request for request in picky.refused_requests if isinstance(request, RegisterRequest)])
    picky.refuses = lambda _request: 0
    assert (await picky.run(**ADD)).outcome == "succeeded"


async def test_an_agent_whose_registration_is_refused_ends_and_says_why(
    picky: Any, start_agent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    picky.refuses = lambda _request: 400
    assert await asyncio.wait_for(start_agent(), 10) == 4
    assert len(picky.refused_requests) == 1
    assert "the coordinator refuses this agent: 400 invalid-document: as the test wants" in caplog.text


def test_statuses_that_are_about_the_content() -> None:
    about = [status for status in range(300, 600) if RefusedError(status, "").about_content]
    assert {400, 411, 413, 414, 415, 422} <= {*about}
    assert not {*about} & {401, 403, 404, 408, 409, 425, 429}
    assert all(400 <= status < 500 for status in about)


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
