"""Requests that are refused because of who sends them are counted, within bounds, and without a log line for each."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from raftflow.api.figures.refusals import LOG_PERIOD_MS, RefusedRequests
from raftflow.domain.limits import REFUSALS_MAX, REFUSALS_OF_ADDRESS_MAX

SHARED = "the token of the configuration"
DOCUMENT = {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def brief(page: Any) -> list[tuple[Any, ...]]:
    return [(row["actor"], row["address"], row["operation"], row["status"], row["count"]) for row in page["refusals"]]


async def test_who_was_refused_stands_at_the_replica_that_was_asked(trio: Any) -> None:
    cluster = await trio(token=SHARED)
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    made = await leader.post("/v1/tokens", {"name": "alice", "role": "read"}, headers=bearer(SHARED))
    alice = bearer(made.json["token"])
    for _ in range(3):
        assert (await follower.get("/v1/agents", headers=bearer("wrong"))).status == 401
    refused = await follower.post("/v1/workflows", DOCUMENT, headers={**alice, "X-Request-Id": "of-alice"})
    assert refused.status == 403
    assert (await follower.get("/nothing")).status == 401
    page = (await follower.get("/v1/refusals", headers=alice)).json
    assert sorted(brief(page), key=str) == [
        ("client:alice", "127.0.0.1", "submit_workflow", 403, 1),
        (None, "127.0.0.1", "another path", 401, 1),
        (None, "127.0.0.1", "list_agents", 401, 3),
    ]
    ids = {row["operation"]: row["request_id"] for row in page["refusals"]}
    assert ids["submit_workflow"] == refused.headers["X-Request-Id"]
    assert (page["replica"], page["total"], page["forgotten"]) == (follower.config.name, 5, 0)
    assert (await leader.get("/v1/refusals", headers=alice)).json["refusals"] == []
    assert "wrong" not in str(page)
    assert (await follower.get("/v1/refusals")).status == 401


def test_a_flood_is_bounded_and_displaces_nobody_with_a_token(caplog: pytest.LogCaptureFixture) -> None:
    now_ms = [1_000_000]
    refusals = RefusedRequests("n1", lambda: now_ms[0])
    caplog.set_level(logging.INFO)
    refusals.note("alice", "10.0.0.1", "submit_workflow", 403, "r1")
    for number in range(10 * REFUSALS_MAX):
        refusals.note("", f"10.1.{number >> 8}.{number & 255}", "list_agents", 401, "r")
    for number in range(10 * REFUSALS_OF_ADDRESS_MAX):
        refusals.note("", "10.2.0.1", f"operation-{number}", 401, "r")
    page = refusals.page()
    assert page.total == 1 + 10 * REFUSALS_MAX + 10 * REFUSALS_OF_ADDRESS_MAX
    assert page.total == page.forgotten + sum(row.count for row in page.refusals)
    assert len(page.refusals) == REFUSALS_MAX + 1
    assert sum(row.address == "10.2.0.1" for row in page.refusals) == REFUSALS_OF_ADDRESS_MAX
    assert [row.request_id for row in page.refusals if row.actor == "client:alice"] == ["r1"]
    assert len(caplog.records) == 1, "one line, whatever comes"
    now_ms[0] += LOG_PERIOD_MS
    refusals.note("", "10.2.0.1", "list_agents", 401, "r")
    assert len(caplog.records) == 2
    assert caplog.records[1].getMessage().startswith(f"refused {page.total} requests")
    assert refusals.page().refusals[0].operation == "list_agents"
