"""Snapshots through the API: taken from the leader or a follower, read piece by piece, closed when nobody reads."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import msgspec

from raftflow.client import AsyncClient
from raftflow.coordinator import snapshots
from raftflow.domain.limits import SNAPSHOTS_OPEN_MAX
from raftflow.recovery.cluster_snapshot import ClusterSnapshotWriter, SnapshotLabel
from raftflow.recovery.replay import replay_to
from raftflow.recovery.verification import verify_snapshot

WORK = {"id": "a", "command": ["true"]}


async def fetch(url: str, path: Path, *, stale: bool = False) -> SnapshotLabel:
    async with AsyncClient([url], environ={}) as client:
        taken = await client.take_snapshot(url if stale else None, stale=stale)
        with ClusterSnapshotWriter(path, SnapshotLabel.of(taken)) as writer:
            offset = 0
            while piece := await client.read_snapshot(taken, offset):
                writer.write(piece)
                offset += len(piece)
            return writer.finish()


async def test_a_snapshot_holds_what_was_acknowledged_before(trio: Any, tmp_path: Path) -> None:
    """Any replica is asked; the leader's snapshot comes."""
    cluster = await trio()
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    await leader.submit(WORK)
    label = await fetch(follower.url, tmp_path / "s")
    assert (label.cluster, label.replica) == ("test", leader.config.name)
    assert label.members == ["n1", "n2", "n3"]
    assert label.chain == leader.replica.machine.chain.hex()
    check = verify_snapshot(tmp_path / "s")
    assert (check.ok, check.workflows, check.tasks) == (True, 1, 1)
    assert check.chain == leader.replica.machine.chain.hex()


async def test_a_second_snapshot_of_the_same_state_is_not_written_again(trio: Any, tmp_path: Path) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    await leader.submit(WORK)
    first = await fetch(leader.url, tmp_path / "a")
    second = await fetch(leader.url, tmp_path / "b")
    assert (first.index, first.digest) == (second.index, second.digest)


async def test_a_follower_gives_its_own_with_stale(trio: Any, tmp_path: Path) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    await leader.submit(WORK)
    follower = cluster.followers()[0]
    await follower.until(lambda: follower.replica.machine.tables.workflows)
    label = await fetch(follower.url, tmp_path / "s", stale=True)
    assert label.replica == follower.config.name
    assert verify_snapshot(tmp_path / "s").ok


async def test_a_cluster_without_a_leader_gives_one_with_stale_alone(trio: Any, tmp_path: Path) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    await leader.submit(WORK)
    left, gone = cluster.followers()
    await left.until(lambda: left.replica.machine.tables.workflows)
    await leader.stop()
    await gone.stop()
    assert (await fetch(left.url, tmp_path / "s", stale=True)).replica == left.config.name


async def test_only_so_many_snapshots_are_open_at_a_time(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    await leader.submit(WORK)
    taken = [await leader.get("/v1/snapshot") for _ in range(SNAPSHOTS_OPEN_MAX + 1)]
    assert [answer.status for answer in taken] == [200] * SNAPSHOTS_OPEN_MAX + [409]
    first = taken[0].json
    whole = await leader.get(f"/v1/snapshots/{first['id']}")
    assert len(whole.body) == first["size"]
    assert whole.headers["Content-Type"] == "application/octet-stream"
    assert (await leader.get(f"/v1/snapshots/{first['id']}?offset={first['size']}")).body == b""


async def test_a_snapshot_that_nobody_reads_is_closed(trio: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(snapshots, "IDLE_S", 0.05)
    cluster = await trio()
    leader = await cluster.leader()
    await leader.submit(WORK)
    found = (await leader.get("/v1/snapshot")).json
    await leader.until(lambda: not leader.replica.snapshots._downloads)
    gone = await leader.get(f"/v1/snapshots/{found['id']}")
    assert (gone.status, gone.word) == (404, "not-found")


async def test_a_log_in_memory_has_no_snapshots(one: Any) -> None:
    answer = await one.get("/v1/snapshot")
    assert (answer.status, answer.word) == (409, "conflict")


async def test_a_full_disk_is_told(trio: Any, monkeypatch: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    await leader.submit(WORK)
    store = leader.replica.log.parts.data.store

    async def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write", full)
    answer = await leader.get("/v1/snapshot")
    assert answer.status == 409
    assert "No space left" in answer.json["detail"]
    monkeypatch.undo()
    assert (await leader.get("/v1/snapshot")).status == 200


async def test_the_commands_save_export_and_replay(trio: Any, tmp_path: Path) -> None:
    """Through the command line, in other processes: against a cluster that runs."""
    cluster = await trio()
    leader = await cluster.leader()
    await leader.submit(WORK)

    async def run(*arguments: object) -> tuple[int, str]:
        command = [sys.executable, "-m", "raftflow", *map(str, arguments)]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
        told, _ = await process.communicate()
        return process.returncode or 0, told.decode()

    code, told = await run("snapshot", "save", tmp_path / "s", "--peers", leader.url, "-o", "json")
    assert code == 0, told
    assert msgspec.json.decode(told)["replica"] == leader.config.name
    code, told = await run("audit", "export", tmp_path / "a", "--peers", leader.url, "-o", "json")
    assert code == 0 and msgspec.json.decode(told)["chain"] == leader.replica.machine.chain.hex(), told
    code, told = await run("snapshot", "save", tmp_path / "s", "--replica", "n1", "--peers", leader.url)
    assert code == 2 and "--replica needs --stale" in told
    leader.replica.audit.flush()
    state = replay_to(leader.fs, leader.config.data_dir, leader.replica.machine.applied_index)
    assert (state.digest, state.recorded) == (leader.replica.machine.chain.hex(),) * 2
    assert [workflow.state for workflow in state.workflows] == ["pending"]
