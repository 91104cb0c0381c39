"""Snapshots that a replica saves by itself."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.coordinator.build import build_replica
from raftflow.coordinator.config.loading import load_config
from raftflow.coordinator.config.replica_config import CoordinatorConfig, SavedSnapshots
from raftflow.coordinator.config.values import ConfigError
from raftflow.domain.commands import RegisterBundle
from raftflow.domain.values.code_bundle import BundleFile, digest_of, make_bundle
from raftflow.machine.machine import Machine
from raftflow.recovery import service
from raftflow.recovery.bundle_files import digests_of, folder_beside
from raftflow.recovery.restore import restore_replica
from raftflow.recovery.service import SnapshotService
from raftflow.recovery.verification import verify_snapshot
from raftflow.replication.log import Role
from raftflow.replication.real_files import RealFileSystem

NOW_MS = 1_790_003_600_000


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.ms = NOW_MS + 60_000

    def now_ms(self) -> int:
        return self.ms


@pytest.fixture
async def running(machine: Machine, save: Callable[..., Path], config_of: Any) -> Any:
    """Run a replica that leads alone."""
    config = config_of(names=("n1",))
    fs = RealFileSystem()
    restore_replica(config, save(machine), fs, now_ms=NOW_MS)
    replica = build_replica(config, fs)
    leads = asyncio.Event()
    replica.log.on_role_change(lambda role, _term: leads.set() if role is Role.LEADER else None)
    await replica.start()
    await asyncio.wait_for(leads.wait(), 10)
    yield replica
    await replica.stop()
    fs.close()


def service_of(replica: Any, directory: Path, clock: Clock, **settings: int) -> SnapshotService:
    chosen = SavedSnapshots(**{"every_ms": 3_600_000, "keep": 2, **settings}, directory=directory)
    config: CoordinatorConfig = msgspec.structs.replace(replica.config, snapshot=chosen)
    replica.snapshots._now_ms = clock.now_ms
    return SnapshotService(config, replica.snapshots, partial(digests_of, replica.machine), clock.now_ms)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - no event tells of a file
            await asyncio.sleep(0.005)


def has_more_than(saver: SnapshotService, place: Path, seen: list[str]) -> bool:
    return not {path.name for path in saver._saved(place)} <= set(seen)


async def test_the_newest_snapshots_are_kept(running: Any, tmp_path: Path) -> None:
    clock, place = Clock(), tmp_path / "saved"
    place.mkdir()
    other = place / f"{running.config.cluster_id}.n2.20200101T000000Z.snapshot"
    other.write_text("of another replica")
    seen: list[str] = []
    for _ in range(4):
        saver = service_of(running, place, clock)
        saver.start()
        await until(partial(has_more_than, saver, place, seen))
        await saver.stop()
        saved = saver._saved(place)
        seen += [path.name for path in saved if path.name not in seen]
        assert verify_snapshot(saved[-1]).ok
        os.utime(saved[-1], (clock.ms / 1000, clock.ms / 1000))
        clock.ms += 3_600_000
    (place / f".{seen[0]}.1.partial").write_text("left by a killed process")
    saver._prune(place)
    assert {path.name for path in place.iterdir()} == {*seen[-2:], other.name}
    assert [path.name for path in saver._saved(place)] == seen[-2:]
    assert len(seen) == 4 and other.exists()


async def test_code_bundles_lie_beside_each_snapshot_and_share_the_disk(
    running: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, place = Clock(), tmp_path / "saved"
    contents = [make_bundle([BundleFile("a.py", text)]) for text in (b"1", b"2")]
    kept, missing = map(digest_of, contents)
    await running.bundles.store.put(kept, contents[0])
    commands = [
        RegisterBundle(at_ms=clock.ms, actor="client:test", digest=digest_of(content), size=len(content))
        for content in contents
    ]
    for command in commands:
        await running.submitter.propose(command)
    saver, folders = service_of(running, place, clock), []
    place.mkdir()
    for _ in range(3):
        path = await saver._save(place)
        saver._prune(place)
        clock.ms += 3_600_000
        assert verify_snapshot(path).missing_bundles == [missing]
        folders.append(folder_beside(path))
    assert f"without code bundles, which are missing here: {missing}" in caplog.text
    assert not folders[0].exists(), "the bundles of a snapshot go with it"
    (one,), (other,) = ([*folder.iterdir()] for folder in folders[1:])
    assert one.name == other.name == kept and one.samefile(other)
    (place / f"{running.config.cluster_id}.n1.20200101T000000Z.snapshot.bundles").mkdir()
    saver._prune(place)
    assert {path for path in place.iterdir() if path.is_dir()} == set(folders[1:])
    one.write_bytes(b"damaged")
    assert verify_snapshot(await saver._save(place)).missing_bundles == [missing], "a damaged copy is not linked"


async def test_a_restart_saves_none_before_it_is_due(running: Any, tmp_path: Path) -> None:
    clock, place = Clock(), tmp_path / "saved"
    saver = service_of(running, place, clock)
    assert saver._due_in_s(place) == 0.0
    saver.start()
    await until(lambda: place.exists() and saver._saved(place))
    await saver.stop()
    (saved,) = saver._saved(place)
    os.utime(saved, (clock.ms / 1000, clock.ms / 1000))
    clock.ms += 600_000
    assert saver._due_in_s(place) == 3_000.0


async def test_a_failure_is_told_once_and_tried_again(
    running: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RETRY_S", 0.01)
    place = tmp_path / "saved"
    place.write_text("a file where the folder should be")
    caplog.set_level(logging.INFO, service.__name__)
    saver = service_of(running, place, Clock())
    saver.start()
    await until(lambda: "can be saved" in caplog.text)
    place.unlink()
    await until(lambda: "are saved again" in caplog.text)
    await saver.stop()
    assert caplog.text.count("can be saved") == 1
    assert len(saver._saved(place)) == 1


async def test_nothing_is_saved_unless_it_is_asked_for(running: Any, tmp_path: Path) -> None:
    saver = service_of(running, tmp_path / "saved", Clock(), every_ms=0)
    saver.start()
    assert saver._task is None
    await saver.stop()


def test_the_settings(config_of: Any, tmp_path: Path) -> None:
    config_of()
    file = tmp_path / "n1.toml"
    text = file.read_text()
    file.write_text(text + '[snapshot]\nevery = "1h"\nkeep = 3\ndir = "saved"\n')
    assert load_config(file, environ={}).snapshot == SavedSnapshots(
        every_ms=3_600_000, keep=3, directory=tmp_path / "saved"
    )
    file.write_text(text + '[snapshot]\nevery = "1h"\n')
    with pytest.raises(ConfigError, match=r"snapshot\.dir is missing"):
        load_config(file, environ={})
    assert load_config(file, environ={"RAFTFLOW_SNAPSHOT_DIR": "/x"}).snapshot.directory == Path("/x")
