"""The load shedder: how much of the API's work goes into one turn of the loop, and in whose favour."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.api.admission import load_shedder as module
from raftflow.api.admission.load_shedder import STEPS_MAX, STEPS_MIN, LoadShedder, QueueClass
from raftflow.api.http.problems import QUEUE_FULL, ProblemError


async def passes(count: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


class Clock:
    """CPU time that steps use up."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def turns_of(shedder: LoadShedder, steps: int, line: QueueClass, cost_s: float, clock: Clock) -> list[int]:
    """Line up steps and return how many were taken in each turn of the loop."""
    taken = [0]

    def step() -> None:
        clock.now_s += cost_s
        taken[-1] += 1

    for _ in range(steps):
        assert shedder.enqueue(line, step)
    while sum(taken) < steps:
        await asyncio.sleep(0)
        taken.append(0)
    return [count for count in taken if count]


async def test_the_steps_of_a_turn_are_bounded() -> None:
    clock = Clock()
    shedder = LoadShedder(clock)
    assert all(shedder.try_enter(QueueClass.ORDINARY) for _ in range(STEPS_MAX))
    assert not shedder.try_enter(QueueClass.ORDINARY), "the others wait for the next turn"
    counts = await turns_of(shedder, 200, QueueClass.ORDINARY, 0.0, clock)
    assert max(counts) == STEPS_MAX


async def test_turns_that_take_long_get_fewer_steps_and_recover() -> None:
    clock = Clock()
    shedder = LoadShedder(clock)
    slow = await turns_of(shedder, 100, QueueClass.ORDINARY, 0.003, clock)
    assert slow[-2] == STEPS_MIN, "heavy steps: as few as may be"
    quick = await turns_of(shedder, 1_000, QueueClass.ORDINARY, 0.00001, clock)
    assert quick[-2] == STEPS_MAX
    assert shedder.longest_s >= 0.003 * STEPS_MIN


async def test_no_step_waits_behind_all_steps_of_another_class() -> None:
    shedder = LoadShedder(Clock())
    order: list[QueueClass] = []
    for line in (QueueClass.REFUSED, QueueClass.ORDINARY, QueueClass.FAST_PATH):
        for _ in range(100):
            shedder.enqueue(line, lambda line=line: order.append(line))  # type: ignore[misc]
    await passes(50)
    first = order[:STEPS_MAX]
    assert {QueueClass.REFUSED, QueueClass.ORDINARY, QueueClass.FAST_PATH} == set(first)
    assert first.count(QueueClass.FAST_PATH) == 2 * first.count(QueueClass.REFUSED), (
        "what will be refused has the fewest turns"
    )


async def test_with_empty_queues_nothing_waits_and_no_turn_is_scheduled() -> None:
    shedder = LoadShedder(Clock())
    await asyncio.wait_for(shedder.enter(QueueClass.ORDINARY), 30)
    await passes()
    assert not shedder._turn_scheduled
    assert shedder.waiting == 0


async def test_a_full_queue_refuses_and_cancelled_steps_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.WAITING_MAX, QueueClass.ORDINARY, 3)
    shedder = LoadShedder(Clock())
    monkeypatch.setattr(shedder, "_schedule_turn", lambda: None)
    while shedder.try_enter(QueueClass.ORDINARY):
        pass
    waiting = [asyncio.ensure_future(shedder.enter(QueueClass.ORDINARY)) for _ in range(4)]
    await asyncio.sleep(0)
    assert shedder.waiting == 3
    waiting[1].cancel()
    await asyncio.sleep(0)
    shedder._run_turn()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), asyncio.CancelledError, type(None), ProblemError]
    assert isinstance(results[3], ProblemError)
    assert results[3].kind is QUEUE_FULL
    assert results[3].parts()[1]["Retry-After"] == "1"
    assert shedder.refused == 1


async def test_heavy_calls_run_one_at_a_time_and_leave_the_loop_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAVY_WAITING_MAX", 2)
    shedder = LoadShedder(Clock())
    loop = asyncio.get_running_loop()
    log: list[tuple[str, float]] = []
    held = asyncio.Event()

    async def call(*, wait: bool) -> None:
        async with shedder.heavy():
            log.append(("in", loop.time()))
            if wait:
                await held.wait()
            await asyncio.sleep(0.02)
            log.append(("out", loop.time()))

    calls = [asyncio.ensure_future(call(wait=wait)) for wait in (True, False, False)]
    await asyncio.sleep(0)
    with pytest.raises(ProblemError, match="2 large requests wait already"):
        await call(wait=False)
    held.set()
    await asyncio.gather(*calls)
    assert [what for what, _ in log] == ["in", "out"] * 3
    assert log[2][1] - log[1][1] >= 0.015, "as long as it took is left to the others"


async def test_verifications_at_one_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_WAITING_MAX", 1)
    shedder = LoadShedder(Clock())
    async with shedder.long():
        with pytest.raises(ProblemError, match="verifications wait"):
            async with shedder.long():
                pass
    async with shedder.long():
        pass


# --- in a replica


async def test_a_call_waits_for_its_turn_and_is_told_when_too_many_do(
    one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shedder = one.server.admission.shedder
    async with shedder.heavy():
        waiting = [asyncio.ensure_future(one.get("/v1/workflows?limit=1000")) for _ in range(2)]
        await one.until(lambda: shedder.waiting == 2)
        assert (await one.get("/v1/workflows?limit=100")).status == 200, "a small page does not wait"
        monkeypatch.setattr(module, "HEAVY_WAITING_MAX", 2)
        for path in ("/v1/workflows?limit=101", "/v1/ledger", "/v1/agents", "/v1/audit", "/metrics", "/v1/kinds"):
            refused = await one.get(path)
            assert (refused.status, refused.word, refused.headers["Retry-After"]) == (429, "queue-full", "1")
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200]
    metrics = (await one.get("/metrics")).body.decode()
    assert "\nraftflow_requests_refused_total 6\n" in metrics
    assert "\nraftflow_requests_waiting 0\n" in metrics


async def test_refused_requests_wait_in_their_own_queue(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await serve(token="0123456789abcdef")
    lines: list[QueueClass] = []
    monkeypatch.setattr(one.server.admission.shedder, "try_enter", lambda line: lines.append(line) or True)
    assert (await one.get("/v1/workflows")).status == 401
    good = {"Authorization": "Bearer 0123456789abcdef"}
    assert (await one.get("/v1/nothing", headers=good)).status == 404
    assert (await one.call("PATCH", "/v1/workflows", headers=good)).status == 405
    assert (await one.get("/v1/workflows", headers=good)).status == 200
    entered = [line for line in lines if line in {QueueClass.REFUSED, QueueClass.ORDINARY}]
    read = [QueueClass.ORDINARY, QueueClass.ORDINARY]  # before and after its barrier
    assert entered == [QueueClass.REFUSED, QueueClass.REFUSED, QueueClass.REFUSED, *read]


async def test_heavy_calls_that_go_on_in_one_turn_still_run_in_turns_of_their_own() -> None:
    """A barrier of the log lets many reads go on at the same moment."""
    shedder = LoadShedder(lambda: 0.0)
    barrier = asyncio.Event()
    turn = 0
    ran: list[int] = []

    async def call() -> None:
        await barrier.wait()
        async with shedder.heavy():
            ran.append(turn)

    calls = [asyncio.ensure_future(call()) for _ in range(5)]
    await asyncio.sleep(0)
    barrier.set()
    while len(ran) < len(calls):
        turn += 1
        await asyncio.sleep(0)
    assert len(set(ran)) == len(calls)
    await asyncio.gather(*calls)
