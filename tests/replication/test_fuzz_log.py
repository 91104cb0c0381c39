"""Random schedules over whole clusters: power loss, partitions, lost connections, compaction, slow disks."""

from __future__ import annotations

import asyncio
import random

import pytest
from virtual_cluster import Cluster, run_virtual

from raftflow.replication.raft.rules import Rule
from raftflow.simulation.world.disk import Loss

LOSSES = (Loss.ALL, Loss.ALL, Loss.SOME, Loss.TORN, Loss.NONE)


async def client(cluster: Cluster, rng: random.Random, stop: asyncio.Event) -> None:
    """Submit to whoever might lead, sometimes several at once, and read."""
    while not stop.is_set():
        names = sorted(cluster.logs)
        if names:
            name = (cluster.leader() or rng.choice(names)) if rng.random() < 0.9 else rng.choice(names)
            if rng.random() < 0.2:
                await cluster.read(name, timeout_s=0.5)
            else:
                burst = rng.choice((1, 1, 1, 4, 16))
                timeout_s = rng.choice((0.3, 2.0))
                size = rng.choice((10, 100, 2000))
                await asyncio.gather(*(cluster.put(name, timeout_s, size) for _ in range(burst)))
        await asyncio.sleep(rng.uniform(0.0, 0.05))


async def trouble(cluster: Cluster, rng: random.Random, seconds: float) -> None:
    """Make one fault after the other; a majority need not survive any of them."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        await asyncio.sleep(rng.uniform(0.02, 0.6))
        chance = rng.random()
        names = sorted(cluster.logs)
        down = [name for name in cluster.names if name not in cluster.logs]
        if chance < 0.2 and names:
            cluster.crash(
                (cluster.leader() or rng.choice(names)) if rng.random() < 0.5 else rng.choice(names),
                rng.choice(LOSSES),
            )
        elif chance < 0.3 and names:
            cluster.crash_after(rng.choice(cluster.names), rng.randrange(1, 40), rng.choice(LOSSES))
        elif chance < 0.33:
            loss = rng.choice(LOSSES)
            for name in names:
                cluster.crash(name, loss)
        elif chance < 0.38:
            cluster.slow_disks = {name: rng.uniform(0.02, 0.3) for name in cluster.names if rng.random() < 0.4}
        elif chance < 0.6 and down:
            await cluster.start(rng.choice(down))
        elif chance < 0.7:
            cluster.network.cut(*rng.sample(cluster.names, 2))
        elif chance < 0.75:
            cluster.network.isolate(cluster.leader() or rng.choice(cluster.names))
        elif chance < 0.85:
            cluster.network.heal_all()
        elif chance < 0.9:
            cluster.network.disconnect(*rng.sample(cluster.names, 2))
        elif chance < 0.96 and names:
            cluster.logs[rng.choice(names)].request_snapshot()
        elif names:
            asyncio.ensure_future(cluster.logs[rng.choice(names)].transfer_leadership(None, 1.0))  # noqa: RUF006


class DrawnDelays:
    """How long frames and syncs take in a run, with a drawn share of slow ones."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.slow_share = rng.choice((0.0, 0.0, 0.1, 0.3))

    def frame_s(self) -> float:
        rng = self._rng
        return rng.choice((0.02, 0.05, 0.15)) if rng.random() < self.slow_share else rng.uniform(0.0003, 0.003)

    def sync_s(self) -> float:
        rng = self._rng
        is_slow = rng.random() < 0.05 + self.slow_share / 4
        return rng.uniform(0.01, 0.1) if is_slow else rng.uniform(0.0003, 0.002)


async def scenario(
    seed: int, *, replicas: int = 3, seconds: float = 10.0, rules: frozenset[Rule] = frozenset()
) -> Cluster:
    """Run one seed to its end and return what was seen."""
    rng = random.Random(seed)
    delays = DrawnDelays(rng)
    cluster = Cluster(
        seed,
        replicas=replicas,
        disabled_rules=rules,
        delay=delays.frame_s,
        sync_s=delays.sync_s,
        snapshot_entries=rng.choice((30, 200, 10**6)),
        window_bytes=rng.choice((500, 20_000, 10**7)),
        append_bytes_max=rng.choice((300, 5000, 10**6)),
        snapshot_stall_s=0.5,
    )
    await cluster.start()
    stop = asyncio.Event()
    clients = [asyncio.ensure_future(client(cluster, random.Random(seed * 100 + n), stop)) for n in range(3)]
    await trouble(cluster, rng, seconds)
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
        leader = await cluster.elect()
        await cluster.put(leader)
        if not await cluster.settle():
            cluster.violations.append(f"no rest: {[log.status() for log in cluster.logs.values()]}")
        cluster.check_end()
    await cluster.close()
    return cluster


@pytest.mark.parametrize("seed", range(12))
def test_nothing_acknowledged_is_lost_under_random_faults(seed: int) -> None:
    cluster = run_virtual(scenario(seed), seed)
    assert cluster.violations == []
    assert cluster.acked


@pytest.mark.parametrize("seed", range(100, 103))
def test_five_replicas_under_random_faults(seed: int) -> None:
    cluster = run_virtual(scenario(seed, replicas=5, seconds=6.0), seed)
    assert cluster.violations == []


@pytest.mark.slow
@pytest.mark.parametrize("first", [200, 220])
def test_nothing_is_lost_in_some_more_seeds(first: int) -> None:
    for seed in range(first, first + 20):
        cluster = run_virtual(scenario(seed), seed)
        assert cluster.violations == [], f"seed {seed}"


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "rule", [Rule.NO_TRUNCATION, Rule.COMMIT_VERIFIED, Rule.SYNC_ACKS, Rule.SYNC_VOTES, Rule.SYNC_LEADER]
)
def test_random_schedules_find_a_missing_rule(rule: Rule) -> None:
    for seed in range(300):
        if run_virtual(scenario(seed, rules=frozenset({rule})), seed).violations:
            return
    pytest.fail("no seed showed the difference")


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("replicas", [3, 5])
def test_nothing_is_lost_in_many_seeds(replicas: int) -> None:
    for seed in range(1000, 1300):
        cluster = run_virtual(scenario(seed, replicas=replicas), seed)
        assert cluster.violations == [], f"seed {seed}"
