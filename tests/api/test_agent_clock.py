"""The clock of an agent's machine, as the leader learns it with a registration."""

from __future__ import annotations

import time
from typing import Any

import pytest

from raftflow.agent.config import load_config
from raftflow.agent.exchange.leader import LeaderClient
from raftflow.domain.contract.views import HEADER_CLOCK, RegisterRequest

BODY = {"name": "a1", "instance": "i" * 8, "resources": {"cpu": 1}}
EXACT_S = 5.0
"""A registration may take so long on a busy machine."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def skew_s(served: Any) -> float | None:
    (agent,) = (await served.get("/v1/agents")).json["agents"]
    return agent["clock_skew_s"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("ahead_s", [-3_600, 0, 90])
async def test_the_leader_compares_the_clocks(one: Any, ahead_s: int) -> None:
    headers = {HEADER_CLOCK: str(now_ms() + ahead_s * 1000)}
    assert (await one.post("/v1/agents", BODY, headers=headers)).status == 200
    told = await skew_s(one)
    assert told is not None and ahead_s - EXACT_S < told <= ahead_s


@pytest.mark.parametrize("clock", [None, "", "soon", "-5", "1e9", "\u0661\u0662", "9" * 16, "1.5"])
async def test_an_agent_that_does_not_say_its_time_is_taken(one: Any, clock: str | None) -> None:
    headers = {} if clock is None else {HEADER_CLOCK: clock}
    assert (await one.post("/v1/agents", BODY, headers=headers)).status == 200
    assert await skew_s(one) is None


async def test_a_replica_that_passes_a_registration_on_passes_the_clock_too(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    headers = {HEADER_CLOCK: str(now_ms() + 90_000)}
    assert (await follower.post("/v1/agents", BODY, headers=headers)).status == 200
    told = await skew_s(leader)
    assert told is not None and 90 - EXACT_S < told <= 90


async def test_an_agent_says_its_time_with_its_registration(one: Any) -> None:
    client = LeaderClient(load_config(None, {}, {"name": "a1", "peers": [one.url], "work_dir": "/nowhere"}))
    await client.start()
    try:
        await client.register(RegisterRequest(name="a1", instance="i" * 8, resources={"cpu": 1}))
    finally:
        await client.close()
    told = await skew_s(one)
    assert told is not None and -EXACT_S < told <= 0
