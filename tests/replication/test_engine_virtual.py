"""`PySyncObjLog` on a virtual clock, where it goes beyond conformance/ and transcripts/: faults, limits, timing."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from virtual_cluster import Cluster, Machine, SimLinks, run_virtual

from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.errors import LogFailedError, NoQuorumError
from raftflow.replication.log import Applied, Rejected, Role, Unknown
from raftflow.replication.messages import wire
from raftflow.replication.storage.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SNAPSHOT_BEGIN = 9
"""The kind of its frame (messages/wire.py)."""


def on_virtual_loop(test: Callable) -> Callable:
    """Run a coroutine test on a virtual loop."""

    def wrapper() -> None:
        run_virtual(test())

    wrapper.__name__ = test.__name__
    wrapper.__doc__ = test.__doc__
    return wrapper


async def started(**settings: object) -> tuple[Cluster, str, list[str]]:
    cluster = Cluster(3, **settings)
    await cluster.start()
    leader = await cluster.elect()
    await cluster.put(leader)
    assert await cluster.settle()
    return cluster, leader, [name for name in cluster.names if name != leader]


async def finish(cluster: Cluster) -> None:
    assert await cluster.settle()
    cluster.check_end()
    assert cluster.violations == []
    await cluster.close()


@on_virtual_loop
async def test_submission_is_refused_where_nobody_leads() -> None:
    cluster, leader, followers = await started()
    assert await cluster.logs[followers[0]].submit(b"x", 1.0) == Rejected("not_leader")
    cluster.network.isolate(followers[0])
    cluster.crash(leader)
    assert await cluster.wait(lambda: cluster.logs[followers[1]].status().leader is None)
    assert await cluster.logs[followers[1]].submit(b"x", 1.0) == Rejected("no_leader")
    await cluster.close()


@on_virtual_loop
async def test_bytes_in_flight_over_the_limit_are_rejected() -> None:
    cluster, leader, _ = await started(queue_bytes_max=3000)
    log = cluster.logs[leader]
    outcomes = await asyncio.gather(*(log.submit(b"%d" % n * 900, 1.0) for n in range(5)))
    assert [type(outcome) for outcome in outcomes] == [Applied] * 3 + [Rejected] * 2
    await finish(cluster)


@on_virtual_loop
async def test_entries_nobody_waits_for_still_count() -> None:
    """A caller whose time is up must not let more and more entries into the log of a leader that cannot commit."""
    cluster, leader, followers = await started(queue_entries_max=10, fallback_share=100.0)
    for name in followers:
        cluster.crash(name)
    log = cluster.logs[leader]
    outcomes = await asyncio.gather(*(log.submit(b"x", 0.1) for _ in range(10)))
    assert set(outcomes) == {Unknown("timeout")}
    assert await log.submit(b"x", 0.1) == Rejected("queue_full")
    await cluster.close()


@on_virtual_loop
async def test_waiters_end_when_the_log_is_closed() -> None:
    cluster, leader, followers = await started(fallback_share=100.0)
    for name in followers:
        cluster.crash(name)
    log = cluster.logs[leader]
    waiting = asyncio.ensure_future(log.submit(b"x", 30.0))
    reading = asyncio.ensure_future(log.read_index(30.0))
    await asyncio.sleep(0.1)
    await log.close()
    await log.close()
    assert await waiting == Unknown("closed")
    with pytest.raises(NoQuorumError, match="closed"):
        await reading
    assert await log.submit(b"x", 1.0) == Rejected("closed")
    with pytest.raises(NoQuorumError):
        await log.read_index(1.0)


@on_virtual_loop
async def test_reads_share_rounds_and_see_what_was_acknowledged() -> None:
    cluster, leader, followers = await started()
    applied = await cluster.put(leader)
    before = cluster.network.frames
    indexes = await asyncio.gather(*(cluster.logs[leader].read_index(1.0) for _ in range(50)))
    assert set(indexes) == {applied.index}
    assert cluster.network.frames - before < 20
    with pytest.raises(NoQuorumError, match="not_leader"):
        await cluster.logs[followers[0]].read_index(1.0)
    await finish(cluster)


@on_virtual_loop
async def test_read_needs_an_answer_to_a_probe_sent_after_it_began() -> None:
    cluster, leader, followers = await started()
    held: list[tuple[str, bytes]] = []

    def hold(source: str, target: str, frame: bytes) -> bool:
        if wire.decode(frame)["type"] == "read_ack" and len(held) < 2:
            held.append((source, frame))
            return True
        return False

    cluster.network.drop = hold
    log = cluster.logs[leader]
    early = asyncio.ensure_future(log.read_index(0.02))
    with pytest.raises(NoQuorumError, match="timeout"):
        await early
    assert len(held) == 2
    cluster.network.drop = lambda source, target, frame: wire.decode(frame)["type"] == "read_ack"
    late = asyncio.ensure_future(log.read_index(0.2))
    await asyncio.sleep(0.01)
    for source, frame in held:
        log.parts.traffic.on_frame(source, frame)
    with pytest.raises(NoQuorumError, match="timeout"):
        await late
    cluster.network.drop = lambda source, target, frame: False
    assert await log.read_index(1.0) >= cluster.top_acked_index
    assert len(followers) == 2
    await finish(cluster)


@on_virtual_loop
async def test_isolated_leader_serves_no_reads() -> None:
    cluster, leader, followers = await started(fallback_share=100.0)
    cluster.network.isolate(leader)
    assert await cluster.wait(lambda: any(cluster.logs[name].status().role is Role.LEADER for name in followers))
    assert cluster.logs[leader].status().role is Role.LEADER
    assert not cluster.logs[leader].status().ready
    with pytest.raises(NoQuorumError):
        await cluster.logs[leader].read_index(1.0)
    await cluster.close()


@on_virtual_loop
async def test_answer_of_a_replica_with_another_term_confirms_nothing() -> None:
    """The old leader still hears one follower that voted for another term already."""
    cluster, leader, followers = await started(fallback_share=100.0)
    other = cluster.logs[followers[0]]
    cluster.network.cut(leader, followers[1])
    other._raft.receive(
        followers[1],
        {"type": "request_vote", "term": other.status().term + 1, "last_log_index": 0, "last_log_term": 0},
    )
    with pytest.raises(NoQuorumError):
        await cluster.logs[leader].read_index(0.1)
    await cluster.close()


@on_virtual_loop
async def test_leadership_is_announced_once_the_machine_is_complete() -> None:
    cluster, leader, followers = await started()
    for _ in range(20):
        await cluster.put(leader)
    seen: list[tuple[str, Role, int, int]] = []
    for name in followers:
        machine = cluster.machines[name]
        cluster.logs[name].on_role_change(
            lambda role, term, name=name, machine=machine: seen.append((name, role, term, len(machine.entries)))
        )
    lost: list[tuple[Role, int]] = []
    cluster.logs[leader].on_role_change(lambda role, term: lost.append((role, term)))
    cluster.network.isolate(leader)
    assert await cluster.wait(lambda: any(role is Role.LEADER for _, role, _, _ in seen))
    assert [count for _, role, _, count in seen if role is Role.LEADER] == [21]
    assert await cluster.wait(lambda: lost)
    assert lost[0][0] is Role.FOLLOWER
    await cluster.close()


@on_virtual_loop
async def test_hand_over_to_a_replica_that_is_away_fails_in_time_and_writes_go_on() -> None:
    cluster, leader, followers = await started()
    cluster.crash(followers[0])
    began = asyncio.get_running_loop().time()
    handing = asyncio.ensure_future(cluster.logs[leader].transfer_leadership(followers[0], 0.5))
    await asyncio.sleep(0.1)
    assert await cluster.logs[leader].submit(b"x", 1.0) == Rejected("not_leader")
    assert not await handing
    assert asyncio.get_running_loop().time() - began < 0.6
    assert isinstance(await cluster.put(leader), Applied)
    await cluster.close()


@on_virtual_loop
async def test_leader_stays_while_its_only_follower_receives_a_snapshot() -> None:
    """The link is so slow that the transfer takes many election timeouts; it breaks once in the middle."""
    cluster, leader, followers = await started(snapshot_stall_s=5.0)
    cluster.crash(followers[0])
    for _ in range(100):
        await cluster.put(leader, size=100_000)
    cluster.logs[leader].request_snapshot()
    assert await cluster.wait(lambda: cluster.logs[leader]._raft.first_index > 50)
    cluster.crash(followers[1])
    chunks = []

    def count(source: str, target: str, frame: bytes) -> bool:
        if frame[1] == 10:
            chunks.append(frame)
        return False

    cluster.network.drop = count
    cluster.network.delay = lambda: 0.02 + 0.1 * bool(chunks)
    await cluster.start(followers[0])
    assert await cluster.wait(lambda: len(chunks) > 15)
    cluster.network.disconnect(leader, followers[0])
    assert await cluster.wait(lambda: cluster.logs[followers[0]].status().snapshot_index > 50, 60.0)
    assert isinstance(await cluster.put(leader), Applied)
    assert cluster.logs[leader].status().term == cluster.logs[followers[0]].status().term
    await cluster.close()


@on_virtual_loop
async def test_a_follower_goes_on_while_it_reads_a_large_snapshot() -> None:
    """Checking and reading takes longer than the leader's patience; both live, nothing is sent twice."""
    cluster, leader, followers = await started(snapshot_stall_s=5.0)
    cluster.crash(followers[0])
    for _ in range(100):
        await cluster.put(leader)
    cluster.logs[leader].request_snapshot()
    assert await cluster.wait(lambda: cluster.logs[leader]._raft.first_index > 50)
    cluster.crash(followers[1])
    began = []

    def count(source: str, target: str, frame: bytes) -> bool:
        if frame[1] == SNAPSHOT_BEGIN:
            began.append(frame)
        return False

    cluster.network.drop = count
    await cluster.start(followers[0])
    log, term = cluster.logs[followers[0]], cluster.logs[leader].status().term
    cluster.disks[followers[0]].delay_s = lambda operation: 12.0 if operation == "work" else 0.0
    read_at: list[float] = []
    prepare = cluster.machines[followers[0]].prepare

    def slowly(pieces: Iterable[bytes]) -> Callable[[], None]:
        read_at.append(asyncio.get_running_loop().time())
        return prepare(pieces)

    cluster.machines[followers[0]].prepare = slowly
    assert await cluster.wait(lambda: log.status().snapshot_index > 50, 60.0)
    assert len(began) == len(read_at) == 1
    assert isinstance(await cluster.put(leader), Applied)
    assert cluster.logs[leader].status().term == log.status().term == term
    await cluster.close()


@on_virtual_loop
async def test_log_is_trimmed_after_the_hook_and_not_if_it_fails() -> None:
    cluster, leader, _ = await started()
    log = cluster.logs[leader]
    calls: list[int] = []

    async def hook() -> None:
        calls.append(log._raft.first_index)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "full")

    log.parts.writer._before_compaction = hook
    for _ in range(20):
        await cluster.put(leader)
    log.request_snapshot()
    assert await cluster.wait(lambda: not log.parts.snapshot_port.writing and calls)
    assert (log._raft.first_index, calls) == (1, [1])
    log.request_snapshot()
    assert await cluster.wait(lambda: log._raft.first_index > 10)
    assert calls == [1, 1]
    await finish(cluster)


@on_virtual_loop
async def test_failing_sync_stops_the_replica_and_the_cluster_goes_on() -> None:
    cluster, leader, followers = await started()
    log = cluster.logs[leader]
    cluster.disks[leader].fail = lambda operation, path: errno.EIO if operation == "sync" else None
    failing = asyncio.ensure_future(log.wait_failed())
    outcome = await cluster.put(leader)
    assert outcome == Unknown("closed")
    error = await failing
    assert isinstance(error, LogFailedError)
    assert "disk" in str(error)
    assert await log.submit(b"x", 1.0) == Rejected("closed")
    assert not log.status().ready
    await log.close()
    del cluster.logs[leader]
    assert await cluster.elect() in followers
    assert isinstance(await cluster.put(cluster.leader()), Applied)
    await finish(cluster)


@on_virtual_loop
async def test_failed_replica_sends_nothing_more() -> None:
    cluster, leader, followers = await started()
    cluster.disks[followers[0]].fail = lambda operation, path: errno.EIO if operation == "sync" else None
    sent: list[str] = []
    await cluster.put(leader)
    await cluster.logs[followers[0]].wait_failed()
    cluster.network.drop = lambda source, target, frame: bool(sent.append(source))
    await cluster.put(leader)
    await asyncio.sleep(2.0)
    assert followers[0] not in sent
    await cluster.close()


@on_virtual_loop
async def test_apply_that_raises_stops_every_replica_and_is_not_repeated() -> None:
    cluster, leader, _ = await started()
    applied: list[str] = []

    def broken(name: str) -> Callable:
        def apply(index: int, term: int, entry: bytes) -> None:
            applied.append(name)
            raise KeyError(entry)

        return apply

    for name in cluster.names:
        cluster.machines[name].apply = broken(name)
    assert await cluster.logs[leader].submit(b"poison", 5.0) == Unknown("closed")
    error = await cluster.logs[leader].wait_failed()
    assert "KeyError" in str(error)
    await asyncio.sleep(3.0)
    assert len(applied) == len(set(applied))
    await cluster.close()


@on_virtual_loop
async def test_snapshot_that_the_machine_refuses_stops_the_follower_unacknowledged() -> None:
    cluster, leader, followers = await started(snapshot_entries=50)
    cluster.crash(followers[0])
    for _ in range(200):
        await cluster.put(leader)
    assert await cluster.wait(lambda: cluster.logs[leader]._raft.first_index > 60)

    def refuse(pieces: Iterable[bytes]) -> None:
        raise ValueError("a format of the future")

    await cluster.start(followers[0])
    cluster.machines[followers[0]].prepare = refuse
    error = await cluster.logs[followers[0]].wait_failed()
    assert "a format of the future" in str(error)
    match = {peer.name: peer.match_index for peer in cluster.logs[leader].status().peers}
    assert match[followers[0]] < 60
    await cluster.close()


@on_virtual_loop
async def test_status_tells_who_leads_and_who_lags() -> None:
    cluster, leader, followers = await started()
    cluster.crash(followers[0])
    for _ in range(10):
        await cluster.put(leader)
    await asyncio.sleep(0.2)
    view = cluster.logs[leader].status()
    assert (view.role, view.leader, view.ready) == (Role.LEADER, leader, True)
    assert view.commit_index == view.applied_index == view.last_index == view.durable_index
    lag = {peer.name: (peer.connected, peer.lag) for peer in view.peers}
    assert lag == {followers[0]: (False, 10), followers[1]: (True, 0)}
    follower = cluster.logs[followers[1]].status()
    assert (follower.role, follower.leader, follower.ready) == (Role.FOLLOWER, leader, True)
    cluster.network.isolate(followers[1])
    await asyncio.sleep(1.0)
    assert not cluster.logs[followers[1]].status().ready
    assert not cluster.logs[leader].status().ready
    await cluster.close()


@on_virtual_loop
async def test_slow_disks_do_not_cost_the_leadership() -> None:
    """Followers show that they hear the leader while their disks are busy for longer than an election takes."""
    cluster, leader, followers = await started(disk_stall_s=2.0)
    term = cluster.logs[leader].status().term
    for name in cluster.names:
        cluster.disks[name].latency = lambda: 0.8
    outcomes = await asyncio.gather(*(cluster.put(leader, timeout_s=20.0) for _ in range(5)))
    assert {type(outcome) for outcome in outcomes} == {Applied}
    assert cluster.logs[leader].status().term == term
    assert len(followers) == 2
    await cluster.close()


@on_virtual_loop
async def test_disk_that_never_answers_costs_the_leadership() -> None:
    cluster, leader, followers = await started()
    cluster.disks[leader].latency = lambda: 1000.0
    asyncio.ensure_future(cluster.put(leader, timeout_s=1.0))  # noqa: RUF006 - its outcome does not matter
    assert await cluster.wait(lambda: cluster.leader() in followers, 5.0)
    assert isinstance(await cluster.put(cluster.leader()), Applied)
    for name in cluster.names:
        cluster.crash(name)


@on_virtual_loop
async def test_garbage_on_a_link_resets_it_and_nothing_else() -> None:
    cluster, leader, followers = await started()
    log = cluster.logs[leader]
    for frame in (b"", b"\0" * 40, b"\x01\xff" + b"\0" * 20, b"x" * 1000):
        log.parts.traffic.on_frame(followers[0], frame)
        assert not cluster.network.connections.get(frozenset((leader, followers[0])))
        assert await cluster.wait(lambda: len(cluster.network.connections) == 3)
    assert isinstance(await cluster.put(leader), Applied)
    await finish(cluster)


@on_virtual_loop
async def test_data_of_another_cluster_is_refused() -> None:
    cluster, _, followers = await started()
    name = followers[0]
    log = cluster.logs.pop(name)
    await log.close()
    await cluster.close()
    config = LogConfig(name=name, members=cluster.names, cluster_id="other", data_dir=Path("/") / name)
    stranger = PySyncObjLog(config, Machine(), SimLinks(cluster.network, name), cluster.disks[name])
    with pytest.raises(LogFailedError, match="belongs to cluster 'test'"):
        await stranger.start()
    await stranger.close()
    assert "belongs to cluster" in str(await stranger.wait_failed())


def test_same_seed_gives_the_same_run() -> None:
    async def run() -> list[object]:
        cluster, leader, _ = await started()
        for _ in range(10):
            await cluster.put(leader)
        cluster.crash(leader)
        await cluster.elect()
        await cluster.start(leader)
        await cluster.settle()
        trace = [cluster.network.frames, sorted(cluster.acked.items()), cluster.leaders]
        trace += [disk.trace for disk in cluster.disks.values()]
        await cluster.close()
        return trace

    assert run_virtual(run(), 5) == run_virtual(run(), 5)


@on_virtual_loop
async def test_backlog_is_applied_in_slices() -> None:
    """A follower with thousands of entries to apply goes on hearing and answering meanwhile."""
    cluster, leader, followers = await started()
    behind = followers[0]
    cluster.crash(behind)
    for _ in range(40):
        await asyncio.gather(*(cluster.put(leader) for _ in range(50)))
    await cluster.start(behind)
    raft = cluster.logs[behind]._raft
    steps: list[int] = []
    tick = raft.tick

    def watched() -> None:
        before = raft.applied_index
        tick()
        steps.append(raft.applied_index - before)

    raft.tick = watched
    await finish(cluster)
    assert sum(steps) > 1900
    assert max(steps) <= 64


@on_virtual_loop
async def test_follower_with_a_full_link_gets_entries_as_it_has_room() -> None:
    cluster, leader, followers = await started(window_bytes=10_000, append_bytes_max=4_000)
    cluster.network.cut(leader, followers[0])
    for _ in range(20):
        await asyncio.gather(*(cluster.put(leader, size=1000) for _ in range(10)))
    most = 0

    def watch(source: str, target: str, frame: bytes) -> bool:
        nonlocal most
        most = max(most, cluster.network.on_the_way.get((leader, followers[0]), 0))
        return False

    cluster.network.drop = watch
    cluster.network.heal_all()
    await finish(cluster)
    assert 4_000 < most < 20_000


@on_virtual_loop
async def test_follower_without_room_for_a_snapshot_does_not_keep_the_leader_busy() -> None:
    cluster, leader, followers = await started(snapshot_entries=50)
    behind = followers[0]
    cluster.crash(behind)
    for _ in range(100):
        await cluster.put(leader, size=1000)
    assert await cluster.wait(lambda: cluster.logs[leader]._raft.first_index > 40)
    await cluster.start(behind)
    disk = cluster.disks[behind]
    disk.fail = lambda operation, path: errno.ENOSPC if "partial" in path.name and operation == "write" else None
    before = cluster.network.frames
    await asyncio.sleep(5.0)
    assert cluster.network.frames - before < 2000
    assert cluster.logs[behind].status().snapshot_index < 40
    disk.fail = lambda operation, path: None
    assert await cluster.settle()
    assert cluster.logs[behind].status().snapshot_index > 40
    await finish(cluster)


@on_virtual_loop
async def test_disk_full_for_a_snapshot_of_its_own_leaves_the_log_untrimmed() -> None:
    cluster, leader, _ = await started(snapshot_entries=50, snapshot_retry_s=2.0)
    disk = cluster.disks[leader]
    disk.fail = lambda operation, path: errno.ENOSPC if "partial" in path.name else None
    for _ in range(100):
        await cluster.put(leader)
    assert cluster.logs[leader]._raft.first_index == 1
    disk.fail = lambda operation, path: None
    await asyncio.sleep(2.0)
    await cluster.put(leader)
    assert await cluster.wait(lambda: cluster.logs[leader]._raft.first_index > 40)
    await finish(cluster)


@on_virtual_loop
async def test_a_follower_acknowledges_an_entry_before_it_applies_the_one_before() -> None:
    """With a quick disk. It learns with an entry that the one before is committed, and applying may take long."""
    cluster = Cluster(3)
    for disk in cluster.disks.values():
        disk.quick_s = 1.0
    await cluster.start()
    leader = await cluster.elect()
    await cluster.put(leader)
    assert await cluster.settle()
    applied = []
    for name in set(cluster.names) - {leader}:
        journal = cluster.logs[name].parts.journal

        def note(_index: int, _entry: bytes, journal: Journal = journal) -> None:
            applied.append((journal.durable_index, journal.last_index))

        cluster.machines[name]._on_apply = note
    for _ in range(5):
        await cluster.put(leader)
    assert await cluster.wait(lambda: len(applied) >= 8)
    assert all(durable == last for durable, last in applied)
    await finish(cluster)
