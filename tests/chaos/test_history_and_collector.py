"""What a chaos run records: acknowledged writes, attempts, effects and their fences."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.chaos.history import HistoryWriter
from raftflow.chaos.workload import collector as collector_module
from raftflow.chaos.workload.code_bundles import WorkloadCode, make_code
from raftflow.chaos.workload.collector import Collector
from raftflow.chaos.workload.documents import plan_workflow
from raftflow.chaos.workload.tasks import combine


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_history_knows_which_writes_were_acknowledged_after_a_moment(tmp_path: Path) -> None:
    with HistoryWriter(tmp_path / "history") as history:
        early = history.invoke("c1", "submit", {}, is_write=True)
        moment = history.now_s()
        history.ok(early, {"workflow": "w1"})
        assert history.acknowledged_after(moment) is None, "it was invoked before"
        read = history.invoke("c1", "read", {}, is_write=False)
        history.ok(read, {"found": False})
        assert history.wait_acknowledged(moment, 0.01) is None, "a read is not a write"
        late = history.invoke("c2", "submit", {}, is_write=True)
        threading.Timer(0.02, lambda: history.ok(late, {"workflow": "w2"})).start()
        found = history.wait_acknowledged(moment, 10.0)
        assert found is not None
        assert found > moment
        failed = history.invoke("c2", "submit", {}, is_write=True)
        history.fail(failed, "refused")
        assert history.acknowledged == 2
    assert [line["type"] for line in lines_of(tmp_path / "history")] == [
        "invoke", "ok", "invoke", "ok", "invoke", "ok", "invoke", "fail",
    ]  # fmt: skip
    history.write("late")  # ignored: the file is closed


async def tell(path: Path, *events: str, fence: int, end: bool = True, **more: Any) -> list[bytes]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    answers = []
    for event in events:
        word = {"event": event, "workflow": "w", "task": "t", "attempt": 1, "fence": fence, "agent": "a1"} | more
        writer.write(json.dumps(word).encode() + b"\n")
        answers.append(await reader.readline())
    if end:
        writer.close()
        await writer.wait_closed()
    else:
        answers.append(writer)  # type: ignore[arg-type]
    return answers


async def until_written(path: Path, text: str, count: int) -> None:
    def wait() -> None:
        while path.read_text().count(text) < count:
            time.sleep(0.001)

    await asyncio.wait_for(asyncio.to_thread(wait), 30.0)


async def test_collector_refuses_effects_of_an_older_fence(tmp_path: Path) -> None:
    path = tmp_path / "history"
    with HistoryWriter(path) as history:
        collector = Collector(history, tmp_path / "socket")
        await collector.start()
        assert await tell(collector.path, "start", "effect", "end", fence=5) == [b"+\n"] * 3
        assert await tell(collector.path, "effect", fence=4) == [b"-\n"]
        assert await tell(collector.path, "effect", fence=5) == [b"+\n"]
        assert await tell(collector.path, "start", fence=6) == [b"+\n"]
        await until_written(path, '"why"', 2)
        await collector.close()
    lines = lines_of(path)
    assert [line["accepted"] for line in lines if line["type"] == "effect"] == [True, False, True]
    assert [(line["event"], line.get("why")) for line in lines if line["type"] == "attempt"] == [
        ("start", None), ("end", "told"), ("start", None), ("end", "closed"),
    ]  # fmt: skip


async def test_steps_and_children_are_written_as_they_are_told(tmp_path: Path) -> None:
    path = tmp_path / "history"
    with HistoryWriter(path) as history:
        collector = Collector(history, tmp_path / "socket")
        await collector.start()
        assert await tell(collector.path, "ran", "known", fence=5, step="s0", value="5-s0") == [b"+\n"] * 2
        assert await tell(collector.path, "child", fence=5, child="t:c", value=7) == [b"+\n"]
        await collector.close()
    about = {"workflow": "w", "task": "t", "attempt": 1, "fence": 5}
    written = [{key: value for key, value in line.items() if key != "t"} for line in lines_of(path)]
    assert written == [
        {"type": "step", "event": "ran", **about, "step": "s0", "value": "5-s0"},
        {"type": "step", "event": "known", **about, "step": "s0", "value": "5-s0"},
        {"type": "child", **about, "child": "t:c", "value": 7},
    ]


async def test_frozen_attempts_do_not_run_until_they_are_thawed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "THAW_GRACE_S", 0.0)
    path = tmp_path / "history"
    with HistoryWriter(path) as history:
        collector = Collector(history, tmp_path / "socket")
        await collector.start()
        *_, writer = await tell(collector.path, "start", fence=1, end=False)
        assert collector.freeze("a2") == 0
        assert collector.freeze("a1") == 1
        await collector.thaw("a1")
        writer.close()  # type: ignore[attr-defined]
        await until_written(path, '"why":"closed"', 1)
        await collector.close()
    assert [(line["event"], line.get("why")) for line in lines_of(path)] == [
        ("start", None), ("end", "frozen"), ("start", "thawed"), ("end", "closed"),
    ]  # fmt: skip


def results_of(task: dict[str, Any], place: str, inputs: dict[str, int], shift: int = 0) -> Iterator[tuple[str, int]]:
    """Compute what a task and its children return, children first. Its code adds `shift`."""
    arguments = task.get("kwargs") or json.loads(task["command"][-1])
    values = dict(inputs)
    for child in arguments.get("children", ()):
        found = dict(results_of(child, f"{place}:{child['id']}", {}))
        yield from found.items()
        values[child["id"]] = found[f"{place}:{child['id']}"]
    yield place, combine(arguments["salt"] + shift, values)


@pytest.mark.parametrize("code", [None, make_code(5)], ids=["plain", "bundle"])
def test_documents_have_the_results_that_their_tasks_compute(code: WorkloadCode | None) -> None:
    parents = 0
    for seed in range(50):
        planned = plan_workflow("w", random.Random(seed), "socket", code)
        assert planned.document.get("code") == (code and code.digest)
        results: dict[str, int] = {}
        for task in planned.document["tasks"]:
            needed = {need: results[need] for need in task.get("needs", ())}
            results |= results_of(task, task["id"], needed, 0 if code is None else code.shift)
        assert results == {told["id"]: told["expect"] for told in planned.tasks}
        assert all(told.get("parent") == (told["id"].rpartition(":")[0] or None) for told in planned.tasks)
        parents += any("parent" in told for told in planned.tasks)
    assert (parents > 0) == (code is None)
    assert plan_workflow("w", random.Random(1), "") == plan_workflow("w", random.Random(1), "")
