"""Random schedules with changes of the members among the faults of `test_fuzz_log.py`."""

from __future__ import annotations

import asyncio
import random

import pytest
from member_cluster import MemberCluster, change_members
from test_fuzz_log import DrawnDelays, client, trouble
from virtual_cluster import run_virtual

from raftflow.replication.raft.rules import Rule


async def scenario(
    seed: int, *, replicas: int = 3, seconds: float = 10.0, rules: frozenset[Rule] = frozenset()
) -> MemberCluster:
    """Run one seed to its end and return what was seen."""
    rng = random.Random(seed)
    delays = DrawnDelays(rng)
    cluster = MemberCluster(
        seed,
        replicas=replicas,
        disabled_rules=rules,
        delay=delays.frame_s,
        sync_s=delays.sync_s,
        snapshot_entries=rng.choice((30, 200, 10**6)),
        append_bytes_max=rng.choice((300, 5000, 10**6)),
        snapshot_stall_s=0.5,
    )
    await cluster.start()
    stop = asyncio.Event()
    watch = asyncio.ensure_future(cluster.watch())
    clients = [asyncio.ensure_future(client(cluster, random.Random(seed * 100 + n), stop)) for n in range(3)]
    faults = trouble(cluster, rng, seconds) if rng.random() < 0.8 else asyncio.sleep(seconds)
    await asyncio.gather(faults, change_members(cluster, random.Random(seed * 100 + 50), seconds))
    stop.set()
    delays.slow_share = 0.0
    cluster.slow_disks = {}
    for disk in cluster.disks.values():
        disk.crash_at = None
    cluster.network.heal_all()
    await asyncio.gather(*clients)
    for name in cluster.names:
        if name not in cluster.logs and name not in cluster.failed:
            await cluster.start(name)
    if not cluster.violations:
        if not await cluster.wait(cluster.leader, 20.0):
            cluster.violations.append(f"no leader: {[log.status() for log in cluster.logs.values()]}")
        else:
            await cluster.put(cluster.leader())
            if not await cluster.settle_members():
                cluster.violations.append(f"no rest: {[log.status() for log in cluster.logs.values()]}")
            else:
                cluster.check_members_end()
    watch.cancel()
    await cluster.close()
    return cluster


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_while_members_change(seed: int) -> None:
    cluster = run_virtual(scenario(seed, replicas=3 + seed % 3), seed)
    assert cluster.violations == []
    assert cluster.acked


@pytest.mark.slow
@pytest.mark.parametrize("first", [200, 210])
def test_nothing_is_lost_in_some_more_seeds(first: int) -> None:
    for seed in range(first, first + 10):
        cluster = run_virtual(scenario(seed, replicas=3 + seed % 3), seed)
        assert cluster.violations == [], f"seed {seed}"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("replicas", [3, 4, 5])
def test_nothing_is_lost_in_many_seeds(replicas: int) -> None:
    for seed in range(1000, 1200):
        cluster = run_virtual(scenario(seed, replicas=replicas), seed)
        assert cluster.violations == [], f"seed {seed}"
