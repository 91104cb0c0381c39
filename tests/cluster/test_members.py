"""Members that change under load, as real processes: nothing acknowledged is lost, nobody waits for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

import pytest

from raftflow.client.errors import ClientError, Refused
from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
FAILOVER_S = 5.0
"""One failover takes well under a second; the machine of the tests may be busy."""


class Load:
    """Submits small workflows one after the other; remembers which were acknowledged and the longest pause."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.acknowledged: list[str] = []
        self.longest_s = 0.0
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        urls = self._cluster.urls
        last = time.monotonic()
        while not self._stop.is_set():
            if self._cluster.urls != urls:
                urls = self._cluster.urls
            try:
                with self._cluster.client(timeout_s=15.0) as client:
                    while not self._stop.is_set() and urls == self._cluster.urls:
                        made = client.submit({"name": "w", "tasks": [{"id": "t", "command": ["true"]}]})
                        self.acknowledged.append(made.id)
                        now = time.monotonic()
                        self.longest_s, last = max(self.longest_s, now - last), now
            except ClientError:
                continue  # not acknowledged: nothing is promised


def check(cluster: LocalCluster, load: Load, names: set[str]) -> None:
    """Every replica shows these members, one state, and everything that was acknowledged."""
    cluster.wait_ready()
    statuses = cluster.wait_equal()
    assert set(statuses) == names
    assert len({status.digest for status in statuses.values()}) == 1
    with cluster.client() as client:
        listed = client.members()
        assert {member.name for member in listed.members if member.voting} == names
        known = {view.id for view in client.workflows()}
    assert set(load.acknowledged) <= known
    assert load.acknowledged
    assert load.longest_s < FAILOVER_S


def wait_for_level(cluster: LocalCluster) -> None:
    """Wait until the leader has raised the feature level: from then on members can change."""
    deadline = time.monotonic() + 30
    with cluster.client() as client:
        url = cluster.url_of(cluster.wait_leader())
        while not any(line.command == "features.raise" for line in client.audit(url).records):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_dead_replica_is_replaced_under_load(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(nodes=3, agents=0)
    wait_for_level(cluster)
    with Load(cluster) as load:
        dead = next(name for name in cluster.replica_names if name != cluster.leader())
        cluster.kill(dead)
        heir = cluster.add_replica()
        cluster.remove_replica(dead)
    check(cluster, load, {name for name in ("n1", "n2", "n3") if name != dead} | {heir})
    # The list outlives the files, which still name the dead one, and the processes.
    for name in cluster.replica_names:
        cluster.stop(name)
    for name in cluster.replica_names:
        cluster.start_replica(name)
    check(cluster, load, set(cluster.replica_names))


def test_three_become_five_and_three_again_under_load(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(nodes=3, agents=0, replica_toml="[limits]\nsnapshot_entries = 200\n")
    wait_for_level(cluster)
    with Load(cluster) as load:
        added = [cluster.add_replica(), cluster.add_replica()]
        assert added == ["n4", "n5"]
        leader = cluster.wait_leader()
        first = next(name for name in ("n1", "n2", "n3") if name != leader)
        cluster.remove_replica(first)
        # The leader itself: it hands over, and the next one carries it out.
        leader = cluster.wait_leader()
        cluster.remove_replica(leader)
    names = {"n1", "n2", "n3", "n4", "n5"} - {first, leader}
    check(cluster, load, names)
    assert cluster.pid_of(min(names)) is not None
    with cluster.client() as client:
        assert client.members().removed == sorted([first, leader])
        with pytest.raises(Refused, match="would be left"):
            client.remove_member(min(names))
        with pytest.raises(Refused, match="never used again"):
            client.add_member(first, "127.0.0.1:1", "http://127.0.0.1:1")
