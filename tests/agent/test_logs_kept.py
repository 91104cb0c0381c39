"""Output over restarts of the agent, and within bounds."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.output import store as output_module
from raftflow.agent.output.log_index import BeginRecord, EndRecord, LogIndex
from raftflow.agent.output.store import OutputStore
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import CommandLine

KILLED = """
import os, sys
os.write(1, b"before the kill \\xe4\\xb8\\xad\\n" * 3)
os.write(2, b"e" * 3_000)
open(sys.argv[1], "w").close()
import time
time.sleep(300)
"""
FUNCTIONS = """
import os, time
def wait(fifo):
    print("from a call", flush=True)
    open(fifo, "w").close()
    time.sleep(300)
"""


@pytest.fixture
def fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "fns_killed.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def test_output_survives_an_orderly_restart(leader: Any, agent_process: Any) -> None:
    first = agent_process()
    said = await leader.run(command=["sh", "-c", "seq 3; echo wrong >&2; exit 3"])
    silent = await leader.run(command=["true"])
    first.signal(signal.SIGTERM)
    assert await first.wait() == 0
    agent_process()
    await leader.until(lambda: len(leader.registrations) == 2)
    piece = await leader.log_of(said.fence, "stdout")
    assert (piece.data, piece.size, piece.truncated, piece.complete) == (b"1\n2\n3\n", 6, False, True)
    assert (await leader.log_of(said.fence, "stderr")).data == b"wrong\n"
    piece = await leader.log_of(silent.fence, "stdout")
    assert (piece.data, piece.complete, piece.error) == (b"", True, ""), "that it wrote nothing is known as well"


@pytest.mark.parametrize("kind", ["command", "python"])
async def test_output_survives_a_kill_in_the_middle_of_an_attempt(
    leader: Any, agent_process: Any, gone: Any, fifo: Path, kind: str
) -> None:
    first = agent_process(output_bytes_max=2_000)
    task = {"python": "fns_killed:wait", "args": [str(fifo)]}
    if kind == "command":
        task = {"command": [sys.executable, "-c", KILLED, str(fifo)]}
    (fence,) = await leader.assign(task)
    await asyncio.to_thread(fifo.read_bytes)
    launchers = first.children()
    first.signal(signal.SIGKILL)
    await first.wait()
    for launcher in launchers:
        await gone(launcher)
    leader.lose_agent()
    agent_process(output_bytes_max=2_000)
    await leader.until(lambda: len(leader.registrations) == 2)
    out = await leader.log_of(fence, "stdout")
    wanted = b"from a call\n" if kind == "python" else "before the kill 中\n".encode() * 3
    assert (out.data, out.size, out.complete, out.error) == (wanted, len(wanted), True, "")
    if kind == "command":
        err = await leader.log_of(fence, "stderr", 1_000)
        assert (err.data, err.offset, err.size, err.truncated) == (b"e" * 1_000, 2_000, 3_000, True)


async def test_output_of_a_program_whose_launcher_was_killed(leader: Any, agent_process: Any, fifo: Path) -> None:
    agent = agent_process()
    (fence,) = await leader.assign({"command": [sys.executable, "-c", KILLED, str(fifo)]})
    await asyncio.to_thread(fifo.read_bytes)
    (launcher,) = agent.children()
    async with asyncio.timeout(15):
        while len((await leader.log_of(fence, "stderr")).data) < 3_000:
            pass
    os.kill(launcher, signal.SIGKILL)
    assert (await leader.end_of(fence)).outcome == "agent_fault"
    out = await leader.log_of(fence, "stdout")
    assert (out.data, out.complete, out.error) == ("before the kill 中\n".encode() * 3, True, "")


def assignment(fence: int, workflow: str = "wf-1") -> Assignment:
    return Assignment(
        fence=fence,
        workflow_id=workflow,
        workflow_name="w",
        task_id="t",
        attempt=1,
        resources={},
        program=CommandLine(("true",)),
    )


@pytest.fixture
def make_store(tmp_path: Path) -> Any:
    made: list[tuple[OutputStore, WorkDirectory]] = []

    def make(**bounds: Any) -> OutputStore:
        while made:
            stop(*made.pop())
        work = WorkDirectory(tmp_path / "agent")
        given = {"count_max": 1_000, "bytes_max": 1 << 20, "age_max_s": 3_600, "output_bytes_max": 10_000, **bounds}
        made.append((OutputStore(work, **given), work))
        return made[-1][0]

    def stop(store: OutputStore, work: WorkDirectory) -> None:
        store.close()
        work.close()

    yield make
    while made:
        stop(*made.pop())


def write(store: OutputStore, fence: int, data: bytes, workflow: str = "wf-1") -> None:
    store.began(assignment(fence, workflow))
    if data:
        folder = Path(store.directory(fence))
        folder.mkdir()
        (folder / "stdout").write_bytes(data)
    store.ended(fence, (len(data), 0), (False, False))


async def test_thousands_of_tiny_logs_are_bounded_in_steps(make_store: Any, tmp_path: Path) -> None:
    store = make_store()
    for fence in range(1, 3_001):
        write(store, fence, b"%d\n" % fence)
    store = make_store()
    assert store.read(3_000, "stdout", 0, 100).data == b"3000\n"
    assert store.read(2_001, "stdout", 0, 100).data == b"2001\n"
    assert store.read(2_000, "stdout", 0, 100) is None
    store = make_store(count_max=10)
    store.prune()
    assert store.read(2_064, "stdout", 0, 100) is None
    assert store.read(2_065, "stdout", 0, 100) is not None, "a bounded part at a time"
    for _ in range(20):
        store.prune()
    assert store.read(2_990, "stdout", 0, 100) is None
    assert store.read(2_991, "stdout", 0, 100).data == b"2991\n"
    assert len(list((tmp_path / "agent" / "attempts").iterdir())) == 10


async def test_output_is_bounded_by_age_and_size_also_over_restarts(
    make_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = 1_000_000_000_000
    monkeypatch.setattr(output_module, "_now_ms", lambda: now_ms)
    store = make_store()
    write(store, 1, b"old")
    now_ms += 3_000_000
    write(store, 2, b"younger")
    store = make_store()
    now_ms += 700_000
    store.prune()
    assert store.read(1, "stdout", 0, 100) is None
    assert store.read(2, "stdout", 0, 100).data == b"younger"
    now_ms -= 86_400_000  # the clock was set back: nothing is kept for longer than it should
    store = make_store(bytes_max=20)
    write(store, 3, b"x" * 15)
    assert store.read(2, "stdout", 0, 100) is None
    now_ms += 3_601_000
    store.prune()
    assert store.read(3, "stdout", 0, 100) is None


async def test_numbers_of_another_cluster_are_not_mixed_up(make_store: Any) -> None:
    store = make_store()
    write(store, 1, b"theirs", "wf-other")
    write(store, 2, b"theirs", "wf-other")
    store = make_store()
    assert store.read(1, "stdout", 0, 100, workflow_id="wf-1") is None
    write(store, 1, b"", "wf-1")
    assert store.read(1, "stdout", 0, 100, workflow_id="wf-1").data == b""
    assert store.read(1, "stdout", 0, 100, workflow_id="wf-other") is None
    assert "1" not in os.listdir(store._root)
    assert store.read(2, "stdout", 0, 100, workflow_id="wf-other").data == b"theirs"


@pytest.mark.parametrize("harm", ["removed", "a link", "a FIFO", "garbage", "cut"])
async def test_an_index_that_somebody_spoiled_costs_logs_and_nothing_else(
    make_store: Any, tmp_path: Path, harm: str
) -> None:
    store = make_store()
    write(store, 1, b"one")
    write(store, 2, b"two")
    store._index.flush()
    index = tmp_path / "agent" / "logs.index"
    data = index.read_bytes()
    index.unlink()
    if harm == "a link":
        (tmp_path / "elsewhere").write_bytes(data)
        index.symlink_to(tmp_path / "elsewhere")
    elif harm == "a FIFO":
        os.mkfifo(index)
    elif harm == "garbage":
        index.write_bytes(b"\xff\n[]\n" + b'["ended",1]\n{"a":1}\n["began",7,"w","t",1,1,"../../etc"]\n' + data)
    elif harm == "cut":
        index.write_bytes(data[:-4])
    store = make_store()
    kept = store.read(1, "stdout", 0, 100)
    assert (kept is not None) == (harm in {"garbage", "cut"})
    assert (index.stat().st_mode & 0o777, index.is_symlink()) == (0o600, False)
    write(store, 3, b"three")
    store = make_store()
    assert store.read(3, "stdout", 0, 100).data == b"three"
    assert (tmp_path / "elsewhere").exists() == (harm == "a link")


async def test_the_index_does_not_grow_for_ever(make_store: Any, tmp_path: Path) -> None:
    store = make_store(count_max=10)
    for fence in range(1, 8_001):
        write(store, fence, b"")
        if fence % 100 == 0:
            store._index.flush()
            store.prune()
    assert (tmp_path / "agent" / "logs.index").stat().st_size < 1 << 20
    assert store.read(8_000, "stdout", 0, 10).complete
    assert store.read(7_000, "stdout", 0, 10) is None


async def test_a_record_cut_by_a_full_disk_does_not_cost_the_next(tmp_path: Path) -> None:
    index = LogIndex(str(tmp_path / "index"))
    index.rewrite([BeginRecord(1, "w", "t", 1, 5)])
    os.write(index._fd, b'\n["ended",1,5,[1,')
    index.add(EndRecord(1, 6, (1, 2), (False, True)))
    index.close()
    assert LogIndex(str(tmp_path / "index")).load() == [
        BeginRecord(1, "w", "t", 1, 5),
        EndRecord(1, 6, (1, 2), (False, True)),
    ]


@pytest.mark.parametrize("harm", ["removed", "a link"])
async def test_a_log_folder_that_is_removed_or_a_link(
    leader: Any, start_agent: Any, tmp_path: Path, harm: str
) -> None:
    agent = start_agent()
    end = await leader.run(command=["echo", "text"])
    attempts = tmp_path / "agent" / "attempts"
    elsewhere = tmp_path / "elsewhere"
    attempts.rename(elsewhere)
    if harm == "a link":
        attempts.symlink_to(elsewhere)
        assert "symbolic link" in (await leader.log_of(end.fence, "stdout")).error
    else:
        piece = await leader.log_of(end.fence, "stdout")
        assert (piece.data, piece.offset, piece.size) == (b"", 5, 5), "nobody waits for it"
    before = set(elsewhere.iterdir())
    await leader.run(command=["echo", "text"])  # this one may fail
    end = await leader.run(command=["echo", "again"])
    assert end.outcome == "succeeded"
    assert (await leader.log_of(end.fence, "stdout")).data == b"again\n"
    assert set(elsewhere.iterdir()) == before, "nothing is written through the link"
    assert not attempts.is_symlink()
    assert not agent.done()
    shutil.rmtree(elsewhere)
