"""Restoring replicas from a snapshot file: equal on all of them, refused where it could do harm."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.coordinator.build import build_replica
from raftflow.coordinator.config.replica_config import CoordinatorConfig
from raftflow.domain.commands import RegisterBundle, encode_entry
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.values.code_bundle import BundleFile, digest_of, make_bundle
from raftflow.machine.machine import Machine
from raftflow.recovery import restore as restoring
from raftflow.recovery.bundle_files import save_beside
from raftflow.recovery.cluster_ids import restored_at_ms, restored_id
from raftflow.recovery.cluster_snapshot import SnapshotFileError
from raftflow.recovery.restore import RestoredReplica, RestoreRefusedError, restore_replica
from raftflow.recovery.verification import verify_snapshot
from raftflow.replication.log import Role
from raftflow.replication.members.identity import DataDir, IdentityError
from raftflow.replication.members.membership import Membership
from raftflow.replication.messages import envelope
from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.repair.repair import StorageOpener
from raftflow.replication.seed import DirectoryTakenError, Seed, seed_data_dir
from raftflow.simulation.world.disk import FaultyFileSystem, Loss, SimulatedCrash

NOW_MS = 1_790_003_600_000
NEW = restored_id("prod", NOW_MS)  # as the folder's `config_of` has it
Save = Callable[..., Path]


def restore(config: CoordinatorConfig, file: Path, now_ms: int = NOW_MS) -> RestoredReplica:
    fs = RealFileSystem()
    try:
        return restore_replica(config, file, fs, now_ms=now_ms)
    finally:
        fs.close()


def test_every_replica_gets_the_same(machine: Machine, save: Save, config_of: Any) -> None:
    file = save(machine)
    made = [restore(config_of(name), file) for name in ("n1", "n2", "n3")]
    assert {each.digest for each in made} == {made[0].digest}
    first = made[0]
    assert (first.cluster, first.origin, first.workflows, first.unfinished) == (NEW, "prod", 1, 1)
    assert first.fence == NOW_MS * 1_000
    snapshots = [sorted((Path(each.data_dir) / "snapshots").iterdir()) for each in made]
    assert len({file.read_bytes() for (file,) in snapshots}) == 1


def test_code_bundles_lie_beside_the_file_and_what_is_missing_is_named(
    machine: Machine, save: Save, config_of: Any, tmp_path: Path
) -> None:
    contents = [make_bundle([BundleFile("a.py", text)]) for text in (b"1", b"2", b"3")]
    kept, damaged, missing = map(digest_of, contents)
    commands = [
        RegisterBundle(at_ms=machine.clock_ms, actor="client:test", digest=digest_of(content), size=len(content))
        for content in contents
    ]
    machine.apply(machine.applied_index + 1, 3, encode_entry(tuple(commands)))
    file = save(machine)
    assert save_beside(file, (kept, damaged), dict(zip((kept, damaged), contents, strict=False)).__getitem__) == 2
    assert save_beside(file, (kept,), {}.__getitem__) == 1, "what is there is not fetched again"
    (tmp_path / f"{file.name}.bundles" / damaged).write_bytes(contents[1][:-1])
    assert verify_snapshot(file).missing_bundles == [damaged, missing]
    made = restore(config_of("n1"), file)
    assert made.missing_bundles == [damaged, missing]
    folder = Path(made.data_dir) / "bundles"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {kept: contents[0]}


async def test_a_restored_replica_serves(machine: Machine, save: Save, config_of: Any) -> None:
    """It is alone here, so that it leads. Its audit goes on from the anchor of the old cluster."""
    config = config_of(names=("n1",))
    done = restore(config, save(machine))
    fs = RealFileSystem()
    replica = build_replica(config, fs)
    leads = asyncio.Event()
    replica.log.on_role_change(lambda role, _term: leads.set() if role is Role.LEADER else None)
    await replica.start()
    await asyncio.wait_for(leads.wait(), 10)
    try:
        tables = replica.machine.tables
        states = [task.state for task in tables.workflows["wf-1"].tasks]
        ready, delayed = TaskState.READY, TaskState.DELAYED
        assert states == [TaskState.SUCCEEDED, delayed, ready, ready, ready]
        assert tables.fence == done.fence
        assert replica.log.status().term > machine.applied_term
        check = await replica.verify_audit()
        assert (check.ok, check.problems, check.anchor_index) == (True, [], done.index - 1)
    finally:
        await replica.stop()
        fs.close()


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        ("prod", "is the cluster that the snapshot comes from"),
        ("prod-2", "does not end with the time"),
        ("prod-20269930T071500Z", "does not end with the time"),
        (restored_id("prod", NOW_MS - 3_600_000), "has a time before"),
        (restored_id("prod", NOW_MS + 3 * 24 * 3_600_000), "more than a day ahead"),
    ],
)
def test_an_id_that_cannot_be_used_is_refused_with_the_one_to_write(
    machine: Machine, save: Save, config_of: Any, cluster: str, why: str
) -> None:
    with pytest.raises(RestoreRefusedError, match=why) as refused:
        restore(config_of(cluster=cluster), save(machine))
    assert f'id = "{NEW}"' in str(refused.value)


def test_a_cluster_that_was_restored_is_restored_again_under_a_later_id(
    machine: Machine, save: Save, config_of: Any
) -> None:
    file = save(machine, "again", cluster=NEW)
    with pytest.raises(RestoreRefusedError, match="has a time before"):
        restore(config_of(cluster=restored_id("prod", NOW_MS - 5_000)), file)
    later = restored_id(NEW, NOW_MS + 60_000)
    assert later == restored_id("prod", NOW_MS + 60_000)
    assert restore(config_of(cluster=later), file).fence == (NOW_MS + 60_000) * 1_000


def test_a_directory_with_anything_in_it_is_refused_and_kept(machine: Machine, save: Save, config_of: Any) -> None:
    file, config = save(machine), config_of()
    config.data_dir.mkdir()
    (config.data_dir / "something").write_text("precious")
    with pytest.raises(RestoreRefusedError, match="is not empty"):
        restore(config, file)
    assert (config.data_dir / "something").read_text() == "precious"
    (config.data_dir / "something").unlink()
    restore(config, file)
    before = sorted(path.name for path in config.data_dir.iterdir())
    with pytest.raises(RestoreRefusedError, match="is not empty"):
        restore(config, file)
    assert sorted(path.name for path in config.data_dir.iterdir()) == before


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    """Another restoration began when the directory was still empty."""
    fs = RealFileSystem()
    lock = fs.lock(tmp_path / "lock")
    seed = Seed(NEW, "n1", Membership.of(["n1"]), 7, 1)
    with pytest.raises(DirectoryTakenError, match="in use"):
        seed_data_dir(fs, tmp_path, seed, iter([b"x"]), lambda _path: None)
    lock.close()
    (tmp_path / "journal").mkdir()
    with pytest.raises(DirectoryTakenError, match="holds journal"):
        seed_data_dir(fs, tmp_path, seed, iter([b"x"]), lambda _path: None)
    fs.close()


def test_a_replica_that_joins_is_not_restored(machine: Machine, save: Save, config_of: Any) -> None:
    joining = msgspec.structs.replace(config_of(), join=True)
    with pytest.raises(RestoreRefusedError, match="join = true"):
        restore(joining, save(machine))


def test_a_damaged_file_leaves_nothing_behind(machine: Machine, save: Save, config_of: Any) -> None:
    file, config = save(machine), config_of()
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(SnapshotFileError, match="cut off"):
        restore(config, file)
    assert not config.data_dir.exists()


def test_an_interruption_leaves_an_empty_directory(
    machine: Machine, save: Save, config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, config = save(machine), config_of()

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(restoring, "seed_audit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        restore(config, file)
    assert list(config.data_dir.iterdir()) == []
    monkeypatch.undo()
    restore(config, file)


def test_a_full_disk_leaves_an_empty_directory(
    machine: Machine, save: Save, config_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, config = save(machine), config_of()

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(restoring, "seed_audit", full)
    with pytest.raises(RestoreRefusedError, match="cannot be written: No space left on device"):
        restore(config, file)
    assert list(config.data_dir.iterdir()) == []


def test_power_may_fail_at_any_step() -> None:
    """Either no replica starts on the directory, or it is whole."""
    seed = Seed(NEW, "n1", Membership.of(["n1", "n2", "n3"]), 41, 5)
    pieces = [b"state" * 50]
    steps = _seed(FaultyFileSystem(), seed, pieces)
    whole = 0
    for crash_at in range(1, steps + 1):
        rng = random.Random(crash_at)
        fs = FaultyFileSystem(keep_trace=False)
        fs.crash_at = crash_at
        with pytest.raises(SimulatedCrash):
            _seed(fs, seed, pieces)
        fs.restart(Loss.NONE if crash_at > steps - 3 else rng.choice(list(Loss)), rng)
        whole += _is_whole_or_unusable(fs, seed, pieces)
    assert whole, "the last steps leave a whole directory"


PLACE = Path("/n1")


def _seed(fs: FaultyFileSystem, seed: Seed, pieces: list[bytes]) -> int:
    seed_data_dir(fs, PLACE, seed, iter(pieces), lambda _path: None)
    return fs.steps


def _is_whole_or_unusable(fs: FaultyFileSystem, seed: Seed, pieces: list[bytes]) -> bool:
    names = fs.list_dir(PLACE) if _exists(fs) else []
    filled = any(fs.list_dir(PLACE / name) for name in ("journal", "snapshots") if name in names)
    if not filled:
        assert "identity" not in names
        return False
    try:
        data = DataDir.open(fs, PLACE, seed.cluster, seed.replica)
    except IdentityError:
        return False
    opener = StorageOpener(
        fs, data, check_command=envelope.check, segment_bytes=1 << 16, clock=lambda: 0.0, members=3
    )
    opened = opener.open()
    assert opened.newest is not None and b"".join(opened.snapshots.read(opened.newest)) == b"".join(pieces)
    assert (opened.journal.getCurrentTerm(), opened.journal.last_index, opened.repair) == (5, 41, None)
    data.close()
    return True


def _exists(fs: FaultyFileSystem) -> bool:
    try:
        fs.list_dir(PLACE)
    except OSError:
        return False
    return True


def test_the_time_of_an_id_comes_back() -> None:
    assert NEW == "prod-20260921T151320Z"
    assert restored_at_ms(NEW) == NOW_MS
    assert restored_id(NEW, NOW_MS + 1_000) == "prod-20260921T151321Z"
    assert restored_at_ms("prod") is None
    assert len(restored_id("x" * 200, NOW_MS)) <= 200
