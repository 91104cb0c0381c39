"""Every way to be refused, and that nothing is changed by it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from raftflow.api import connection
from raftflow.api.admission import gated_connection
from raftflow.api.http import bodies
from raftflow.coordinator.config.replica_config import Limits
from raftflow.replication.errors import NoQuorumError
from raftflow.replication.log import Unknown

WORK = {"id": "a", "command": ["true"]}
DOCUMENT = {"name": "w", "tasks": [WORK]}


async def test_a_broken_document_names_each_fault_with_its_path(one: Any) -> None:
    tasks = [{"id": "a", "command": ["x"], "needs": ["b"]}, {"id": "a", "command": []}, {"id": "c", "retrys": 1}]
    answer = await one.post("/v1/workflows", {"name": "w", "tasks": tasks})
    assert (answer.status, answer.word) == (400, "invalid-document")
    paths = {error["path"] for error in answer.json["errors"]}
    assert {"tasks[1].command", "tasks[2].retrys"} <= paths
    assert (await one.get("/v1/workflows")).json["workflows"] == []


async def test_a_workflow_with_a_cycle_is_refused(one: Any) -> None:
    tasks = [{"id": "a", "needs": ["b"], "command": ["x"]}, {"id": "b", "needs": ["a"], "command": ["x"]}]
    answer = await one.post("/v1/workflows", {"name": "w", "tasks": tasks})
    assert answer.word == "invalid-document"
    assert "circle" in answer.json["errors"][0]["message"]


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000, b"null", b"3", b'"text"', b'{"name": "\\ud800"}'],
)
async def test_bodies_that_are_not_documents_are_refused(one: Any, raw: bytes) -> None:
    answer = await one.post("/v1/workflows", raw=raw)
    assert (answer.status, answer.word) == (400, "invalid-document")


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("GET", "/v1/workflows/wf-none", 404, "not-found"),
        ("GET", "/v1/workflows/wf-none/tasks", 404, "not-found"),
        ("GET", "/v1/workflows/wf-none/tasks/t", 404, "not-found"),
        ("GET", "/v1/workflows/wf-none/tasks/t/explain", 404, "not-found"),
        ("GET", "/v1/workflows/wf-none/tasks/t/logs", 404, "not-found"),
        ("POST", "/v1/workflows/wf-none/cancel", 404, "not-found"),
        ("GET", "/v1/agents/none", 404, "not-found"),
        ("POST", "/v1/agents/none/drain", 404, "not-found"),
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/v1/workflows/x/y/z/w/v", 404, "not-found"),
        ("DELETE", "/v1/workflows", 405, "method-not-allowed"),
        ("GET", "/v1/agents/a1/poll", 405, "method-not-allowed"),
        ("GET", "/v1/workflows?limit=0", 400, "invalid-document"),
        ("GET", "/v1/workflows?limit=x", 400, "invalid-document"),
        ("GET", "/v1/workflows?limit=1&limit=2", 400, "invalid-document"),
        ("GET", "/v1/workflows?state=odd", 400, "invalid-document"),
        ("GET", "/v1/workflows?cursor=odd", 400, "invalid-document"),
        ("GET", "/v1/workflows?statte=failed", 400, "invalid-document"),
        ("GET", "/v1/audit?from=-1", 400, "invalid-document"),
        ("GET", "/v1/audit?limit=99999999999999999999999", 400, "invalid-document"),
        ("GET", "/v1/status?stale", 400, "invalid-document"),
    ],
)
async def test_invalid_addresses_of_members_are_refused(
    one: Any, method: str, path: str, status: int, word: str
) -> None:
    answer = await one.call(method, path)
    assert (answer.status, answer.word) == (status, word)
    assert answer.headers["X-Raftflow-Leader"] == "n1"
    assert answer.json["detail"]


async def test_conflicts_are_answered_with_409(one: Any) -> None:
    workflow = await one.submit(WORK)
    answer = await one.post(f"/v1/workflows/{workflow}/retry")
    assert (answer.status, answer.word) == (409, "conflict")
    answer = await one.get(f"/v1/workflows/{workflow}/tasks/a/logs")
    assert (answer.status, answer.word) == (409, "conflict")
    await one.register()
    await one.until(lambda: one.replica.machine.state.agents["a1"].live)
    answer = await one.get(f"/v1/workflows/{workflow}/tasks/a/logs?attempt=9")
    assert answer.word == "not-found"


async def test_an_idempotency_key_is_honoured_and_not_shared(one: Any) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await one.post("/v1/workflows", DOCUMENT, headers=key)
    again = await one.post("/v1/workflows", DOCUMENT, headers=key)
    assert first.json == again.json
    assert len((await one.get("/v1/workflows")).json["workflows"]) == 1
    other = await one.post("/v1/workflows", {**DOCUMENT, "name": "other"}, headers=key)
    assert (other.status, other.word) == (409, "request-mismatch")
    for wrong in ("k" * 201, "", "  ", "two words"):
        bad = await one.post("/v1/workflows", DOCUMENT, headers={"Idempotency-Key": wrong})
        assert (bad.status, bad.word) == (400, "invalid-document"), wrong
    assert len((await one.get("/v1/workflows")).json["workflows"]) == 1
    path = f"/v1/workflows/{first.json['id']}"
    for _ in range(2):
        paused = await one.post(path + "/pause", headers={"Idempotency-Key": "k2"})
        assert (paused.status, paused.json["state"]) == (200, "paused")


async def test_stale_incarnations_and_reports_are_refused(one: Any) -> None:
    workflow = await one.submit(WORK)
    old = await one.register(instance="1" * 8)
    fence = (await one.poll(incarnation=old, seq=1, wait_ms=1000)).json["assign"][0]["fence"]
    new = await one.register(instance="2" * 8)
    end = {"fence": fence, "workflow_id": workflow, "task_id": "a", "outcome": "succeeded"}
    answer = await one.poll(incarnation=old, seq=2, seen=fence, ends=[end])
    assert (answer.status, answer.word) == (409, "stale-incarnation")
    await one.until(lambda: one.replica.machine.state.agents["a1"].live)
    answer = await one.poll(incarnation=old, seq=3, seen=fence, ends=[end])
    assert answer.json["current_attempt"] == 2
    answer = await one.poll(incarnation=new, seq=1, ends=[end])
    assert answer.status == 200
    assert answer.json["verdicts"] == [{"fence": fence, "verdict": "stale", "current_attempt": 2}]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"incarnation": 1},
        {"incarnation": "1", "seq": 1},
        {"incarnation": 1, "seq": 1, "extra": 1},
        {"incarnation": 1, "seq": -1},
        {"incarnation": 2**70, "seq": 1},
        {"incarnation": 1, "seq": 1, "running": [2**70]},
        {"incarnation": 1, "seq": 1, "wait_ms": 10**9},
        {"incarnation": 1, "seq": 1, "ends": [{"fence": 1, "workflow_id": "w", "task_id": "t", "outcome": "lost"}]},
    ],
)
async def test_invalid_polls_are_refused(one: Any, fields: dict[str, Any]) -> None:
    await one.register()
    answer = await one.poll(**fields)
    assert (answer.status, answer.word) == (400, "invalid-document")


async def test_numbers_that_the_log_cannot_hold_are_refused(one: Any) -> None:
    incarnation = await one.register()
    end = {"fence": 1, "workflow_id": "w", "task_id": "t", "outcome": "failed"}
    answer = await one.poll(incarnation=incarnation, seq=1, ends=[{**end, "exit_code": 2**70}])
    assert (answer.status, answer.word) == (400, "invalid-document")
    deep = {**end, "outcome": "succeeded", "result": "@"}
    body = b'{"incarnation":%d,"seq":2,"ends":[%s]}' % (
        incarnation,
        msgspec.json.encode(deep).replace(b'"@"', b"[" * 200 + b"]" * 200),
    )
    answer = await one.post("/v1/agents/a1/poll", raw=body)
    assert (answer.status, answer.word) == (400, "invalid-document")


@pytest.mark.parametrize(
    "resources",
    [{"cpu": -1}, {"cpu": "many"}, {"memory": "8 elephants"}, {f"r{n}": 1 for n in range(100)}, {"cpu": 1e300}],
)
async def test_invalid_registrations_are_refused(one: Any, resources: dict[str, Any]) -> None:
    body = {"name": "a1", "instance": "i" * 8, "resources": resources}
    answer = await one.post("/v1/agents", body)
    assert (answer.status, answer.word) == (400, "invalid-document")
    assert answer.json["errors"][0]["path"].startswith("resources")
    assert (await one.get("/v1/agents")).json == {"agents": []}


async def test_an_agent_with_an_invalid_name_is_refused(one: Any) -> None:
    answer = await one.post("/v1/agents", {"name": "a b", "instance": "i" * 8, "resources": {}})
    assert (answer.status, answer.word) == (400, "invalid-document")


async def test_bodies_are_bounded(serve: Any) -> None:
    one = await serve(limits=Limits(body_bytes=2_000, poll_bytes=300_000))
    answer = await one.post("/v1/workflows", raw=b" " * 2_001)
    assert (answer.status, answer.word, answer.json["limit"]) == (413, "too-large", 2_000)

    async def pieces() -> Any:
        for _ in range(100):
            yield b" " * 100

    answer = await one.post("/v1/workflows", raw=pieces())  # type: ignore[arg-type]
    assert (answer.status, answer.word) == (413, "too-large")
    await one.register()
    answer = await one.post("/v1/agents/a1/poll", raw=b" " * 300_001)
    assert (answer.status, answer.json["limit"]) == (413, 300_000)
    answer = await one.post("/v1/workflows/x/cancel", raw=b" " * 300_001)
    assert answer.status == 413


async def test_a_body_that_never_ends_is_refused(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    writer.write(
        b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    )
    assert b"400" in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


async def test_what_is_not_http_is_logged_rarely(one: Any, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"NONSENSE\r\n\r\n")
        assert b" 400 " in await asyncio.wait_for(reader.read(), 5)
        writer.close()
    told = [record for record in caplog.records if record.name == "raftflow.api.http"]
    assert len(told) == 1, "anybody can send that: it must not fill the log"
    assert "NONSENSE" in told[0].getMessage()
    assert told[0].exc_info is None


async def test_a_silent_connection_is_closed(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(gated_connection, "SILENT_S", 0.1)
    one = await serve()
    assert (await one.get("/healthz")).status == 200
    for start in (b"", b"GET /healthz HTT"):
        reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
        writer.write(start)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
    await asyncio.sleep(0.15)
    assert (await one.get("/healthz")).status == 200, "a connection that was used stays"


async def test_connections_are_bounded(serve: Any) -> None:
    one = await serve(limits=Limits(connections=2))
    assert (await one.get("/healthz")).status == 200
    reader, second = await asyncio.open_connection("127.0.0.1", one.server.port)
    await one.until(lambda: len(one.server.admission.connections) == 2)
    _, third = await asyncio.open_connection("127.0.0.1", one.server.port)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 5) == b"", "the one that never said anything has to go"
    assert (await one.get("/healthz")).status == 200
    second.close()
    third.close()


async def test_wrong_media_types_and_pages_of_other_sites_are_refused(one: Any) -> None:
    answer = await one.post("/v1/workflows", DOCUMENT, headers={"Content-Type": "text/plain"})
    assert (answer.status, answer.word) == (415, "unsupported-media-type")
    workflow = await one.submit(WORK)
    answer = await one.post(f"/v1/workflows/{workflow}/cancel", headers={"Origin": "http://evil.example"})
    assert (answer.status, answer.word) == (403, "forbidden")
    assert (await one.get(f"/v1/workflows/{workflow}")).json["state"] == "pending"
    answer = await one.post(f"/v1/workflows/{workflow}/cancel", headers={"Origin": one.url})
    assert answer.status == 200


async def test_requests_without_the_token_are_refused(serve: Any) -> None:
    one = await serve(token="t" * 20)
    for path in ("/v1/status", "/v1/workflows", "/metrics", "/v1/openapi.json", "/nothing"):
        answer = await one.get(path)
        assert (answer.status, answer.word) == (401, "unauthorized"), path
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for wrong in ("Bearer", "Bearer " + "t" * 19, "Basic " + "t" * 20, "Bearer \u00fc"):
        assert (await one.get("/v1/status", headers={"Authorization": wrong})).status == 401
    assert (await one.get("/v1/status", headers={"Authorization": "Bearer " + "t" * 20})).status == 200
    assert (await one.get("/healthz")).status == 200
    assert (await one.get("/readyz")).status == 200


async def test_who_has_no_token_learns_nothing_of_the_cluster(serve: Any) -> None:
    one = await serve(token="t" * 20)
    known = {"content-type", "content-length", "date", "server", "www-authenticate", "x-request-id"}
    for path in ("/v1/status", "/nothing", "/healthz", "/readyz"):
        answer = await one.get(path)
        assert {name.lower() for name in answer.headers} <= known, path
        assert answer.headers["Server"] == "raftflow"
    answer = await one.get("/v1/status", headers={"Authorization": "Bearer " + "t" * 20})
    assert {"X-Raftflow-Peers", "X-Raftflow-Leader", "X-Raftflow-Term", "X-Raftflow-Index"} <= set(answer.headers)


async def test_a_full_queue_is_answered_with_429(serve: Any) -> None:
    one = await serve(limits=Limits(submissions_in_flight=1))
    one.replica.submitter._bounded = 1
    answer = await one.post("/v1/workflows", DOCUMENT)
    assert (answer.status, answer.word, answer.headers["Retry-After"]) == (429, "queue-full", "1")
    one.replica.submitter._bounded = 0
    assert (await one.post("/v1/workflows", DOCUMENT)).status == 201


async def test_an_unknown_outcome_is_answered_with_503_and_advice(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(entry: bytes, timeout_s: float) -> Any:
        return Unknown("timeout")

    monkeypatch.setattr(one.replica.log, "submit", lost)
    answer = await one.post("/v1/workflows", DOCUMENT)
    assert (answer.status, answer.word) == (503, "outcome-unknown")
    assert "same Idempotency-Key" in answer.json["detail"]


async def test_without_a_leader_the_answer_is_503(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftflow.api.dispatch.leader_wait.LEADER_WAIT_S", 0.05)
    one = await serve()
    workflow = await one.submit(WORK)
    one.replica.log.lose_leadership()
    for answer in (
        await one.post("/v1/workflows", DOCUMENT),
        await one.get("/v1/workflows"),
        await one.poll(incarnation=1, seq=1),
        await one.get("/readyz"),
    ):
        assert (answer.status, answer.word, answer.headers["Retry-After"]) == (503, "no-leader", "1")
    assert (await one.get("/v1/workflows?stale")).json["workflows"][0]["id"] == workflow
    status = (await one.get("/v1/status")).json
    assert (status["role"], status["leader"]) == ("follower", None)


async def test_an_election_is_waited_for(one: Any) -> None:
    one.replica.log.lose_leadership()
    asking = asyncio.ensure_future(one.post("/v1/workflows", DOCUMENT))
    await asyncio.sleep(0.05)
    one.replica.log.gain_leadership()
    assert (await asking).status == 201


async def test_an_internal_error_reveals_no_details(one: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def broken() -> Any:
        raise KeyError("inside")

    monkeypatch.setattr(one.replica, "status", broken)
    answer = await one.get("/v1/status", headers={"X-Request-Id": "req-1"})
    assert (answer.status, answer.word) == (500, "internal")
    assert b"inside" not in answer.body
    assert b"req-1" in answer.body
    assert "req-1" in caplog.text
    assert (await one.get("/healthz")).status == 500


async def test_request_ids_are_returned_or_made(one: Any) -> None:
    answer = await one.get("/healthz", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["X-Request-Id"] == "mine-1"
    made = (await one.get("/healthz", headers={"X-Request-Id": "not good\t!"})).headers["X-Request-Id"]
    assert len(made) == 26
    assert (await one.get("/healthz")).headers["X-Request-Id"] != made


async def test_large_bodies_share_a_bound(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftflow.api.admission.body_budget.BODIES_BYTES_MAX", 150_000)
    head = b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 100000\r\n\r\n"
    _, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    writer.write(head)
    await asyncio.sleep(0.1)
    answer = await one.post("/v1/workflows", raw=b" " * 100_000)
    assert (answer.status, answer.word) == (429, "queue-full")
    assert (await one.post("/v1/workflows", DOCUMENT)).status == 201, "small ones pass"
    writer.close()
    await asyncio.sleep(0.1)
    assert (await one.post("/v1/workflows", raw=b" " * 100_000)).word == "invalid-document"


async def test_a_read_that_no_majority_confirms_is_not_answered(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that was replaced without knowing must not show what it has."""
    workflow = await one.submit(WORK)

    async def unconfirmed(timeout_s: float) -> int:
        raise NoQuorumError("timeout")

    monkeypatch.setattr("raftflow.api.dispatch.leader_wait.LEADER_WAIT_S", 0.05)
    monkeypatch.setattr(one.replica.log, "read_index", unconfirmed)
    for path in ("/v1/workflows", f"/v1/workflows/{workflow}", f"/v1/workflows/{workflow}/tasks", "/v1/ledger"):
        answer = await one.get(path)
        assert (answer.status, answer.word) == (503, "no-leader"), path
        assert (await one.get(path + "?stale")).status == 200


async def test_two_replicas_that_name_each_other_as_leader_end_with_503(
    one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request takes one hop and ends; here the replica even sends it to itself."""
    assert (await one.get("/v1/workflows")).status == 200, "what a new leader does first is done"
    one.replica.log.lose_leadership()
    asked: list[int] = []

    def wrong() -> tuple[str, str]:
        asked.append(1)
        assert len(asked) < 10
        return "n2", one.url

    monkeypatch.setattr(one.replica.submitter, "_find_leader", wrong)
    answer = await one.get("/v1/workflows")
    assert (answer.status, answer.word) == (503, "no-leader")
    assert len(asked) == 2
