"""What each method asks for and gives back; the synchronous client; the builder."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from raftflow.client import (
    AsyncClient,
    Client,
    ClientError,
    Unreachable,
    UsageError,
    WaitTimeout,
    Workflow,
    WorkflowFailed,
)
from raftflow.formats.documents import normalize


def view(workflow_id: str = "wf-1", state: str = "running", succeeded: int = 0) -> dict[str, Any]:
    finished = "2026-01-01T00:00:09Z" if state in ("succeeded", "failed", "cancelled") else None
    return {
        "id": workflow_id,
        "name": "w",
        "state": state,
        "tasks": {"total": 2, "succeeded": succeeded},
        "submitted_at": "2026-01-01T00:00:00Z",
        "finished_at": finished,
    }


def status(name: str, role: str = "follower", term: int = 3, applied: int = 7) -> dict[str, Any]:
    peers = [{"name": other, "connected": True} for other in ("n1", "n2", "n3") if other != name]
    numbers = dict.fromkeys(("last_index", "durable_index", "commit_index", "applied_index", "digest_index"), applied)
    words = {"cluster": "c", "leader": "n1", "leader_url": None, "version": "0", "digest": "d"}
    return {
        "name": name,
        "role": role,
        "term": term,
        "snapshot_index": 0,
        "ready": True,
        "pid": 11,
        "uptime_s": 1.5,
        "peers": peers,
        **numbers,
        **words,
    }


async def test_controls_and_lookups(replicas: list[Any]) -> None:
    (replica, *_) = replicas
    for action in ("cancel", "resume", "retry"):
        replica.routes["POST", f"/v1/workflows/wf-1/{action}"] = view()
    replica.routes["POST", "/v1/workflows/wf-1/pause"] = view(state="paused")
    agent = {"id": "a1", "name": "a1", "state": "draining", "incarnation": 1, "resources": {}, "allocated": {}}
    replica.routes["POST", "/v1/agents/a1/drain"] = agent
    replica.routes["POST", "/v1/agents/a1/resume"] = {**agent, "state": "up"}
    replica.routes["GET", "/v1/agents/a1"] = agent
    replica.routes["GET", "/v1/ledger"] = {"index": 3, "agents": []}
    replica.routes["GET", "/v1/workflows/wf-1/tasks/t/explain"] = {"id": "t", "state": "waiting", "reason": "r"}
    replica.routes["GET", "/v1/openapi.json"] = {"openapi": "3.1.0"}
    replica.routes["GET", "/v1/audit"] = {"records": [], "next": 9}
    async with AsyncClient([replica.url]) as client:
        assert (await client.cancel("wf-1")).state == "running"
        assert (await client.pause("wf-1")).state == "paused"
        assert (await client.resume("wf-1")).state == "running"
        assert (await client.retry("wf-1")).state == "running"
        assert (await client.drain("a1")).state == "draining"
        assert (await client.resume_agent("a1")).state == "up"
        assert (await client.agent("a1")).name == "a1"
        assert (await client.ledger()).index == 3
        assert (await client.ledger(stale=True)).index == 3
        assert (await client.explain("wf-1", "t")).reason == "r"
        assert (await client.openapi())["openapi"] == "3.1.0"
        assert (await client.audit(replica.url, 4, 5)).next == 9
    keys = {seen.headers.get("Idempotency-Key") for seen in replica.seen if seen.method == "POST"}
    assert len(keys - {None}) == 6
    assert [seen.query for seen in replica.seen if seen.path == "/v1/ledger"] == [{}, {"stale": "1"}]
    assert [seen.query for seen in replica.seen if seen.path == "/v1/audit"] == [{"from": "4", "limit": "5"}]


async def test_names_are_quoted_into_paths(replicas: list[Any]) -> None:
    replicas[0].routes["GET", "/v1/workflows/a/b/tasks/ü ?"] = {"id": "x", "state": "ready", "attempt": 0}
    async with AsyncClient([replicas[0].url]) as client:
        assert (await client.task("a/b", "ü ?")).id == "x"
        with pytest.raises(UsageError):
            await client.workflow("")


async def test_pages_are_followed(replicas: list[Any]) -> None:
    def page(request: Any) -> dict[str, Any]:
        start = int(request.query.get("cursor", "0"))
        size = int(request.query["limit"])
        items = [view(f"wf-{number}") for number in range(start, min(start + size, 1100))]
        return {"workflows": items, "next": str(start + size) if start + size < 1100 else None}

    def tasks(request: Any) -> dict[str, Any]:
        start = int(request.query.get("cursor", "0"))
        items = [{"id": f"t{number}", "state": "ready", "attempt": 0} for number in range(start, start + 2)]
        return {"tasks": items, "next": str(start + 2) if start < 4 else None}

    replicas[0].routes["GET", "/v1/workflows"] = page
    replicas[0].routes["GET", "/v1/workflows/w/tasks"] = tasks
    async with AsyncClient([replicas[0].url]) as client:
        assert [v.id async for v in client.workflows()] == [f"wf-{number}" for number in range(1100)]
        assert len([v async for v in client.workflows(limit=7, state="running")]) == 7
        assert [task.id for task in await client.tasks("w")] == [f"t{number}" for number in range(6)]
    assert [seen.query for seen in replicas[0].seen][3] == {"limit": "7", "state": "running"}


async def test_a_piece_of_a_log(replicas: list[Any]) -> None:
    piece = {"attempt": 2, "agent": "a", "stream": "stderr", "offset": 5, "text": "hi", "size": 7}
    replicas[0].routes["GET", "/v1/workflows/w/tasks/t/logs"] = {**piece, "truncated": False, "complete": True}
    async with AsyncClient([replicas[0].url]) as client:
        log = await client.task_log("w", "t", "stderr", attempt=2, offset=5)
    assert (log.text, log.complete) == ("hi", True)
    assert replicas[0].seen[0].query == {"stream": "stderr", "attempt": "2", "offset": "5", "limit": "262144"}


async def test_watch_yields_changes_and_ends_with_the_end(replicas: list[Any], make: Any) -> None:
    views = [view(), view(), view(succeeded=1), view(succeeded=1), view(state="succeeded", succeeded=2)]
    replicas[0].script = [make.answer(each) for each in views]
    async with AsyncClient([replicas[0].url]) as client:
        seen = [(each.state, each.tasks.succeeded) async for each in client.watch("wf-1")]
    assert seen == [("running", 0), ("running", 1), ("succeeded", 2)]


async def test_wait_gives_up_in_time(replicas: list[Any]) -> None:
    replicas[0].routes["GET", "/v1/workflows/wf-1"] = view()
    async with AsyncClient([replicas[0].url]) as client:
        with pytest.raises(WaitTimeout, match="it is running"):
            await client.wait("wf-1", timeout_s=0.2)
        replicas[0].routes["GET", "/v1/workflows/wf-1"] = view(state="failed")
        assert (await client.wait("wf-1", timeout_s=5, check=False)).state == "failed"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_wait_raises_where_the_work_failed(replicas: list[Any], state: str) -> None:
    replicas[0].routes["GET", "/v1/workflows/wf-1"] = view(state=state)
    replicas[0].routes["POST", "/v1/workflows"] = {"id": "wf-1"}
    async with AsyncClient([replicas[0].url], environ={}) as client:
        run = await client.submit({"name": "w"})
        for waiting in (client.wait("wf-1", timeout_s=5), run.wait(), run.results()):
            with pytest.raises(WorkflowFailed, match=state) as caught:
                await waiting
            assert (caught.value.workflow.id, caught.value.workflow.state) == ("wf-1", state)
        assert (await run.wait(check=False)).state == state


async def test_results_of_all_tasks(replicas: list[Any]) -> None:
    def tasks(request: Any) -> dict[str, Any]:
        start = int(request.query.get("cursor", "0"))
        items = [{"id": f"t{n}", "state": "succeeded", "attempt": 1, "result": n} for n in range(start, start + 2)]
        failed = {"id": "bad", "state": "failed", "attempt": 1, "result": None}
        return {"tasks": [*items, failed] if start else items, "next": None if start else "2"}

    replicas[0].routes["POST", "/v1/workflows"] = {"id": "wf-1", "warnings": ["w"]}
    replicas[0].routes["GET", "/v1/workflows/wf-1"] = view(state="succeeded")
    replicas[0].routes["GET", "/v1/workflows/wf-1/tasks"] = tasks
    expected = {"t0": 0, "t1": 1, "t2": 2, "t3": 3}

    def work() -> None:
        with Client([replicas[0].url], environ={}) as client:
            run = client.submit(Workflow("w"))
            assert (run.id, run.warnings, run.wait().state) == ("wf-1", ["w"], "succeeded")
            assert run.results() == client.results("wf-1") == expected

    await asyncio.to_thread(work)
    async with AsyncClient([replicas[0].url], environ={}) as client:
        run = await client.submit(Workflow("w"))
        assert await run.results(timeout_s=5) == await client.results("wf-1") == expected


async def test_wait_asks_the_replica_to_hold_the_answer(replicas: list[Any], make: Any) -> None:
    ended = asyncio.Event()

    async def later(_: Any) -> Any:
        await ended.wait()
        return make.answer(view(state="succeeded"))

    replicas[0].script = [make.answer(view()), later]
    async with AsyncClient([replicas[0].url]) as client:
        waiting = asyncio.ensure_future(client.wait("wf-1", timeout_s=60))
        async with asyncio.timeout(10):
            while len(replicas[0].seen) < 2:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.005)
        ended.set()
        assert (await waiting).state == "succeeded"
    assert [seen.query["wait_ms"] for seen in replicas[0].seen] == ["5000", "5000"]


async def test_the_cluster_in_one_picture(replicas: list[Any], dead_url: str) -> None:
    # n2 was cut off as the leader of an older term and does not know yet.
    replicas[0].routes["GET", "/v1/status"] = status("n1", "leader", applied=9)
    replicas[1].routes["GET", "/v1/status"] = status("n2", "leader", term=2, applied=8)
    agent = {"id": "a1", "name": "a1", "state": "up", "incarnation": 1, "resources": {}, "allocated": {}, "pid": 5}
    replicas[0].routes["GET", "/v1/agents"] = {"agents": [agent]}
    async with AsyncClient([replicas[0].url, replicas[1].url, dead_url]) as client:
        found = await client.cluster_status()
    assert (found.leader, found.term, found.index) == ("n1", 3, 9)
    assert [(r.name, r.role, r.applied) for r in found.replicas] == [
        ("n1", "leader", 9),
        ("n2", "leader", 8),
        ("n3", "down", None),
    ]
    assert [(a.name, a.pid, a.state) for a in found.agents] == [("a1", 5, "up")]


async def test_the_leader_is_asked_first_once_its_name_is_known(replicas: list[Any], make: Any) -> None:
    for number, replica in enumerate(replicas):
        replica.routes["GET", "/v1/status"] = status(f"n{number + 1}")
        replica.routes["GET", "/v1/agents"] = lambda request: make.answer(
            {"agents": []}, **{"X-Raftflow-Leader": "n3"}
        )
    async with AsyncClient([replica.url for replica in replicas]) as client:
        await client.agents()
        await client.cluster_status()
        for replica in replicas:
            replica.seen.clear()
        await client.agents()
        await client.agents()
    assert [len(replica.seen) for replica in replicas] == [0, 0, 2]


async def test_no_picture_of_a_dead_cluster(dead_url: str) -> None:
    async with AsyncClient([dead_url]) as client:
        with pytest.raises(Unreachable):
            await client.cluster_status()


async def test_the_synchronous_client_works_beside_a_running_loop(replicas: list[Any], make: Any) -> None:
    replicas[0].routes["POST", "/v1/workflows"] = {"id": "wf-1"}
    replicas[0].routes["GET", "/v1/workflows"] = {"workflows": [view("wf-1"), view("wf-2")], "next": None}
    replicas[0].routes["GET", "/v1/workflows/wf-1"] = view(state="succeeded")

    def work() -> None:
        with Client([replicas[0].url]) as client:
            assert client.submit(Workflow("w").document()).id == "wf-1"
            assert [each.id for each in client.workflows()] == ["wf-1", "wf-2"]
            assert next(iter(client.workflows())).id == "wf-1"
            assert client.wait("wf-1", timeout_s=5).state == "succeeded"
            assert [each.state for each in client.watch("wf-1")] == ["succeeded"]
        with pytest.raises(ClientError, match="closed"):
            client.agents()
        client.close()

    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, work)
    for thread in set(threading.enumerate()) - before:
        thread.join(5.0)  # one that worked for the client's loop is told to end, and may need a moment
        assert not thread.is_alive(), f"{thread.name} is left"


def test_the_two_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert methods(Client) - {"executor"} == methods(AsyncClient) - {"workflows_page", "tasks_page", "cache_page"}


def test_the_builder_makes_a_document() -> None:
    flow = Workflow("nightly", priority=70, on_failure="continue", defaults={"retries": 2})
    fetch = flow.task("fetch", ["python3", "fetch.py"], timeout="5m")
    flow.task("count", python=json.dumps, args=[fetch.result], needs=[fetch])
    flow.task("last", python="a.b:c", needs=["fetch", "count"])
    spec = normalize(flow.document())
    programs = {task.id: (task.needs, getattr(task.program, "function", None)) for task in spec.tasks}
    assert programs == {
        "fetch": ((), None),
        "count": (("fetch",), "json:dumps"),
        "last": (("fetch", "count"), "a.b:c"),
    }
    with pytest.raises(UsageError, match="agents cannot import it"):
        flow.task("x", python=lambda: None)


async def test_a_document_that_is_no_json(replicas: list[Any]) -> None:
    async with AsyncClient([replicas[0].url]) as client:
        with pytest.raises(UsageError, match=r"is not a JSON value \(its type is object\)"):
            await client.submit({"name": object()})
        with pytest.raises(UsageError, match=r"^tasks\[1\].kwargs.x: must be a finite number"):
            await client.submit({"name": "w", "tasks": [{"x": 1.5}, {"kwargs": {"x": float("nan")}}]})
    assert replicas[0].seen == []
