"""Large documents: read by a process of their own, taken in by pieces, and every way in which that can end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from raftflow import helpers
from raftflow.api.routes import large_submissions
from raftflow.coordinator.uploads import document_worker
from raftflow.coordinator.uploads.document_reader import DocumentReader, ReaderFailedError
from raftflow.coordinator.uploads.document_worker import DocumentFault, ReadRequest, SubmissionHeader
from raftflow.coordinator.uploads.submission import WorkflowSubmission
from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.tasks.program import CommandLine

COUNT = 1_500


def document(count: int = COUNT, name: str = "large", **more: Any) -> dict[str, Any]:
    tasks = [{"id": f"t{n}", "command": ["true"], "needs": [f"t{n - 1}"] if n % 5 else []} for n in range(count)]
    return {"name": name, "tasks": tasks, **more}


@pytest.fixture
async def replica(serve: Any) -> Any:
    """A replica that leads alone."""
    return await serve()


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def commands_of(one: Any) -> list[str]:
    """Listen to what is applied from now on."""
    seen: list[str] = []
    apply = one.replica.machine.apply

    def listening(index: int, term: int, entry: bytes) -> Any:
        seen.extend(type(command).__name__ for command in c.decode_entry(entry).commands)
        return apply(index, term, entry)

    one.replica.machine.apply = listening
    return seen


# --- through the API


async def test_a_large_document_is_submitted(replica: Any) -> None:
    seen = commands_of(replica)
    answer = await replica.post("/v1/workflows", document(priority=70), headers=keyed("k"))
    assert answer.status == 201
    workflow = answer.json["id"]
    shown = (await replica.get(f"/v1/workflows/{workflow}")).json
    counts = {"total": COUNT, "ready": COUNT // 5, "waiting": COUNT - COUNT // 5}
    assert shown["tasks"] == {**shown["tasks"], **counts}
    assert (shown["priority"], shown["levels"]) == (70, 5)
    listed = (await replica.get(f"/v1/workflows/{workflow}/tasks?limit=10000")).json["tasks"]
    assert [task["id"] for task in listed] == [f"t{n}" for n in range(COUNT)]
    again = await replica.post("/v1/workflows", document(priority=70), headers=keyed("k"))
    assert (again.status, again.json["id"]) == (201, workflow)
    other = await replica.post("/v1/workflows", document(), headers=keyed("k"))
    assert (other.status, other.word) == (409, "request-mismatch")
    assert "AddTasks" in seen and "SubmitWorkflow" not in seen
    assert (await replica.get("/v1/ledger/verify")).json["ok"]


async def test_an_idempotency_key_means_the_same_on_both_paths(replica: Any, monkeypatch: Any) -> None:
    """The limit from which on a document is a large one may differ between a request and its repetition."""
    first = await replica.post("/v1/workflows", document(), headers=keyed("k"))
    second = await replica.post("/v1/workflows", document(), headers=keyed("k"))
    monkeypatch.setattr("raftflow.api.routes.workflows.OFF_LOOP_BYTES", 10**9)
    third = await replica.post("/v1/workflows", document(), headers=keyed("k"))
    assert first.json["id"] == second.json["id"] == third.json["id"]


async def test_faults_of_a_large_document_are_named(replica: Any) -> None:
    tasks = document()["tasks"]
    tasks[3]["needs"] = ["nobody"]
    tasks[4]["retrys"] = 1
    answer = await replica.post("/v1/workflows", {"name": "w", "tasks": tasks})
    assert (answer.status, answer.word) == (400, "invalid-document")
    assert {"tasks[3].needs[0]", "tasks[4].retrys"} <= {error["path"] for error in answer.json["errors"]}
    assert (await replica.get("/v1/workflows")).json["workflows"] == []


@pytest.mark.parametrize("raw", [b"[" * 100_000, b"{" + b" " * 40_000, b'{"a": 1e400}' + b" " * 40_000])
async def test_invalid_large_documents_are_refused(replica: Any, raw: bytes) -> None:
    answer = await replica.post("/v1/workflows", raw=raw)
    assert (answer.status, answer.word) == (400, "invalid-document")


async def test_limits_of_a_large_document_are_named(replica: Any, monkeypatch: Any) -> None:
    answer = await replica.post("/v1/workflows", document(limits.TASKS_PER_WORKFLOW_MAX + 1))
    assert (answer.status, answer.word, answer.json["limit"]) == (413, "too-large", limits.TASKS_PER_WORKFLOW_MAX)
    monkeypatch.setattr(limits, "LIVE_TASKS_MAX", COUNT - 1)
    answer = await replica.post("/v1/workflows", document())
    assert (answer.status, answer.word, answer.json["limit"]) == (413, "too-large", COUNT - 1)


async def test_the_same_large_submission_twice_at_once(replica: Any) -> None:
    seen = commands_of(replica)
    answers = await asyncio.gather(
        *(replica.post("/v1/workflows", document(), headers=keyed(key)) for key in ("k", "k", "other"))
    )
    assert [answer.status for answer in answers] == [201] * 3
    assert answers[0].json["id"] == answers[1].json["id"] != answers[2].json["id"]
    assert seen.count("BeginWorkflow") == 2


async def test_the_number_of_large_submissions_is_bounded(replica: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(large_submissions, "SUBMISSIONS_MAX", 0)
    answer = await replica.post("/v1/workflows", document())
    assert (answer.status, answer.word) == (429, "queue-full")
    assert (await replica.post("/v1/workflows", document(2))).status == 201


async def leave(one: Any, headers: dict[str, str]) -> None:
    """Ask, and hang up once the first piece is in the log; then let it go on."""
    gate = asyncio.Event()
    submit = one.replica.log.submit

    async def held(entry: bytes, timeout_s: float) -> Any:
        if any(isinstance(command, c.AddTasks) for command in c.decode_entry(entry).commands):
            await gate.wait()
        return await submit(entry, timeout_s)

    one.replica.log.submit = held
    session = aiohttp.ClientSession()
    sent = {"Content-Type": "application/json", **headers}
    asking = asyncio.create_task(
        session.post(f"{one.url}/v1/workflows", data=msgspec.json.encode(document()), headers=sent)
    )
    await one.until(lambda: one.replica.machine.state.uploads)
    asking.cancel()
    await session.close()
    await one.until(lambda: not any(c.transport is not None for c in one.server._runner.server.connections))
    gate.set()
    one.replica.log.submit = submit


async def test_without_a_key_a_large_submission_ends_with_its_client(replica: Any) -> None:
    await leave(replica, {})
    await replica.until(lambda: not replica.replica.machine.state.uploads)
    assert replica.replica.machine.state.workflows == {}


async def test_with_a_key_a_large_submission_continues_and_the_next_request_gets_the_answer(replica: Any) -> None:
    seen = commands_of(replica)
    await leave(replica, keyed("k"))
    answer = await replica.post("/v1/workflows", document(), headers=keyed("k"))
    assert answer.status == 201
    assert list(replica.replica.machine.state.workflows) == [answer.json["id"]]
    assert seen.count("BeginWorkflow") == 1


async def test_leadership_that_returns_while_a_large_document_is_read(replica: Any) -> None:
    """The request waits for a leader, and begins anew."""
    submit = replica.replica.log.submit
    lost: list[int] = []

    async def losing(entry: bytes, timeout_s: float) -> Any:
        if not lost and b"workflow.add" in entry:
            lost.append(1)
            replica.replica.log.lose_leadership()
            asyncio.get_running_loop().call_later(0.05, replica.replica.log.gain_leadership)
        return await submit(entry, timeout_s)

    replica.replica.log.submit = losing
    answer = await replica.post("/v1/workflows", document(), headers=keyed("k"))
    assert (answer.status, lost) == (201, [1])
    await replica.until(lambda: not replica.replica.machine.state.uploads)
    assert len(replica.replica.machine.state.workflows) == 1


async def test_leadership_lost_while_a_large_document_is_read(replica: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("raftflow.api.dispatch.leader_wait.LEADER_WAIT_S", 0.0)
    read = DocumentReader.pieces_of

    async def slow(self: Any, *given: Any) -> Any:
        replica.replica.log.lose_leadership()
        return await read(self, *given)

    monkeypatch.setattr(DocumentReader, "pieces_of", slow)
    answer = await replica.post("/v1/workflows", document())
    assert (answer.status, answer.word) == (503, "no-leader")


async def test_a_process_that_dies_is_replaced(replica: Any) -> None:
    reader = replica.server._runner.app[large_submissions.KEY].reader
    assert (await replica.post("/v1/workflows", document())).status == 201
    pid = reader.pid
    os.kill(pid, signal.SIGSTOP)
    asking = asyncio.create_task(replica.post("/v1/workflows", document()))
    await replica.until(reader._turn.locked)
    os.kill(pid, signal.SIGKILL)
    answer = await asking
    assert (answer.status, answer.word) == (429, "queue-full")
    assert (await replica.post("/v1/workflows", document())).status == 201
    assert reader.pid not in {None, pid}
    pid = reader.pid
    await replica.stop()
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- the process


@pytest.fixture
async def reader() -> AsyncIterator[DocumentReader]:
    made = DocumentReader()
    yield made
    await made.close()


BODY = msgspec.json.encode(document(20))


async def test_the_document_process_is_kept_and_ends_when_idle(reader: DocumentReader) -> None:
    assert isinstance(await reader.pieces_of(BODY, "r", {}), WorkflowSubmission)
    pid = reader.pid
    assert pid is not None
    assert isinstance(await reader.pieces_of(BODY, "r", {"true": 7}), WorkflowSubmission)
    assert reader.pid == pid
    reader._idle_s = 0.0
    assert isinstance(await reader.pieces_of(b"{}", "r", {}), DocumentFault)
    async with asyncio.timeout(10):
        while reader.pid is not None or alive(pid):  # noqa: ASYNC110 - the process tells nobody
            await asyncio.sleep(0.01)
    reader._idle_s = 60.0
    assert isinstance(await reader.pieces_of(BODY, "r", {}), WorkflowSubmission)


async def test_a_document_process_that_died_meanwhile_is_replaced_at_once(reader: DocumentReader) -> None:
    await reader.pieces_of(BODY, "r", {})
    process = reader._process
    assert process is not None
    process.kill()
    await process.wait()
    assert isinstance(await reader.pieces_of(BODY, "r", {}), WorkflowSubmission)


async def test_a_document_read_that_takes_too_long_or_is_cancelled_ends_the_process(reader: DocumentReader) -> None:
    await reader.pieces_of(BODY, "r", {})
    pid = reader.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    reader._read_s = 0.05
    with pytest.raises(ReaderFailedError):
        await reader.pieces_of(BODY, "r", {})
    assert not alive(pid)
    reader._read_s = 60.0
    asking = asyncio.create_task(reader.pieces_of(msgspec.json.encode(document(50_000)), "r", {}))
    async with asyncio.timeout(10):
        while reader.pid is None:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
    pid = reader.pid
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not alive(pid)
    assert isinstance(await reader.pieces_of(BODY, "r", {}), WorkflowSubmission)


async def test_a_document_process_that_cannot_start_is_reported(reader: DocumentReader, monkeypatch: Any) -> None:
    monkeypatch.setattr(helpers.sys, "executable", "/nowhere/python")
    with pytest.raises(ReaderFailedError):
        await reader.pieces_of(BODY, "r", {})
    await reader.close()
    with pytest.raises(ReaderFailedError, match="stopping"):
        await reader.pieces_of(BODY, "r", {})


def test_the_document_worker_answers_in_pieces_or_whole() -> None:
    request = ReadRequest(BODY, "r", {"true": 5_000})
    head, *pieces = document_worker.answer(request)
    assert isinstance(head, SubmissionHeader) and head.pieces == len(pieces) == 1
    assert (head.submission.tasks, head.submission.needs, head.submission.path) == (20, 16, (0, 1, 2, 3, 4))
    tasks = msgspec.msgpack.decode(pieces[0].tasks, type=tuple[c.TaskPart, ...])
    assert max(task.rank for task in tasks) == 25_000, "by what was learnt"


def test_faults_found_after_reading_a_large_document_are_named(monkeypatch: Any) -> None:
    def deep(_document: object) -> Any:
        raise RecursionError

    monkeypatch.setattr(document_worker, "normalize", deep)
    assert list(document_worker.answer(ReadRequest(b"{}", "", {}))) == [
        DocumentFault("the workflow document is nested too deeply")
    ]

    def large(_document: object) -> Any:
        task = c.TaskSpec(id="a", program=CommandLine(("x",)), retries=2**70)
        return c.WorkflowSpec(name="w", tasks=(task,))

    monkeypatch.setattr(document_worker, "normalize", large)
    (fault,) = document_worker.answer(ReadRequest(b"{}", "", {}))
    assert isinstance(fault, DocumentFault) and "cannot be stored" in fault.message
