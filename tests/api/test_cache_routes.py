"""Cached results and kinds of tasks over HTTP."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
async def online(one: Any) -> Any:
    """A replica that leads alone, with an agent."""
    one.incarnation = await one.register()
    one.seq = one.seen = 0
    return one


async def run(online: Any, key: str, number: int) -> str:
    """Submit a workflow of one cached task and let the agent end it."""
    task = {"id": "a", "command": ["python3", "/srv/fit.py"], "cache": {"key": key}}
    workflow = str(await online.submit(task, name=f"w{number}"))
    online.seq += 1
    polled = await online.poll(incarnation=online.incarnation, seq=online.seq, seen=online.seen, wait_ms=2000)
    (assigned,) = polled.json["assign"]
    online.seq += 1
    online.seen = assigned["fence"]
    end = {"fence": assigned["fence"], "workflow_id": workflow, "task_id": "a", "outcome": "succeeded"}
    end |= {"result": {"n": number}, "duration_ms": 250 * number, "exit_code": 0}
    answer = await online.poll(incarnation=online.incarnation, seq=online.seq, seen=online.seen, ends=[end])
    assert answer.json["verdicts"][0]["verdict"] == "accepted"
    return workflow


async def test_a_cached_result_is_reused_listed_and_cleared(online: Any) -> None:
    workflow = await run(online, "fit-1", 1)
    again = await online.submit({"id": "b", "command": ["other"], "cache": {"key": "fit-1"}}, name="again")
    shown = (await online.get(f"/v1/workflows/{again}")).json
    assert (shown["state"], shown["tasks"]["succeeded"], shown["tasks"]["cached"]) == ("succeeded", 1, 1)
    task = (await online.get(f"/v1/workflows/{again}/tasks/b")).json
    assert (task["result"], task["cached"], task["attempt"]) == ({"n": 1}, True, 0)
    page = (await online.get("/v1/cache?prefix=fit")).json
    (entry,) = page["entries"]
    assert (entry["key"], entry["workflow_id"], entry["task_id"], entry["hits"]) == ("fit-1", workflow, "a", 1)
    assert (page["total"], page["next"]) == (1, None)
    assert (await online.get("/v1/cache?prefix=x")).json["entries"] == []
    assert (await online.call("DELETE", "/v1/cache?prefix=x")).json == {"cleared": 0}
    assert (await online.call("DELETE", "/v1/cache?key=fit-1")).json == {"cleared": 1}
    assert (await online.get("/v1/cache")).json["entries"] == []
    records = (await online.get("/v1/audit?limit=1000")).json["records"]
    assert [record["command"] for record in records].count("cache.clear") == 2
    moved = [transition for record in records for transition in record["transitions"] if "cached" in transition]
    assert moved == [[again, "b", "waiting", "cached", "succeeded", 0, 0, ""]]


async def test_clearing_with_a_key_is_done_once(online: Any) -> None:
    await run(online, "k", 1)
    headers = {"Idempotency-Key": "clear-1"}
    for _ in range(2):
        assert (await online.call("DELETE", "/v1/cache", headers=headers)).json == {"cleared": 1}
    both = await online.call("DELETE", "/v1/cache?key=a&prefix=b")
    assert (both.status, both.word) == (400, "invalid-document")


async def test_what_was_learnt_of_kinds_is_listed(online: Any) -> None:
    for number in (1, 2):
        await run(online, f"k{number}", number)
    (kind,) = (await online.get("/v1/kinds")).json["kinds"]
    assert (kind["kind"], kind["count"]) == ("fit.py", 2)
    assert (kind["mean_s"], kind["deviation_s"]) == (0.281, 0.156)
    assert (kind["cpu_s"], kind["peak_mib"]) == (None, None)
