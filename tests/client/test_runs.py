"""Calls of functions: what a notebook shows of one, and what a map leaves behind when it fails."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest

from raftflow.client import AsyncClient, AsyncRun, Client, Run, Unreachable, UsageError
from raftflow.sdk import calls

VIEW = {
    "id": "wf-1",
    "name": "sqrt",
    "state": "running",
    "tasks": dict.fromkeys(("total", "succeeded", "failed", "running", "ready", "waiting", "cancelled", "cached"), 0),
    "submitted_at": "2026-11-30T00:00:00Z",
}


def run_of(client: Client, task_id: str) -> Run[float]:
    return Run(AsyncRun(client._client, "wf-1", task_id), client._run)


async def test_a_notebook_shows_a_run_with_its_state(replicas: list[Any]) -> None:
    replicas[0].routes["GET", "/v1/workflows/wf-1"] = VIEW
    with Client(replicas[0].url, environ={}) as client:
        shown = await asyncio.to_thread(run_of(client, "sqrt")._repr_html_)
        assert shown == (
            "<table><tr><th>function</th><td>sqrt</td></tr><tr><th>workflow</th><td>wf-1</td></tr>"
            "<tr><th>state</th><td>running</td></tr></table>"
        )
        assert repr(run_of(client, "sqrt")) == "<run sqrt wf-1>"
        shown = await asyncio.to_thread(run_of(client, "<script>alert(1)</script>")._repr_html_)
        assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in shown
        await asyncio.to_thread(client.close)


@pytest.mark.parametrize("timeout_s", [0.1, 30.0])
def test_a_notebook_shows_a_run_without_a_cluster(dead_url: str, timeout_s: float) -> None:
    with Client(dead_url, timeout_s=timeout_s, environ={}) as client:
        run = run_of(client, "sqrt")
        assert "<td>unknown: no replica answers</td>" in run._repr_html_()
    with Client(dead_url, timeout_s=0.1, environ={}) as client, pytest.raises(Unreachable):
        run_of(client, "sqrt").status()


def items_that_break() -> Iterator[float]:
    yield from (1.0, 2.0, 3.0)
    raise KeyError("no more")


@pytest.mark.parametrize(
    ("items", "error"), [(items_that_break(), KeyError), ([1.0, 2.0, 3.0, math.nan], UsageError)]
)
async def test_a_map_whose_items_end_with_an_error_cancels_what_it_has_sent(
    replicas: list[Any], monkeypatch: pytest.MonkeyPatch, items: Any, error: type[Exception]
) -> None:
    monkeypatch.setattr(calls, "MAP_TASKS_MAX", 2)
    replicas[0].routes["POST", "/v1/workflows"] = {"id": "wf-1", "warnings": []}
    async with AsyncClient(replicas[0].url, environ={}) as client:
        with pytest.raises(error):
            await client.map(math.sqrt, items)
    assert [(seen.method, seen.path) for seen in replicas[0].seen] == [
        ("POST", "/v1/workflows"),
        ("POST", "/v1/workflows/wf-1/cancel"),
    ]
