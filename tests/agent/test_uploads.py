"""Output on its way to the log store: in the background, again and again, and never at the cost of an attempt."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.output.output_uploads import OutputUploads
from raftflow.agent.output.store import OutputStore
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import CommandLine
from raftflow.logstore.attempts import Place, read_meta, read_piece
from raftflow.logstore.stores import FolderStore, LogStoreError


class Store:
    """A store that fails or hangs as told."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failures = 0
        self.calls = 0
        self.hang: threading.Event | None = None

    def put(self, key: str, chunks: Iterator[bytes]) -> None:
        self.calls += 1
        if self.hang is not None:
            self.hang.wait(30)
        if self.failures:
            self.failures -= 1
            raise LogStoreError("the store is read-only")
        self.objects[key] = b"".join(chunks)

    def get(self, key: str, offset: int, count: int) -> bytes | None:
        data = self.objects.get(key)
        return None if data is None else data[offset : offset + count]


@pytest.fixture
def output(tmp_path: Path) -> Iterator[OutputStore]:
    work = WorkDirectory(tmp_path / "agent")
    store = OutputStore(work, count_max=100, bytes_max=1 << 20, age_max_s=3_600, output_bytes_max=1 << 20)
    yield store
    store.close()
    work.close()


def begin(output: OutputStore, fence: int) -> None:
    output.began(
        Assignment(
            fence=fence,
            workflow_id="wf-1",
            workflow_name="w",
            task_id="t",
            attempt=1,
            resources={},
            program=CommandLine(("true",)),
        )
    )


def prepare(output: OutputStore, fence: int) -> None:
    """Put a link in place of the output."""
    Path(output.directory(fence)).mkdir()
    Path(output.directory(fence), "stdout").symlink_to("/proc/self/environ")


def write(output: OutputStore, fence: int, data: bytes) -> None:
    begin(output, fence)
    if data:
        folder = Path(output.directory(fence))
        folder.mkdir()
        (folder / "stdout").write_bytes(data)
    output.ended(fence, (len(data), 0), (False, False))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - threads announce nothing
            await asyncio.sleep(0.005)


async def test_a_store_that_fails_is_tried_again(output: OutputStore) -> None:
    store = Store()
    store.failures = 5
    uploads = OutputUploads(store, output, "a", pauses_s=(0.01, 0.02))
    for fence in range(1, 21):
        write(output, fence, b"%d" % fence)
    write(output, 21, b"")
    await until(lambda: not output.unstored())
    assert sorted(store.objects) == sorted(
        f"wf-1/t/1-{n}/{name}" for n in range(1, 21) for name in ("stdout", "meta.json")
    )
    await uploads.close(1)


async def test_a_store_that_hangs_holds_up_nothing(output: OutputStore) -> None:
    store = Store()
    store.hang = threading.Event()
    uploads = OutputUploads(store, output, "a")
    for fence in range(1, 300):
        write(output, fence, b"%d" % fence)  # returns, and old output is removed as ever
    assert len(output.unstored()) == 100
    began_s = asyncio.get_running_loop().time()
    await uploads.close(0.05)
    assert asyncio.get_running_loop().time() - began_s < 5
    assert store.calls <= 4
    store.hang.set()


async def test_what_is_not_stored_yet_is_stored_after_the_next_start(output: OutputStore, tmp_path: Path) -> None:
    write(output, 1, b"one")
    store = Store()
    uploads = OutputUploads(store, output, "a")
    await until(lambda: not output.unstored())
    await uploads.close(1)
    write(output, 2, b"two")
    output.close()
    output._work.close()
    work = WorkDirectory(tmp_path / "agent")
    again = OutputStore(work, count_max=100, bytes_max=1 << 20, age_max_s=3_600, output_bytes_max=1 << 20)
    assert [kept.began.fence for kept in again.unstored()] == [2]
    again.close()
    work.close()


async def test_files_that_somebody_replaced_are_given_up(
    output: OutputStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store()
    uploads = OutputUploads(store, output, "a")
    write(output, 1, b"")
    begin(output, 2)
    prepare(output, 2)
    output.ended(2, (5, 0), (False, False))
    await until(lambda: not output.unstored())
    assert "a symbolic link in place" in caplog.text
    assert store.objects == {}
    await uploads.close(1)


async def test_an_agent_keeps_output_elsewhere(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    agent = start_agent(log_store=f"file://{shared}", output_bytes_max=2_000, name="a7")
    code = "import os; os.write(1, b'h' * 1_500 + b'm' * 5_000 + b't' * 1_500); os.write(2, b'wrong')"
    end = await leader.run(command=["python3", "-c", code])
    place, store = Place("wf-1", "t0", 1, end.fence), FolderStore(str(shared))
    await until(lambda: read_meta(store, place))
    meta = read_meta(store, place)
    assert meta is not None
    assert (meta.agent, meta.streams["stdout"].parts) == ("a7", [(0, 1_000), (7_000, 1_000)])
    assert read_piece(store, place, meta, "stdout", 1_000, 5_000) == (b"t" * 1_000, 7_000, 8_000, True)
    assert read_piece(store, place, meta, "stderr", 0, 5_000) == (b"wrong", 0, 5, False)
    shared.rename(tmp_path / "away")
    for _ in range(3):
        assert (await leader.run(command=["echo", "x"])).outcome == "succeeded"
    assert not agent.done()
