"""A real agent at a real replica, over HTTP: what it tells of running attempts, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.attempts import usage as usage_module
from raftflow.agent.config import load_config
from raftflow.agent.exchange import leader as leader_module
from raftflow.agent.main import run_agent
from raftflow.coordinator.config.replica_config import Timing
from raftflow.domain.tasks.states import AgentState

HOLD = "held = bytearray(100 << 20); import time; time.sleep(2)"


@pytest.fixture
async def start_agent(tmp_path: Path) -> AsyncIterator[Callable[..., None]]:
    """Run agents in this event loop."""
    tasks: list[asyncio.Task[int]] = []

    def start(url: str, **settings: Any) -> None:
        flags = {"name": "a1", "peers": [url], "work_dir": str(tmp_path / "agent"), **settings}
        flags.setdefault("resources", {"cpu": 2, "memory": 4096})
        tasks.append(asyncio.ensure_future(run_agent(load_config(None, {}, flags))))

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def shown(one: Any, workflow: str, task: str, true: Callable[[Any], Any]) -> Any:
    """Show a task until it is as the test wants."""
    async with asyncio.timeout(30):
        while not true(view := (await one.get(f"/v1/workflows/{workflow}/tasks/{task}")).json):  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # nothing announces it over HTTP
    return view


async def test_progress_and_memory_of_a_running_task_are_shown(one: Any, start_agent: Any) -> None:
    start_agent(one.url)
    text = f"echo 0.75 > $RAFTFLOW_PROGRESS; exec {sys.executable} -c '{HOLD.replace('2)', '300)')}'"
    workflow = await one.submit({"id": "a", "command": ["sh", "-c", text]})
    view = await shown(one, workflow, "a", lambda view: view["usage"] and view["usage"]["memory_mib"] >= 100)
    assert view["usage"]["progress"] == 0.75


async def test_a_task_that_outgrows_its_memory_runs_again_with_more(
    one: Any, start_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module, "SAMPLE_EVERY_S", 0.2)
    start_agent(one.url)
    task = {"command": [sys.executable, "-c", HOLD], "resources": {"cpu": 1, "memory": "64MiB"}}
    limited = {"id": "b", **task, "memory_max": "80MiB"}
    workflow = await one.submit({"id": "a", **task}, limited, on_failure="continue")
    view = await shown(one, workflow, "a", lambda view: view["state"] in ("succeeded", "failed"))
    assert (view["state"], view["attempt"]) == ("succeeded", 2)
    assert [attempt["outcome"] for attempt in view["history"]] == ["outgrown", "succeeded"]
    view = await shown(one, workflow, "b", lambda view: view["state"] in ("succeeded", "failed"))
    assert (view["state"], view["attempt"]) == ("failed", 2)
    assert "outgrew" in view["detail"]
    assert (await one.get("/v1/ledger/verify")).json["ok"]


async def test_what_an_agent_finished_while_cut_off_counts(
    serve: Any, start_agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is lost meanwhile; its task waits, for there is nobody else. When it returns, nothing is run again."""
    one = await serve(timing=Timing(lease_ms=1_500, poll_wait_ms=200))
    cut = False
    post = leader_module.LeaderClient._post  # the cable

    async def through(client: Any, *args: Any) -> Any:
        if cut:
            raise ConnectionError("cut")
        answer = await post(client, *args)
        if cut:
            raise ConnectionError("cut")
        return answer

    monkeypatch.setattr(leader_module.LeaderClient, "_post", through)
    start_agent(one.url)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    workflow = await one.submit({"id": "a", "command": ["sh", "-c", f'cat {fifo} > "$RAFTFLOW_RESULT"']})
    writing = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)  # the program runs
    cut = True
    os.write(writing, b"42")
    os.close(writing)
    await one.until(lambda: one.replica.machine.state.agents["a1"].state is AgentState.LOST)
    assert (await one.get(f"/v1/workflows/{workflow}/tasks/a")).json["state"] == "ready"
    cut = False
    view = await shown(one, workflow, "a", lambda view: view["state"] == "succeeded")
    assert (view["result"], view["attempt"]) == (42, 1)
    moves = [
        step["event"] if isinstance(step, dict) else step[3]
        for line in (await one.get("/v1/audit?limit=1000")).json["records"]
        for step in line["transitions"]
    ]
    assert moves == ["started", "agent_lost", "offered"]


async def output_of(one: Any, workflow: str, task: str, limit: int = 1 << 18) -> tuple[str, list[int]]:
    """Read an attempt's output as a client does: the text, and how many bytes were missing where some were."""
    text, gaps, at = "", [], 0
    while True:
        path = f"/v1/workflows/{workflow}/tasks/{task}/logs?offset={at}&limit={limit}"
        piece = (await one.get(path)).json
        assert piece["data"] is None, "a piece of text is text"
        text += piece["text"]
        gaps += [piece["skipped"]] * bool(piece["skipped"])
        assert piece["next"] > at or piece["next"] == piece["size"]
        at = piece["next"]
        if piece["complete"] and at == piece["size"]:
            return text, gaps


async def test_pieces_of_output_cut_no_character(one: Any, start_agent: Any) -> None:
    start_agent(one.url)
    seq = {"id": "seq", "command": ["seq", "1", "60000"]}
    zh = {"id": "zh", "command": [sys.executable, "-X", "utf8", "-c", "print('x' + '工作流稳定性' * 30000)"]}
    much = {"id": "much", "command": ["sh", "-c", "yes 稳定性 | head -c 3000000; echo; echo the end"]}
    line = {"id": "line", "command": ["sh", "-c", "head -c 50000000 /dev/zero | tr '\\0' x"]}
    workflow = await one.submit(seq, zh, much, line)
    for name in ("seq", "zh", "much", "line"):
        await shown(one, workflow, name, lambda view: view["state"] == "succeeded")
    assert await output_of(one, workflow, "seq") == ("".join(f"{n}\n" for n in range(1, 60_001)), [])
    assert await output_of(one, workflow, "zh", 100_000) == ("x" + "工作流稳定性" * 30_000 + "\n", [])
    text, (gap,) = await output_of(one, workflow, "much")
    assert len(text.encode()) + gap == 3_000_009
    assert text.startswith("稳定性\n稳定性")
    assert text.endswith("\nthe end\n")
    assert len(text) > 400_000
    text, gaps = await output_of(one, workflow, "line")
    assert (text, gaps) == ("x" * (1 << 20), [50_000_000 - (1 << 20)])
    tiny = (await one.get(f"/v1/workflows/{workflow}/tasks/zh/logs?offset=1&limit=1")).json
    assert (tiny["text"], tiny["next"]) == ("工", 4), "one character always comes whole"
    path = f"/v1/workflows/{workflow}/tasks/zh/logs?since_ms="
    assert [(await one.get(path + since)).json["next"] for since in ("0", "9000000000000")] == [0, 540_002]


async def test_output_of_an_agent_that_is_gone_comes_from_the_log_store(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    one = await serve(log_store=str(shared), timing=Timing(lease_ms=1_500, poll_wait_ms=200))
    settings = {"name": "a1", "peers": [one.url], "work_dir": str(tmp_path / "agent"), "resources": {"cpu": 2}}
    config = load_config(None, {}, {**settings, "log_store": str(shared), "output_bytes_max": 10_000})
    agent = asyncio.ensure_future(run_agent(config))
    workflow = await one.submit(
        {"id": "a", "command": ["seq", "5000"]},
        {"id": "b", "command": ["true"]},
        {"id": "c", "command": ["seq", "3"]},
    )
    for task in ("a", "b", "c"):
        await shown(one, workflow, task, lambda view: view["state"] == "succeeded")
    before = [await output_of(one, workflow, task) for task in ("a", "c")]
    assert before[1] == ("1\n2\n3\n", [])
    async with asyncio.timeout(30):
        while len(list(shared.rglob("meta.json"))) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    agent.cancel()
    await asyncio.gather(agent, return_exceptions=True)
    # It starts again with nothing of what it had.
    (tmp_path / "agent").rename(tmp_path / "away")
    agent = asyncio.ensure_future(run_agent(load_config(None, {}, settings)))
    async with asyncio.timeout(30):
        while (await one.get("/v1/agents/a1")).json["incarnation"] < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    assert [await output_of(one, workflow, task) for task in ("a", "c")] == before
    answer = await one.get(f"/v1/workflows/{workflow}/tasks/b/logs")
    assert (answer.status, answer.word) == (404, "not-found")
    agent.cancel()
    await asyncio.gather(agent, return_exceptions=True)
    # It is not there at all.
    one.replica.machine.state.agents["a1"].state = AgentState.LEFT
    assert [await output_of(one, workflow, task) for task in ("a", "c")] == before
    answer = await one.get(f"/v1/workflows/{workflow}/tasks/b/logs")
    assert (answer.status, answer.word) == (409, "conflict")
    assert "log store has no output" in answer.json["detail"]
    shared.rename(tmp_path / "gone")
    answer = await one.get(f"/v1/workflows/{workflow}/tasks/b/logs")
    assert (answer.status, answer.word) == (503, "log-unavailable")
    hang = threading.Event()
    monkeypatch.setattr(one.replica.stored_logs._store, "get", lambda *_: hang.wait(30) and None)
    monkeypatch.setattr(one.replica.stored_logs, "_timeout_s", 0.05)
    answers = [await one.get(f"/v1/workflows/{workflow}/tasks/b/logs") for _ in range(10)]
    assert {answer.status for answer in answers} == {503}
    assert "8 reads of the log store are under way" in answers[-1].json["detail"]
    hang.set()
