"""The executor: what is sent together, what is sent again under the same key, and what can still be cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import math
from typing import Any

import pytest
from aiohttp import web

from raftflow.client import Client, Refused

COUNTS = dict.fromkeys(("succeeded", "failed", "running", "ready", "waiting", "cancelled", "cached"), 0)
ENDED = {
    "name": "executor",
    "state": "succeeded",
    "tasks": {**COUNTS, "total": 1, "succeeded": 1},
    "submitted_at": "2026-11-30T00:00:00Z",
    "finished_at": "2026-11-30T00:00:01Z",
}


def submissions(replicas: list[Any]) -> list[Any]:
    return [
        seen for replica in replicas for seen in replica.seen if (seen.method, seen.path) == ("POST", "/v1/workflows")
    ]


def serve(replica: Any, first: list[Any]) -> None:
    """Answer submissions with what `first` has, then with a workflow whose tasks have succeeded with their number."""
    tasks: dict[str, int] = {}

    async def submit(request: web.Request) -> web.StreamResponse:
        if first:
            return await first.pop(0)(request)
        name = f"wf-{len(tasks) + 1}"
        tasks[name] = len(json.loads(replica.seen[-1].body)["tasks"])
        return web.json_response({"id": name, "warnings": []}, status=201)

    async def route(request: web.Request) -> web.StreamResponse:
        replica.script.append(route)
        if request.method == "POST":
            return await submit(request)
        name = request.path.split("/")[3]
        if request.path.endswith("/tasks"):
            listed = [{"id": str(n), "state": "succeeded", "attempt": 1, "result": n} for n in range(tasks[name])]
            return web.json_response({"tasks": listed})
        return web.json_response(ENDED | {"id": name})

    replica.script.append(route)


async def lose(request: web.Request) -> web.StreamResponse:
    """Cut the connection after the request was read: it may have been carried out."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def test_a_submission_without_an_answer_is_sent_again_under_the_same_key(replicas: list[Any]) -> None:
    serve(replicas[0], [lose] * 12)
    with Client(replicas[0].url, timeout_s=0.2, environ={}) as client:
        future = client.executor().submit(math.sqrt, 4)
        assert await asyncio.wrap_future(future) == 0
        await asyncio.to_thread(client.close)
    sent = submissions(replicas)
    assert len(sent) == 13
    assert len({seen.headers["Idempotency-Key"] for seen in sent}) == 1
    assert len({seen.body for seen in sent}) == 1


async def test_calls_that_wait_are_sent_together(replicas: list[Any]) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def hold(_request: web.Request) -> web.StreamResponse:
        arrived.set()
        await go.wait()
        return web.json_response({"id": "wf-0", "warnings": []}, status=201)

    serve(replicas[0], [hold])
    with Client(replicas[0].url, environ={}) as client:
        executor = client.executor()
        first = executor.submit(math.sqrt, 0)
        await arrived.wait()
        futures = [executor.submit(math.sqrt, n) for n in range(1_200)]
        assert first.running()
        assert futures[3].cancel()
        go.set()
        for n, future in enumerate(futures):
            if n != 3:
                await asyncio.wrap_future(future)
        assert futures[3].cancelled()
        sizes = [len(json.loads(seen.body)["tasks"]) for seen in submissions(replicas)]
        assert sizes == [1, 499, 500, 200]
        await asyncio.to_thread(client.close)


async def test_a_refused_submission_fails_its_calls_and_no_others(replicas: list[Any], make: Any) -> None:
    async def refuse(_request: web.Request) -> web.StreamResponse:
        return make.problem("too-large", 413, detail="too large")

    serve(replicas[0], [refuse])
    with Client(replicas[0].url, environ={}) as client:
        executor = client.executor()
        with pytest.raises(Refused, match="too large"):
            await asyncio.wrap_future(executor.submit(math.sqrt, 4))
        assert await asyncio.wrap_future(executor.submit(math.sqrt, 4)) == 0
        await asyncio.to_thread(client.close)


async def test_calls_that_were_not_sent_are_cancelled_at_a_shutdown(replicas: list[Any]) -> None:
    arrived = asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    serve(replicas[0], [hang])
    with Client(replicas[0].url, environ={}) as client:
        executor = client.executor()
        first = executor.submit(math.sqrt, 0)
        await arrived.wait()
        futures = [executor.submit(math.sqrt, n) for n in range(3)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        await asyncio.to_thread(client.close)
        with pytest.raises(Exception, match="the client was closed"):
            first.result(10)
        done, _ = concurrent.futures.wait(futures, timeout=10)
        assert done == set(futures)
