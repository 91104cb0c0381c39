"""Code bundles on an agent: fetched, unpacked once, shared, and never what a task made of them."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.workdir import code as code_module
from raftflow.agent.workdir.code import CodeCache, CodeFolder
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.agent.workdir.inputs import InputsError, InputsRefusedError, ReplicaUnavailableError
from raftflow.domain.limits import BUNDLE_PIECE_BYTES_MAX
from raftflow.domain.values.code_bundle import BundleFile, digest_of, make_bundle

FILES = [
    BundleFile("main.py", b"import lib.part\n"),
    BundleFile("lib/part.py", b"x = 1\n"),
    BundleFile("run.sh", b"#!", executable=True),
]
BUNDLE = make_bundle(FILES)
DIGEST = digest_of(BUNDLE)


class Source:
    """Replicas with bundles: by name the bytes that each gives, or the error that it raises."""

    def __init__(self, **replicas: bytes | Exception) -> None:
        self.given = replicas or {"n1": BUNDLE}
        self.asked: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def replicas(self) -> list[str]:
        return list(self.given)

    async def code(self, replica: str, digest: str, offset: int, timeout_s: float) -> bytes:
        self.asked.append((replica, offset))
        await self.gate.wait()
        given = self.given[replica]
        if isinstance(given, Exception):
            raise given
        return given[offset : offset + BUNDLE_PIECE_BYTES_MAX]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[WorkDirectory]:
    work = WorkDirectory(tmp_path / "agent")
    yield work
    work.close()


@pytest.fixture
def cache(work: WorkDirectory) -> Iterator[Callable[..., CodeCache]]:
    made: list[CodeCache] = []

    def make(source: Source, bytes_max: int = 1 << 20, patience_s: float = 0.1) -> CodeCache:
        made.append(CodeCache(source, work, bytes_max=bytes_max, patience_s=patience_s))
        return made[-1]

    yield make
    for each in made:
        each.close()


def root_of(folder: CodeFolder) -> Path:
    return Path(folder.path)


def is_there(folder: CodeFolder) -> bool:
    return os.path.lexists(folder.path)


async def was_asked(source: Source) -> None:
    async with asyncio.timeout(5):
        while not source.asked:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


def files_of(folder: CodeFolder) -> dict[str, tuple[bytes, int]]:
    root = Path(folder.path)
    return {
        str(path.relative_to(root)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in root.rglob("*")
        if path.is_file()
    }


UNPACKED = {
    "main.py": (b"import lib.part\n", 0o444),
    "lib/part.py": (b"x = 1\n", 0o444),
    "run.sh": (b"#!", 0o555),
}


async def test_a_bundle_is_unpacked_read_only_and_shared(cache: Any) -> None:
    source = Source()
    made = cache(source)
    assert made.take_ready(DIGEST) is None
    folder = await made.take(DIGEST)
    assert files_of(folder) == UNPACKED
    assert stat.S_IMODE(root_of(folder).stat().st_mode) == 0o555
    assert made.take_ready(DIGEST) is folder
    assert await made.take(DIGEST) is folder
    assert source.asked == [("n1", 0)]


async def test_attempts_at_once_share_one_fetch(cache: Any) -> None:
    source = Source()
    source.gate.clear()
    made = cache(source)
    waiting = [asyncio.ensure_future(made.take(DIGEST)) for _ in range(5)]
    await was_asked(source)
    source.gate.set()
    folders = await asyncio.gather(*waiting)
    assert {id(folder) for folder in folders} == {id(folders[0])}
    assert (folders[0].users, len(source.asked)) == (5, 1)


async def test_a_large_bundle_comes_in_pieces(cache: Any) -> None:
    large = make_bundle([BundleFile("data.py", b"#" * (2 * BUNDLE_PIECE_BYTES_MAX + 7))])
    source = Source(n1=large)
    folder = await cache(source, bytes_max=1 << 30).take(digest_of(large))
    assert (root_of(folder) / "data.py").stat().st_size == 2 * BUNDLE_PIECE_BYTES_MAX + 7
    assert [offset for _, offset in source.asked] == [0, BUNDLE_PIECE_BYTES_MAX, 2 * BUNDLE_PIECE_BYTES_MAX]


async def test_a_replica_with_other_bytes_is_passed_over(cache: Any) -> None:
    source = Source(
        n1=BUNDLE + b"!",
        n2=ReplicaUnavailableError("behind"),
        n3=InputsRefusedError("no"),
        n4=b"x" * (17 << 20),
        n5=BUNDLE,
    )
    folder = await cache(source, patience_s=5).take(DIGEST)
    assert files_of(folder) == UNPACKED


async def test_a_bundle_that_nobody_gives_is_not_the_fault_of_agent_or_task(cache: Any) -> None:
    with pytest.raises(
        InputsError, match=r"no replica gave its code bundle .* n1: what it has is not the bundle"
    ) as told:
        await cache(Source(n1=b"other")).take(DIGEST)
    assert (told.value.own, told.value.over) == (False, True)


async def test_bytes_that_cannot_be_unpacked_are_the_tasks_failure(cache: Any) -> None:
    broken = b"no bundle"
    with pytest.raises(InputsError, match="cannot be unpacked") as told:
        await cache(Source(n1=broken)).take(digest_of(broken))
    assert (told.value.own, told.value.over) == (False, False)


def tamper_content(root: Path) -> None:
    path = root / "main.py"
    path.chmod(0o644)
    os.utime(path)
    path.write_text("evil()\n")


def tamper_with_the_same_size_and_times(root: Path) -> None:
    path = root / "main.py"
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"evil evil evil!\n")
    path.chmod(0o444)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def tamper_by_a_new_file(root: Path) -> None:
    root.chmod(0o755)
    (root / "os.py").write_text("evil()")
    root.chmod(0o555)


def tamper_by_bytecode(root: Path) -> None:
    (root / "lib").chmod(0o755)
    (root / "lib" / "__pycache__").mkdir()
    (root / "lib").chmod(0o555)


def tamper_by_replacement(root: Path) -> None:
    root.rename(root.parent / "away")
    root.mkdir()


def tamper_by_a_link(root: Path) -> None:
    (root / "lib").chmod(0o755)
    (root / "lib" / "part.py").unlink()
    (root / "lib" / "part.py").symlink_to("/etc/passwd")


def remove_it(root: Path) -> None:
    root.rename(root.parent / "gone")


@pytest.mark.parametrize(
    "tamper",
    [
        tamper_content,
        tamper_with_the_same_size_and_times,
        tamper_by_a_new_file,
        tamper_by_bytecode,
        tamper_by_replacement,
        tamper_by_a_link,
        remove_it,
    ],
)
async def test_what_a_task_changed_is_unpacked_again(cache: Any, tamper: Callable[[Path], None]) -> None:
    made = cache(Source())
    used = await made.take(DIGEST)
    tamper(Path(used.path))
    assert made.take_ready(DIGEST) is None
    fresh = await made.take(DIGEST)
    assert fresh.path != used.path
    assert files_of(fresh) == UNPACKED
    assert is_there(used) or tamper is remove_it, "the attempt that runs keeps its folder"
    made.give_back(used)
    assert not is_there(used)
    assert made.take_ready(DIGEST) is fresh


async def test_a_change_while_it_is_unpacked_is_noticed(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile task writes into a file between its creation and its check."""
    write = code_module._write_files
    times = iter((True, False))

    def hostile(path: str, files: list[BundleFile]) -> list[str]:
        folders = write(path, files)
        if next(times, False):
            tamper_content(Path(path))
        return folders

    monkeypatch.setattr(code_module, "_write_files", hostile)
    made = cache(Source())
    with pytest.raises(InputsError, match="was changed while it was unpacked") as told:
        await made.take(DIGEST)
    assert told.value.own
    assert files_of(await made.take(DIGEST)) == UNPACKED


async def test_the_least_recently_used_goes_first_and_none_that_runs(cache: Any) -> None:
    bundles = [make_bundle([BundleFile("a.py", b"%d" % number * 1000)]) for number in range(4)]
    source = Source()
    made = cache(source, bytes_max=2 * len(bundles[0]) + 100)
    folders = []
    for number, bundle in enumerate(bundles[:3]):
        source.given = {"n1": bundle}
        folders.append(await made.take(digest_of(bundle)))
        if number:
            made.give_back(folders[-1])
    assert all(is_there(folder) for folder in folders[::2]), "the one that runs, and the newest"
    assert not is_there(folders[1])
    source.given = {"n1": bundles[3]}
    made.give_back(folders[0])
    await made.take(digest_of(bundles[3]))
    assert [is_there(folder) for folder in folders] == [True, False, False]


async def test_a_full_disk_is_the_agents_fault_and_leaves_nothing(
    cache: Any, work: WorkDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    made = cache(Source())
    with monkeypatch.context() as patch:
        patch.setattr(code_module, "write_all", refuse)
        with pytest.raises(InputsError, match="No space left") as told:
            await made.take(DIGEST)
    assert told.value.own
    assert os.listdir(work.part("code")) == []
    assert files_of(await made.take(DIGEST)) == UNPACKED


async def test_a_take_that_is_cancelled_leaves_nothing(cache: Any, work: WorkDirectory) -> None:
    source = Source()
    source.gate.clear()
    made = cache(source)
    first, second = (asyncio.ensure_future(made.take(DIGEST)) for _ in range(2))
    await was_asked(source)
    first.cancel()
    await asyncio.wait((first,))
    assert os.listdir(work.part("code")) == []
    source.gate.set()
    assert (await second).users == 1


def test_an_agent_begins_with_nothing(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path / "agent")
    left = tmp_path / "agent" / "code" / "left"
    left.mkdir()
    (left / "x.py").write_text("evil()")
    work.close()
    WorkDirectory(tmp_path / "agent").close()
    assert not left.exists()
