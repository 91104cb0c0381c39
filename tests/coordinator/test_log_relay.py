"""Output of attempts that is fetched over the poll."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.coordinator.sessions.log_relay import LogUnavailableError
from raftflow.domain.contract.views import AgentLoad, LogPiece


async def held(one: Any, count: int = 1) -> None:
    await one.until(lambda: one.poll_service.held == count)


async def test_output_is_fetched_over_the_poll(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    polling = asyncio.ensure_future(one.work(incarnation, 1))
    await held(one)
    asking = asyncio.ensure_future(one.poll_service.relay.request_log("a1", 7, "stdout", 3, 10))
    wanted = (await polling).logs
    assert [(item.fence, item.stream, item.offset, item.bytes_max) for item in wanted] == [(7, "stdout", 3, 10)]
    piece = LogPiece(request=wanted[0].request, data=b"text", size=7, truncated=False, complete=True)
    load = AgentLoad(load_1m=1.5)
    await one.poll(incarnation, 2, logs=[piece, piece], load=load)
    assert (await asking).data == b"text"
    assert one.poll_service.process_info("a1")[2] == load
    assert (await one.poll(incarnation, 3)).logs == []


async def test_output_that_does_not_come(bench: Any) -> None:
    one = await bench()
    one.poll_service.relay._timeout_s = 0.05
    incarnation = await one.register()
    with pytest.raises(LogUnavailableError, match=r"did not send the output within 0\.05 s"):
        await one.poll_service.relay.request_log("a1", 7, "stdout", 0, 10)
    one.poll_service.relay._timeout_s = 5
    asking = asyncio.ensure_future(one.poll_service.relay.request_log("a1", 7, "stdout", 0, 10))
    wanted = (await one.work(incarnation, 1)).logs
    again = (await one.work(incarnation, 2)).logs
    assert wanted == again, "the answer may have been lost"
    piece = LogPiece(request=wanted[0].request, data=b"", size=0, truncated=False, complete=True, error="not here")
    await one.poll(incarnation, 3, logs=[piece])
    with pytest.raises(LogUnavailableError, match="agent a1: not here"):
        await asking
    asking = asyncio.ensure_future(one.poll_service.relay.request_log("a1", 7, "stdout", 0, 10))
    await asyncio.sleep(0)
    one.log.lose_leadership()
    with pytest.raises(LogUnavailableError, match="leader changed"):
        await asking


async def test_another_agent_cannot_answer_for_it(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register("a1")
    other = await one.register("a2", instance="2" * 8)
    asking = asyncio.ensure_future(one.poll_service.relay.request_log("a1", 7, "stdout", 0, 10))
    wanted = (await one.work(incarnation, 1)).logs
    forged = LogPiece(request=wanted[0].request, data=b"forged", size=6, truncated=False, complete=True)
    await one.poll(other, 1, name="a2", logs=[forged])
    await asyncio.sleep(0)
    assert not asking.done()
    asking.cancel()


async def test_output_is_wanted_a_little_at_a_time(bench: Any) -> None:
    """Everything that is answered at once must fit into one poll."""
    one = await bench()
    incarnation = await one.register()
    ask = one.poll_service.relay.request_log
    asking = [asyncio.ensure_future(ask("a1", 7, "stdout", offset, 256 * 1024)) for offset in range(3)]
    await asyncio.sleep(0)
    for seq, task in enumerate(asking, start=1):
        wanted = (await one.work(incarnation, seq)).logs
        assert [item.offset for item in wanted] == [seq - 1]
        piece = LogPiece(request=wanted[0].request, data=b"x", size=1, truncated=False, complete=True)
        one.poll_service.relay.deliver("a1", [piece])
        assert (await task).data == b"x"
